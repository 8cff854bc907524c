"""What all trainers of nnunet_kd share: numbers from the plans' "kd" block, precision, seed, stock checkpoints."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import radians
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from torch import distributed as dist

from nnunet_kd.config import KDConfig
from nnunet_kd.data.mixing import MixedReference, draw_mixing, mix
from nnunet_kd.inheritance.pairs import CannotInheritError
from nnunet_kd.inheritance.start import best_member, copy_member, inherit, named_member
from nnunet_kd.losses import CompoundSegmentationLoss, focal_loss, lovasz_loss
from nnunet_kd.networks.base import has_lower_outputs
from nnunet_kd.networks.readme import write_readme
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.teaching.peer import freeze_side_outputs
from nnunet_kd.teaching.source import in_float32
from nnunet_kd.utilities.averaging import AveragedWeights
from nnunet_kd.utilities.curves import ProgressLogger
from nnunet_kd.utilities.environment import limit_threads
from nnunet_kd.utilities.errors import UserError, exit_on_user_error
from nnunet_kd.utilities.files import check_writable, write_whole
from nnunet_kd.utilities.nnunet_files import check_plans
from nnunet_kd.utilities.random_state import random_state, seed_generators, set_random_state
from nnunet_kd.utilities.ranks import bare, gather, number_of_ranks, waiting_for_all

AVERAGE, RANDOM = "kd_average", "kd_random"


class nnUNetTrainerKDBase(nnUNetTrainer):
    """nnU-Net's trainer with schedule, optimizer, seed, precision and hard-label loss from the plans."""

    kd: KDConfig
    progress: ProgressLogger
    average: AveragedWeights | None = None
    _initial_weights: tuple[float, ...] = ()
    _has_trained = False
    _resumed: dict[str, Any] | None = None  # this package's entries of a checkpoint that was loaded

    def __new__(cls, plans: dict[str, Any], configuration: str, fold: int | str, *args: Any, **kwargs: Any) -> Any:
        """Refuses a results folder that cannot be written to: nnU-Net 2.8 makes the fold's folder in ``__init__``."""
        if nnUNet_results.is_set():
            model = f"{cls.__name__}__{plans['plans_name']}__{configuration}"
            with exit_on_user_error():
                check_writable(
                    Path(nnUNet_results) / plans["dataset_name"] / model / f"fold_{fold}",
                    "mend its permissions, or set nnUNet_results to another folder",
                )
        return super().__new__(cls)

    def initialize(self) -> None:
        """Reads the ``"kd"`` block, then builds network, optimizer and loss as nnU-Net does."""
        with exit_on_user_error():
            plans = self.plans_manager.plans
            check_plans(plans, f"plans {plans.get('plans_name')}", self.configuration_name)
            self.kd = KDConfig.from_plans(plans)
            if not (self.uses_lower_outputs() and has_lower_outputs(self.configuration_manager.pool_op_kernel_sizes)):
                self.enable_deep_supervision = False
            self.check_configuration()
        limit_threads(self.device)
        schedule = self.kd.schedule
        self.num_epochs = schedule.num_epochs
        self.num_iterations_per_epoch = schedule.iterations_per_epoch
        self.num_val_iterations_per_epoch = schedule.val_iterations_per_epoch
        self.save_every = schedule.save_every
        self.initial_lr = self.kd.optimizer.initial_lr
        self.weight_decay = self.kd.optimizer.weight_decay
        if schedule.seed is not None:
            seed_generators(schedule.seed)
        self.progress = self.logger.local_logger = ProgressLogger()
        super().initialize()
        if schedule.seed is not None and self.local_rank > 0:  # its own batches
            seed_generators(schedule.seed, self.local_rank)
        self._initial_weights = self._fingerprint()

    def uses_lower_outputs(self) -> bool:
        """Whether a loss looks at the lower-resolution outputs, where the network has them."""
        return self.kd.deep_supervision

    def check_configuration(self) -> None:
        """Refuses what this trainer cannot do, before anything is built; raises UserError."""
        if self.kd.augmentation.mixes and self.configuration_manager.batch_size < 2 * number_of_ranks():
            raise UserError(
                "kd.augmentation: mixup and cutmix mix the patches of a batch, but there is one; plan with "
                "--batch_size 2 or more for each GPU, or set both probabilities to 0."
            )

    @property
    def is_student(self) -> bool:
        """Whether the plans are a student's; a trainer without teachers then trains its undistilled twin."""
        return self.plans_manager.plans.get("kd", {}).get("role") == "student"

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """As nnU-Net does; but fold ``all``, which has trained on these cases, as ``schedule.validate_all`` says."""
        mode = self.kd.schedule.validate_all
        wanted = mode == "always" or (mode == "teachers" and not self.is_student)
        wanted = wanted or self.configuration_manager.next_stage_names is not None  # which reads its predictions
        if self.fold == "all" and self._has_trained and not wanted:
            self.print_to_log_file(
                "Fold all has trained on all labeled cases and is not validated on them; nnUNetv2_train ... --val does "
                "so, and kd.schedule.validate_all is the setting."
            )
            return
        super().perform_actual_validation(save_probabilities)

    @property
    def bare_network(self) -> torch.nn.Module:
        """The student without DDP's and torch.compile's wrappers."""
        return bare(self.network)

    def teaching_ensemble(self) -> TeachingEnsemble:
        """The ensemble of the plans, for this configuration and fold."""
        results = Path(nnUNet_results) / self.plans_manager.dataset_name
        return TeachingEnsemble.resolve(self.kd, self.student_space(), results, self.fold)

    def student_space(self) -> StudentSpace:
        """The preprocessed data of this configuration."""
        name = self.plans_manager.dataset_name
        raw = Path(nnUNet_raw) / name if nnUNet_raw.is_set() else None
        return StudentSpace(
            self.plans_manager, self.configuration_name, self.dataset_json, Path(nnUNet_preprocessed) / name, raw
        )

    def run_training(self) -> None:
        """nnU-Net's loop; a full disk and the like end it with one sentence, and the last good checkpoint stays."""
        with exit_on_user_error():
            super().run_training()

    def on_train_start(self) -> None:
        """Gives the student its initial weights, then starts as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        if self.starts_from_teacher() and self.current_epoch == 0:
            with exit_on_user_error():
                self.start_student()
        if self.kd.student.ema > 0:
            self.average = AveragedWeights(self.bare_network, self.kd.student.ema)
            if self._resumed is not None and AVERAGE in self._resumed:
                self.average.resume(self._resumed[AVERAGE])
        super().on_train_start()
        self._has_trained = True

    def starts_from_teacher(self) -> bool:
        """Whether ``kd.student.start`` counts: of a student's twin it does where the plans say so."""
        return self.is_student and self.kd.student.twin_start == "same"

    def start_student(self) -> None:
        """Initial weights as ``kd.student.start`` says; those of ``-pretrained_weights`` stay."""
        start = self.kd.student.start
        if start == "random":
            return
        if self._fingerprint() != self._initial_weights:
            self.print_to_log_file(f"kd.student.start={start} is passed over: other weights were loaded.")
            return
        if start == "best_member":
            member = best_member(self.teaching_ensemble().models)
            copy_member(self.bare_network, member)
            self.print_to_log_file(f"Starting from {member}")
            return
        with waiting_for_all():
            if self.local_rank == 0:
                try:
                    self.inherit_weights()
                except (CannotInheritError, UserError) as error:
                    self.print_to_log_file(f"Starting from random weights, the student cannot inherit: {error}")
        if self.is_ddp:
            for tensor in self.bare_network.state_dict().values():
                dist.broadcast(tensor, 0)

    def inherit_weights(self) -> None:
        """Makes the student a reconstruction of a teacher; raises UserError or CannotInheritError."""
        named, ensemble = self.kd.student.inherit_from, self.teaching_ensemble()
        results = Path(nnUNet_results) / self.plans_manager.dataset_name
        member = named_member(named, results) if named else best_member(ensemble.models)
        training, validation = nnUNetTrainer.get_tr_and_val_datasets(self)
        alone = replace(ensemble, models=(member.model.with_folds([member.fold]),))
        if self.fold != "all" and (seen := alone.seen_by_teachers(validation.identifiers)):
            self.print_to_log_file(
                f"WARNING: the student inherits from a network that was trained on {len(seen)} of "
                f"{len(validation.identifiers)} validation cases of this fold; its validation Dice is optimistic."
            )
        scores = inherit(
            self.bare_network, member, ensemble.student, training, validation, self.device, self.kd.schedule.seed or 0
        )
        self.print_to_log_file(f"Inheriting from {member}. {scores or 'Same architecture: the student is a copy.'}")

    def _fingerprint(self) -> tuple[float, ...]:
        return tuple(float(p.detach().double().sum()) for p in self.network.parameters())

    def configure_optimizers(self):
        """Optimizer and learning-rate schedule named in ``kd.optimizer``."""
        if not self.enable_deep_supervision:
            freeze_side_outputs(self.bare_network)
        return self.make_optimizer(self.network.parameters())

    def make_optimizer(self, parameters: Iterable[torch.nn.Parameter]):
        """An optimizer of these parameters and its learning-rate schedule, as named in ``kd.optimizer``."""
        o = self.kd.optimizer
        if o.name == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                parameters, o.initial_lr, weight_decay=o.weight_decay, momentum=o.momentum, nesterov=o.momentum > 0
            )
        else:
            cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[o.name]
            optimizer = cls(parameters, o.initial_lr, weight_decay=o.weight_decay)
        if o.lr_schedule == "cosine":
            return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.num_epochs)
        exponent = 0.9 if o.lr_schedule == "poly" else 0.0
        return optimizer, PolyLRScheduler(optimizer, o.initial_lr, self.num_epochs, exponent=exponent)

    def mirrors_at_prediction(self) -> bool:
        """Whether ``nnUNetv2_predict`` mirrors: as nnU-Net does, but an undistilled twin as its student does."""
        return self.kd.mirrors_at_prediction(self.is_student)

    def mirrors_patches(self) -> bool:
        """Whether there are mirrored patches: a network that is not mirrored at prediction never sees such images."""
        chosen = self.kd.augmentation.mirroring
        return self.mirrors_at_prediction() if chosen is None else chosen

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """Mirrors and turns patches as far as ``kd.augmentation`` lets it, whether or not prediction mirrors."""
        if self.kd.augmentation.transforms == "DA5":
            theirs = nnUNetTrainerDA5.configure_rotation_dummyDA_mirroring_and_inital_patch_size(self)
        else:
            theirs = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        (least, most), dummy_2d, initial_patch_size, mirror_axes = theirs
        limit = radians(self.kd.augmentation.rotation)
        rotation = max(least, -limit), min(most, limit)
        if not self.mirrors_at_prediction():
            self.inference_allowed_mirroring_axes = None
        if not self.mirrors_patches():
            self.print_to_log_file("Patches are not mirrored; kd.augmentation.mirroring is the setting.")
            mirror_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes

    def get_training_transforms(self, *args, **kwargs):
        """nnU-Net's, or those of its nnUNetTrainerDA5, as ``kd.augmentation`` says."""
        source = nnUNetTrainerDA5 if self.kd.augmentation.transforms == "DA5" else nnUNetTrainer
        return source.get_training_transforms(*args, **kwargs)

    def _build_loss(self):
        loss, h = super()._build_loss(), self.kd.hard_loss
        compound = loss.loss if self.enable_deep_supervision else loss
        if h.name in ("dice_ce", "dice", "ce"):
            compound.weight_dice = h.dice_weight * (h.name != "ce")
            compound.weight_ce = h.other_weight * (h.name != "dice")
            return loss
        focal = partial(focal_loss, gamma=h.focal_gamma, alpha=h.focal_alpha)
        other = lovasz_loss if h.name == "dice_lovasz" else focal
        own = CompoundSegmentationLoss(
            compound.dc, other, h.dice_weight, h.other_weight, self.label_manager.has_regions
        )
        if not self.enable_deep_supervision:
            return own
        loss.loss = own
        return loss

    def on_train_epoch_start(self) -> None:
        """The first time after a checkpoint was loaded, goes on with its random numbers too."""
        super().on_train_epoch_start()
        if self._resumed is not None:
            self._resume_random_numbers(self._resumed.get(RANDOM, ()))
            self._resumed = None

    def _resume_random_numbers(self, states: Sequence[dict[str, Any]]) -> None:
        seed = self.kd.schedule.seed
        if len(states) == number_of_ranks():
            set_random_state(states[self.local_rank])
        elif seed is not None:  # an older checkpoint, or another number of GPUs
            seed_generators(seed, self.local_rank, self.current_epoch)

    def autocast(self) -> AbstractContextManager:
        """Autocast context of ``kd.schedule.precision``."""
        precision = self.kd.schedule.precision
        if precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        if precision == "default" and self.device.type == "cuda":
            return torch.autocast("cuda")
        return nullcontext()

    def train_step(self, batch: dict) -> dict:
        """One optimizer step; the network runs under autocast, the losses in float32.

        Args:
            batch: ``data`` (B, C, *spatial), ``target``: (B, 1, *spatial) or a list, one per output.

        Returns:
            ``loss`` and one entry per loss term, as NumPy scalars.
        """
        move = partial(torch.Tensor.to, device=self.device, non_blocking=True)
        data = move(batch["data"])
        target = [move(t) for t in batch["target"]] if isinstance(batch["target"], list) else move(batch["target"])

        data, target = self.mix_patches(data, target)

        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss, terms = self.training_losses(data, target)

        scaler = self.grad_scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        for optimizer in optimizers:
            if scaler is not None:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 12)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        if self.average is not None:
            self.average.update()
        return {"loss": loss.detach().cpu().numpy(), **{k: v.detach().cpu().numpy() for k, v in terms.items()}}

    def mix_patches(self, data: torch.Tensor, target: Any) -> tuple[torch.Tensor, Any]:
        """The batch, its patches mixed where ``kd.augmentation`` asks for it; in the same way on all ranks.

        nnU-Net's Dice exchanges its sums between the ranks, so they must call it equally often.
        """
        if not self.kd.augmentation.mixes:
            return data, target
        mixing = gather(draw_mixing(self.kd.augmentation, data.ndim - 2))[0]
        return (data, target) if mixing is None else mix(mixing, data, target, self.unlabeled_per_batch())

    def unlabeled_per_batch(self) -> int:
        """Unlabeled cases of a batch, its last ones."""
        return 0

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What takes a step after each batch: the student's optimizer, and those of a subclass."""
        return [self.optimizer]

    def training_losses(self, data: torch.Tensor, target: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Training loss of a batch, and its named terms; here the hard-label loss only.

        Args:
            data: the whole ``data`` of the batch (B, C, *spatial).
            target: reference segmentation, as :meth:`hard_label_loss` takes it.
        """
        with self.autocast():
            output = self.network(data)
        return self.hard_label_loss(in_float32(output), target), {}

    def hard_label_loss(self, output: Any, target: Any) -> torch.Tensor:
        """nnU-Net's loss; of patches that are mixed, the weighted sum of those against both references.

        Args:
            output: logits (B, C, *spatial), or a list of them.
            target: reference segmentation as nnU-Net's loss takes it, or two of them.
        """
        if not isinstance(target, MixedReference):
            return self.loss(output, target)
        first, second = self.loss(output, target.first), self.loss(output, target.second)
        return target.share * first + (1 - target.share) * second

    def on_validation_epoch_start(self) -> None:
        """The averaged weights are validated, where there are any."""
        if self.average is not None:
            self.average.swap()
        super().on_validation_epoch_start()

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Brings the weights of the training back."""
        super().on_validation_epoch_end(val_outputs)
        if self.average is not None:
            self.average.swap()

    def on_train_end(self) -> None:
        """From here on the network has the averaged weights, where there are any; says what prediction needs."""
        super().on_train_end()
        if self.local_rank == 0 and not self.disable_checkpointing:
            network = self.configuration_manager
            folder = Path(self.output_folder_base)
            write_readme(folder, network.network_arch_class_name, network.network_arch_init_kwargs)
        self.progress.finish(self.output_folder)
        if self.average is not None:
            self.average.swap()
            self.average = None

    def save_checkpoint(self, filename: str) -> None:
        """Writes nnU-Net's checkpoint, whole or not at all, with the stock trainer as its ``trainer_name``.

        The plans alone rebuild the network, so ``nnUNetv2_predict`` needs neither this class nor this package. With a
        moving average, its weights are the network's, and those of the training are kept beside them for resuming. So
        are the random numbers of every rank.
        """
        random_states = gather(random_state())
        with nullcontext() if self.average is None else self.average.in_network():
            self._save_checkpoint(filename, random_states)

    def _save_checkpoint(self, filename: str, random_states: list[dict[str, Any]]) -> None:
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        save = super().save_checkpoint

        def write(file: Path) -> None:
            save(str(file))
            checkpoint = load_checkpoint_file(file)
            checkpoint["trainer_name"] = nnUNetTrainer.__name__
            checkpoint.update({RANDOM: random_states, **self.extra_checkpoint_state()})
            torch.save(checkpoint, file)

        write_whole(Path(filename), write)

    def extra_checkpoint_state(self) -> dict[str, Any]:
        """Further entries of the checkpoint."""
        return {} if self.average is None else {AVERAGE: self.average.state()}

    def load_checkpoint(self, filename_or_checkpoint, *args) -> None:
        """Also remembers what this package needs for resuming, until the training goes on."""
        with exit_on_user_error():  # before nnU-Net loads it, and runs what it holds
            checkpoint = load_checkpoint_file(Path(filename_or_checkpoint))
        super().load_checkpoint(filename_or_checkpoint, *args)
        self._resumed = {k: v for k, v in checkpoint.items() if k.startswith("kd_")}
