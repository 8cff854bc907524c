"""What the trainers with teachers in memory share: prediction and feature terms, projection heads, resuming."""

from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.data.mixing import MixedReference
from nnunet_kd.losses import FeatureDistillationLoss, active_terms, common_scale
from nnunet_kd.losses.regions import unpack_reference, with_background
from nnunet_kd.losses.term import active_feature_terms
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.feature_taps import FeatureTaps
from nnunet_kd.teachers.fitness import patch_note
from nnunet_kd.teaching.memory import (
    Lesson,
    OnlineTeacher,
    as_channels,
    load_online_teacher,
    networks_of,
    probabilities_of,
)
from nnunet_kd.trainers.student import nnUNetTrainerKDStudent
from nnunet_kd.utilities.errors import UserError, exit_on_user_error

HEADS = "kd_heads"
TEACHER_WEIGHTS = "kd_teacher_weights"


class nnUNetTrainerKDOnline(nnUNetTrainerKDStudent):
    """Frozen teachers in memory see the student's augmented patches; the student imitates predictions and features.

    Teachers, feature losses and their projection heads exist only while training: a validation needs none of them.
    They are no part of ``self.network``; the heads have an optimizer and an entry in the checkpoint of their own.
    """

    online_teachers: tuple[OnlineTeacher, ...] = ()
    feature_losses: tuple[FeatureDistillationLoss, ...] = ()  # one for each teacher
    student_taps: FeatureTaps | None = None
    head_optimizer: torch.optim.Optimizer | None = None
    _called_losses: tuple[nn.Module, ...] = ()
    _lessons: tuple[Lesson, ...] = ()

    def check_configuration(self) -> None:
        """Refuses settings that teachers in memory cannot follow, and a student that nothing would teach to segment."""
        super().check_configuration()
        e, features = self.kd.ensemble, active_feature_terms(self.kd.features)
        if e.from_folder is not None:
            raise UserError(
                f"kd.ensemble.from_folder: {type(self).__name__} needs teacher networks, not probability maps; use "
                "nnUNetTrainerKDEnsemble."
            )
        if e.membership == "out_of_fold":
            raise UserError(
                "kd.ensemble.membership: teachers in memory teach every case, out_of_fold is not possible; use all or "
                "same_fold, or nnUNetTrainerKDEnsemble."
            )
        if self.kd.unlabeled.fraction > 0:
            raise UserError(
                f"kd.unlabeled.fraction: {type(self).__name__} has labeled cases only; set it to 0, or use "
                "nnUNetTrainerKDEnsemble or nnUNetTrainerKDCrossTeaching."
            )
        if not active_terms(self.kd.distillation) and self.kd.hard_loss.weight == 0:
            raise UserError(
                "kd.distillation: all weights are 0 and kd.hard_loss.weight too; features alone teach no segmentation."
            )
        if "similarity" in features and self.configuration_manager.batch_size < 2:
            raise UserError(
                "kd.features.similarity.weight: compares the images of a batch, but there is one; plan with "
                "--batch_size 2 or set the weight to 0."
            )

    @property
    def _curves(self) -> list[str]:
        return [*super()._curves, *(f"kd_{n}" for n in active_feature_terms(self.kd.features))]

    def on_train_start(self) -> None:
        """Loads the teachers, then starts as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        with exit_on_user_error():
            self.load_teachers(self.teaching_ensemble())
        super().on_train_start()

    def get_tr_and_val_datasets(self):
        """nnU-Net's data sets; says who teaches."""
        training, validation = super().get_tr_and_val_datasets()
        with exit_on_user_error():
            self.describe_teachers(self.teaching_ensemble(), validation.identifiers)
        return training, validation

    def load_teachers(self, ensemble: TeachingEnsemble) -> None:
        """Loads the teachers, taps the student and builds the feature losses; must precede the first forward pass.

        Raises:
            UserError: for a teacher that cannot see what the student sees, or layers that make no pair.
        """
        features = self.kd.features if active_feature_terms(self.kd.features) else None
        student = self.bare_network
        self.online_teachers = tuple(
            load_online_teacher(m, f, ensemble.student, student, features, self.device, self._do_i_compile())
            for m, f in networks_of(ensemble.models)
        )
        for note in filter(None, (patch_note(ensemble.student, m) for m in ensemble.models)):
            self.print_to_log_file(note)
        for teacher in self.online_teachers:
            for pair in teacher.pairs:
                self.print_to_log_file(f"Features: student's {pair.student} <- {pair.teacher} of {teacher.name}")
        if features is not None:
            self.student_taps = FeatureTaps(student, [p.student for t in self.online_teachers for p in t.pairs])
            self._build_feature_losses()

    def _build_feature_losses(self) -> None:
        dimensions = len(self.configuration_manager.patch_size)
        losses = [
            FeatureDistillationLoss(self.kd.features, t.channels, dimensions).to(self.device)
            for t in self.online_teachers
        ]
        parameters = [p for loss in losses for p in loss.parameters()]
        if parameters:
            self.head_optimizer, self.head_schedule = self.make_optimizer(parameters)
            self._load_heads(losses)
        self.feature_losses = tuple(losses)
        # Heads are averaged over the ranks by DDP, as the student is, in a wrapper of their own.
        wrap = nn.parallel.DistributedDataParallel
        self._called_losses = tuple(wrap(x) if self.is_ddp and len(x.heads) else x for x in losses)

    def extra_checkpoint_state(self) -> dict[str, Any]:
        """Projection heads and the state of their optimizer, for resuming; never in ``network_weights``."""
        if self.head_optimizer is None:
            return super().extra_checkpoint_state()
        weights = [loss.heads.state_dict() for loss in self.feature_losses]
        heads = {"weights": weights, "optimizer": self.head_optimizer.state_dict()}
        return {**super().extra_checkpoint_state(), HEADS: heads}

    def _load_heads(self, losses: list[FeatureDistillationLoss]) -> None:
        if self._resumed is None or self.head_optimizer is None:
            return
        if HEADS not in self._resumed:
            self.print_to_log_file("WARNING: the checkpoint has no projection heads, they start anew.")
            return
        heads = self._resumed[HEADS]
        try:
            for loss, weights in zip(losses, heads["weights"], strict=True):
                loss.heads.load_state_dict(weights)
            self.head_optimizer.load_state_dict(heads["optimizer"])
        except (RuntimeError, ValueError) as err:
            raise UserError(
                "the projection heads in the checkpoint do not fit kd.features and kd.teachers; continue with the "
                "plans that the training began with, or start anew without --c."
            ) from err

    def on_train_epoch_start(self) -> None:
        """Also sets the heads' learning rate."""
        super().on_train_epoch_start()
        if self.head_optimizer is not None:
            self.head_schedule.step(self.current_epoch)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The student's optimizer, and that of the projection heads."""
        heads = [] if self.head_optimizer is None else [self.head_optimizer]
        return [*super().optimizers(), *heads]

    def run_network(self, images: Tensor) -> Any:
        """The teachers first, while no activation of the student is in memory, in the same autocast."""
        with exit_on_user_error():
            self._lessons = tuple(t.teach(images) for t in self.online_teachers)
        if self.student_taps is None:
            return super().run_network(images)
        with self.student_taps.recording():
            return super().run_network(images)

    def compute_loss(self, output: Any, target: Any, data: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Hard-label loss + prediction terms + feature terms.

        Source: Qin et al. 2021, Eq. 9; Ben Loussaief et al. 2023, Eq. 5.
        """
        sigmoid = self.label_manager.has_regions
        progress = self.current_epoch / self.num_epochs
        terms = {}
        if self.kd.hard_loss.weight > 0:
            terms["hard"] = self.kd.hard_loss.weight * self.hard_label_loss(output, target)
        leading = target.first if isinstance(target, MixedReference) else target
        reference = leading[0] if isinstance(leading, list) else leading
        classes, valid = unpack_reference(reference, self.label_manager.num_segmentation_heads, sigmoid)

        probabilities, inside = self.teacher_probabilities(data)
        weights = self.weigh_teachers(probabilities, classes, valid if inside is None else valid & inside)
        if self.kd_loss.terms:
            mixed = sum(w * p for w, p in zip(weights, probabilities, strict=True))
            terms |= self.kd_loss(output, as_channels(mixed, inside, sigmoid), progress)
        scale = common_scale(self.kd.distillation, self.kd.hard_loss, progress)
        terms = {name: scale * value for name, value in terms.items()}
        if self.feature_losses:
            terms |= self._feature_terms(weights, with_background(classes, valid) if sigmoid else classes, progress)
        self._lessons = ()
        total = torch.stack(list(terms.values())).sum()
        return total, {**{f"kd_{k}": v for k, v in terms.items()}, TEACHER_WEIGHTS: weights}

    def teacher_probabilities(self, data: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Probabilities (B, C, *spatial) of every teacher, and where they are known (B, 1, *spatial), None: everywhere.

        Args:
            data: the whole ``data`` of the batch; teachers in memory have seen its images already.
        """
        return [probabilities_of(x.logits, self.label_manager.has_regions) for x in self._lessons], None

    def weigh_teachers(self, probabilities: list[Tensor], classes: Tensor, valid: Tensor) -> Tensor:
        """Weight of every teacher for this batch, (N,), with sum 1; uniform here."""
        return torch.full((len(probabilities),), 1 / len(probabilities), device=classes.device)

    def _feature_terms(self, weights: Tensor, regions: Tensor, progress: float) -> dict[str, Tensor]:
        assert self.student_taps is not None
        recorded = iter(self.student_taps.pop())
        sums: dict[str, Tensor] = {}
        for teacher, loss, lesson, weight in zip(
            self.online_teachers, self._called_losses, self._lessons, weights, strict=True
        ):
            mine = [next(recorded) for _ in teacher.pairs]
            for name, value in loss(mine, lesson.features, regions, progress).items():
                sums[name] = sums[name] + weight * value if name in sums else weight * value
        return sums

    def on_train_end(self) -> None:
        """Lets go of the teachers before nnU-Net validates."""
        super().on_train_end()
        if self.student_taps is not None:
            self.student_taps.remove()
        self.online_teachers, self._called_losses, self.student_taps = (), (), None
