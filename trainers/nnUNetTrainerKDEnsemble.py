"""Offline distillation of an ensemble from stored soft labels."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunet_kd.trainers.base import nnUNetTrainerKDBase
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from torch import distributed as dist
from torch._dynamo import OptimizedModule

from nnunet_kd.curves import append_curves
from nnunet_kd.data.dataset import SoftLabelDataset, UnlabeledDataset
from nnunet_kd.data.mixed_batches import mix_in, start_workers, unlabeled_share, without_last, without_workers
from nnunet_kd.data.transforms import with_soft_labels
from nnunet_kd.errors import UserError, exit_on_user_error
from nnunet_kd.losses import DistillationLoss, active_terms
from nnunet_kd.softlabels.ensemble import TeachingEnsemble
from nnunet_kd.softlabels.export import Exporter, shard
from nnunet_kd.softlabels.geometry import StudentSpace
from nnunet_kd.teacher_gap import compare_validation
from nnunet_kd.teachers import load_checkpoint_file


class nnUNetTrainerKDEnsemble(nnUNetTrainerKDBase):
    """Trains a student on image, hard label and the ensemble's stored soft label.

    Source: Noothout et al. 2022, Eq. 1 (hard + soft loss, best member first); Hinton et al. 2015 (temperature).
    The hard-label loss stays nnU-Net's ``self.loss``; the distillation terms are ``self.kd_loss``.
    """

    kd_loss: DistillationLoss
    unlabeled: UnlabeledDataset | None = None
    unlabeled_per_batch = 0

    def initialize(self) -> None:
        """Builds the distillation loss and registers its curves."""
        super().initialize()
        weights = self.loss.weight_factors if self.enable_deep_supervision else (1.0,)
        self.kd_loss = DistillationLoss(self.kd.distillation, self.label_manager.has_regions, weights)
        self._register_curves(past_epochs=0)

    def check_configuration(self) -> None:
        """Refuses a student that would learn nothing, and a start from teachers that there are not."""
        if not active_terms(self.kd.distillation) and self.kd.hard_loss.weight == 0:
            raise UserError("kd.distillation: all weights are 0 and kd.hard_loss.weight too; nothing would be learned.")
        if self.kd.student.start == "best_member" and self.kd.ensemble.from_folder is not None:
            raise UserError(
                "kd.student.start: best_member needs teachers, but the soft labels were imported; use random."
            )
        if self.kd.unlabeled.fraction > 0:
            self._check_unlabeled()

    def _check_unlabeled(self) -> None:
        if not active_terms(self.kd.distillation):
            raise UserError(
                "kd.unlabeled.fraction: unlabeled cases enter the soft-label terms only, but all weights of "
                "kd.distillation are 0; set one or set the fraction to 0."
            )
        if self.is_cascaded:
            raise UserError(
                "kd.unlabeled.fraction: unlabeled cases have no segmentation of the previous stage, which a cascaded "
                "configuration needs; set it to 0."
            )

    @property
    def _curves(self) -> list[str]:
        return ["kd_hard", *(f"kd_{n}" for n in active_terms(self.kd.distillation))]

    def _register_curves(self, past_epochs: int) -> None:
        log = self.logger.local_logger.my_fantastic_logging
        for name in self._curves:
            log.setdefault(name, [float("nan")] * past_epochs)

    def load_checkpoint(self, filename_or_checkpoint, *args) -> None:
        """Also accepts checkpoints whose log lacks a term's curve."""
        super().load_checkpoint(filename_or_checkpoint, *args)
        self._register_curves(past_epochs=self.current_epoch)

    def mirrors_at_prediction(self) -> bool:
        """Not by default: the teachers' mirroring is distilled."""
        return self.kd.student.mirroring

    def get_training_transforms(self, *args, **kwargs):
        """nnU-Net's transforms, applied to the soft labels too."""
        cascade = len(self.label_manager.foreground_labels) if self.is_cascaded else 0
        return with_soft_labels(super().get_training_transforms(*args, **kwargs), self.num_input_channels - cascade)

    def get_tr_and_val_datasets(self):
        """Training cases with soft labels, exported first where they are missing; validation cases as they are."""
        training, validation = super().get_tr_and_val_datasets()
        with exit_on_user_error():
            ensemble = self.teaching_ensemble()
            store = ensemble.open_store()
            cases = [*training.identifiers, *self._find_unlabeled(ensemble.student)]
            if missing := store.missing(cases):
                self.print_to_log_file(
                    f"Soft labels of {len(missing)} cases are missing, exporting them to {store.folder}"
                )
            # Shares are cut from all cases: what is missing changes while the other ranks export.
            parts = dist.get_world_size() if self.is_ddp else 1
            mine = shard(cases, parts, self.local_rank)
            Exporter(ensemble, self.device).run(mine, progress=bool(missing) and self.local_rank == 0)
            if self.is_ddp:
                dist.barrier()
            self._describe_teaching(ensemble, training.identifiers, validation.identifiers)
            if self.kd.student.start == "best_member" and self.current_epoch == 0:
                self._start_from_best_member(ensemble)
            if self.unlabeled_per_batch:
                self.unlabeled = UnlabeledDataset(ensemble.student, store)
        return SoftLabelDataset(training, store), validation

    def _find_unlabeled(self, space: StudentSpace) -> list[str]:
        """Unlabeled cases that this training uses, and how many of them are in a batch."""
        fraction, cases = self.kd.unlabeled.fraction, space.unlabeled_cases
        self.unlabeled_per_batch = 0
        if fraction == 0:
            return []
        if not cases:
            self.print_to_log_file(
                f"WARNING: kd.unlabeled.fraction is {fraction}, but {space.unlabeled_folder} holds no case: training "
                "on labeled cases only. Make them with nnUNetv2_kd preprocess-unlabeled."
            )
            return []
        if self.batch_size < 2:
            raise UserError(
                "kd.unlabeled.fraction: a batch of 1 has no room for a labeled and an unlabeled case; plan with "
                "--batch_size 2 or more for each GPU."
            )
        self.unlabeled_per_batch = unlabeled_share(fraction, self.batch_size)
        self.print_to_log_file(
            f"{self.unlabeled_per_batch} of {self.batch_size} cases of a batch are unlabeled, drawn from {len(cases)}"
        )
        return cases

    def get_dataloaders(self):
        """nnU-Net's, with unlabeled cases behind the labeled ones of each training batch where there are any."""
        if self.kd.unlabeled.fraction == 0:
            return super().get_dataloaders()
        with without_workers():
            labeled, validation = (a.data_loader for a in super().get_dataloaders())
        if self.unlabeled is None:
            training = labeled
        else:
            cases = self.batch_size - self.unlabeled_per_batch
            training = mix_in(labeled, self.unlabeled, cases, self.unlabeled_per_batch, self.label_manager)
        return start_workers(training, validation, pin_memory=self.device.type == "cuda")

    def teaching_ensemble(self) -> TeachingEnsemble:
        """The ensemble of the plans, for this configuration and fold."""
        name = self.plans_manager.dataset_name
        raw = Path(nnUNet_raw) / name if nnUNet_raw.is_set() else None
        student = StudentSpace(
            self.plans_manager, self.configuration_name, self.dataset_json, Path(nnUNet_preprocessed) / name, raw
        )
        return TeachingEnsemble.resolve(self.kd, student, Path(nnUNet_results) / name, self.fold)

    def _describe_teaching(self, ensemble: TeachingEnsemble, training: list[str], validation: list[str]) -> None:
        store = ensemble.open_store()
        dice = np.array([store.record(c)["reference_dice"] for c in training], dtype=float)
        self.print_to_log_file(f"Teachers: {ensemble.describe()}")
        self.print_to_log_file(
            f"Soft labels against the reference, mean Dice of {len(training)} training cases: {np.nanmean(dice):.4f}"
        )
        if self.fold != "all" and (seen := ensemble.seen_by_teachers(validation)):
            self.print_to_log_file(
                f"WARNING: teachers were trained on {len(seen)} of {len(validation)} validation cases of this fold; "
                "its "
                "cross-validation Dice is optimistic. Test on other cases, or use ensemble.membership same_fold."
            )

    def _start_from_best_member(self, ensemble: TeachingEnsemble) -> None:
        scores = {}
        for model in ensemble.models:
            for fold in model.folds:
                summary = model.validation_summary(fold)
                if summary is not None:
                    scores[(model, fold)] = summary["foreground_mean"]["Dice"]
        if not scores:
            raise UserError(
                "kd.student.start is best_member, but no teacher has a validation/summary.json; validate them with "
                "nnUNetv2_train ... --val, or use start random."
            )
        model, fold = max(scores, key=lambda k: scores[k])
        file = model.checkpoint_file(fold)
        try:
            self.bare_network.load_state_dict(load_checkpoint_file(file)["network_weights"])
        except RuntimeError as err:
            raise UserError(
                f"kd.student.start is best_member, but {file} has another architecture than the student; plan the "
                "student with "
                "--student same, or use start random."
            ) from err
        self.print_to_log_file(f"Starting from {file} (validation Dice {scores[(model, fold)]:.4f})")

    @property
    def bare_network(self) -> torch.nn.Module:
        """The student without DDP's and torch.compile's wrappers."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def compute_loss(
        self, output: Any, target: Any, data: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Hard-label loss plus the active distillation terms (Noothout et al. 2022, Eq. 1).

        The last ``unlabeled_per_batch`` cases enter the distillation terms only.
        """
        terms = {}
        if self.kd.hard_loss.weight > 0:
            labeled = without_last(self.unlabeled_per_batch, output), without_last(self.unlabeled_per_batch, target)
            terms["hard"] = self.kd.hard_loss.weight * self.loss(*labeled)
        terms |= self.kd_loss(
            output,
            data[:, self.num_input_channels :],
            self.current_epoch / self.num_epochs,
            self.unlabeled_per_batch,
            self.kd.unlabeled.voxel_weight,
        )
        return torch.stack(list(terms.values())).sum(), {f"kd_{k}": v for k, v in terms.items()}

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Logs one value per loss term and epoch, the mean over iterations and ranks."""
        super().on_train_epoch_end(train_outputs)
        for name in self._curves:
            value = float(np.mean([o[name] for o in train_outputs])) if name in train_outputs[0] else 0.0
            if self.is_ddp:
                values: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(values, value)
                value = float(np.mean(values))
            self.logger.log(name, value, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Prints the terms and draws their curves."""
        log = self.logger.local_logger.my_fantastic_logging
        self.print_to_log_file("loss terms", {n: round(log[n][-1], 4) for n in self._curves})
        super().on_epoch_end()
        if self.local_rank == 0:
            append_curves(Path(self.output_folder) / "progress.png", {n: log[n] for n in self._curves})

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation, then a comparison with the teachers that validated the same cases."""
        super().perform_actual_validation(save_probabilities)
        # A student of all cases was validated on its own training cases: no comparison would be fair.
        if self.local_rank != 0 or self.fold == "all" or not self.kd.student.check_teachers:
            return
        summary = Path(self.output_folder) / "validation" / "summary.json"
        try:
            lines = compare_validation(summary, self.teaching_ensemble().models)
        except UserError as error:  # the student is trained and validated: teachers that are gone must not fail it now
            lines = [f"No comparison with the teachers: {error}"]
        for line in lines:
            self.print_to_log_file(line)
