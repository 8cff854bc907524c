"""Teaching from frozen networks in memory, which see the student's augmented patches."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.data.dataset import UnlabeledDataset
from nnunet_kd.losses import FeatureDistillationLoss
from nnunet_kd.losses.peer_term import probabilities_of
from nnunet_kd.losses.soft_targets import SoftTargets, log_mixture
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.feature_taps import FeatureTaps
from nnunet_kd.teachers.fitness import patch_note
from nnunet_kd.teaching.frozen_teacher import FrozenTeacher, load_frozen_teacher
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.teaching.source import Teaching, TeachingSource
from nnunet_kd.teaching.weights import check_single_teachers, check_weights, weigh, weighted_mean
from nnunet_kd.utilities.errors import UserError, exit_on_user_error

HEADS = "kd_heads"


class TeachersInMemory(TeachingSource):
    """Frozen teachers; the student imitates their predictions and features.

    Teachers, feature losses and their projection heads exist only while training: a validation needs none of them.
    They are no part of the student; the heads have an optimizer and an entry in the checkpoint of their own.

    Attributes:
        teachers: the networks.
        feature_losses: one for each teacher.
    """

    teachers: tuple[FrozenTeacher, ...] = ()
    feature_losses: tuple[FeatureDistillationLoss, ...] = ()
    head_optimizer: torch.optim.Optimizer | None = None
    _head_schedule: Any = None
    _student_taps: FeatureTaps | None = None
    _called_losses: tuple[nn.Module, ...] = ()

    def check(self) -> None:
        """Refuses settings that teachers in memory cannot follow, and a student that nothing would teach to segment."""
        super().check()
        kd = self.training.kd
        check_single_teachers(kd, self.training.trainer)
        features, soft = kd.features.active(), kd.distillation.active()
        if not soft and kd.hard_loss.weight == 0:
            raise UserError(
                "kd.distillation: all weights are 0 and kd.hard_loss.weight too; features alone teach no segmentation."
            )
        if self.wants_unlabeled(kd) and not (soft or features):
            raise UserError(
                "kd.unlabeled.fraction: nothing is learned from unlabeled cases, all weights of kd.distillation and "
                "kd.features are 0; set one or set the fraction to 0."
            )
        batch_size = self.training.data.configuration_manager.batch_size
        for name, term in features.items():
            if batch_size < term.smallest_batch:
                raise UserError(
                    f"kd.features.{name}.weight: compares the images of a batch, but there is one; plan with "
                    f"--batch_size {term.smallest_batch} or set the weight to 0."
                )

    def curves(self) -> list[str]:
        """The feature terms."""
        return list(self.training.kd.features.active())

    def prepare(self, training: Any, validation: Any, batch_size: int) -> Any:
        """Says who teaches; nothing is added to the training cases."""
        data = self.training.data
        if self.use_unlabeled(batch_size):
            self.unlabeled = UnlabeledDataset(data)
        self.describe_teachers(self.training.ensemble(), validation.identifiers)
        return training

    def start(self, student: nn.Module, resumed: Mapping[str, Any] | None, epoch: int) -> None:
        """Loads the teachers, taps the student and builds the feature losses.

        Raises:
            UserError: for teachers that are too many or cannot see what the student sees, or layers that make no pair.
        """
        t, ensemble = self.training, self.training.ensemble()
        self._check_number(ensemble)
        features = t.kd.features if t.kd.features.active() else None
        self.teachers = tuple(
            load_frozen_teacher(model, fold, t.data, student, features, t.device, t.compiled)
            for model in ensemble.models
            for fold in model.folds
        )
        for note in filter(None, (patch_note(t.data, m) for m in ensemble.models)):
            t.log(note)
        for teacher in self.teachers:
            for pair in teacher.pairs:
                t.log(f"Features: student's {pair.student} <- {pair.teacher} of {teacher.name}")
        if features is not None:
            self._student_taps = FeatureTaps(student, [p.student for x in self.teachers for p in x.pairs])
            self._build_feature_losses(resumed)

    def _check_number(self, ensemble: TeachingEnsemble) -> None:
        networks = len(ensemble.members())
        if self.most_teachers is not None and networks > self.most_teachers:
            raise UserError(
                f"kd.teachers: {self.training.trainer} has one teacher network, found {networks} "
                f"({ensemble.describe()}); name one fold (plan --teachers FOLDER:0), set ensemble.membership=same_fold "
                "or use nnUNetTrainerKDMultiTeacher."
            )
        if self.most_teachers is None:
            check_weights(self.training.kd.multi_teacher, ensemble)

    def _build_feature_losses(self, resumed: Mapping[str, Any] | None) -> None:
        t = self.training
        dimensions = len(t.data.configuration_manager.patch_size)
        losses = [FeatureDistillationLoss(t.kd.features, x.channels, dimensions).to(t.device) for x in self.teachers]
        if parameters := [p for loss in losses for p in loss.parameters()]:
            self.head_optimizer, self._head_schedule = t.make_optimizer(parameters)
        self.feature_losses = tuple(losses)
        if parameters and resumed is not None:
            self._load_heads(resumed)
        # Heads are averaged over the ranks by DDP, as the student is, in a wrapper of their own.
        wrap = nn.parallel.DistributedDataParallel
        self._called_losses = tuple(wrap(x) if t.distributed and len(x.heads) else x for x in losses)

    def _load_heads(self, resumed: Mapping[str, Any]) -> None:
        if HEADS not in resumed:
            self.training.log("WARNING: the checkpoint has no projection heads, they start anew.")
            return
        heads = resumed[HEADS]
        try:
            for loss, weights in zip(self.feature_losses, heads["weights"], strict=True):
                loss.heads.load_state_dict(weights)
            assert self.head_optimizer is not None
            self.head_optimizer.load_state_dict(heads["optimizer"])
        except (RuntimeError, ValueError) as err:
            raise UserError(
                "the projection heads in the checkpoint do not fit kd.features and kd.teachers; continue with the "
                "plans that the training began with, or start anew without --c."
            ) from err

    def teach(self, data: Tensor, images: Tensor, reference: Reference) -> Teaching:
        """The teachers run first, while no activation of the student is in memory."""
        t, sigmoid = self.training, self.training.sigmoid
        with exit_on_user_error():
            logits, features = zip(*(x.predict(images) for x in self.teachers), strict=True)
        probabilities = [probabilities_of(z, sigmoid) for z in logits]
        weights = weigh(t.kd.multi_teacher, probabilities, None, reference, sigmoid)
        mean = weighted_mean(probabilities, weights)
        targets = SoftTargets(mean, log_tempered=lambda temperature: log_mixture(logits, weights, temperature, sigmoid))
        return Teaching(targets, weights, features)

    def watching_student(self) -> AbstractContextManager[None]:
        """Records the student's features."""
        return nullcontext() if self._student_taps is None else self._student_taps.recording()

    def further_terms(
        self, output: Any, teaching: Teaching, target: Any, reference: Reference, progress: float
    ) -> dict[str, Tensor]:
        """Feature terms, weighed as the teachers are (Qin et al. 2021, Eq. 9; Ben Loussaief et al. 2023, Eq. 5-6)."""
        if self._student_taps is None:
            return {}
        assert teaching.weights is not None
        recorded: Iterator[Tensor] = iter(self._student_taps.pop())
        regions = reference.regions
        sums: dict[str, Tensor] = {}
        for teacher, loss, theirs, weight in zip(
            self.teachers, self._called_losses, teaching.features, teaching.weights, strict=True
        ):
            mine = [next(recorded) for _ in teacher.pairs]
            for name, part in loss(mine, theirs, regions, progress).items():
                sums[name] = sums[name] + weight * part if name in sums else weight * part
        return sums

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """That of the projection heads."""
        return [] if self.head_optimizer is None else [self.head_optimizer]

    def start_epoch(self, epoch: int) -> None:
        """Sets the heads' learning rate."""
        if self.head_optimizer is not None:
            self._head_schedule.step(epoch)

    def state(self) -> dict[str, Any]:
        """Projection heads and the state of their optimizer; never in ``network_weights``."""
        if self.head_optimizer is None:
            return {}
        weights = [loss.heads.state_dict() for loss in self.feature_losses]
        return {HEADS: {"weights": weights, "optimizer": self.head_optimizer.state_dict()}}

    def stop(self) -> None:
        """Lets go of the teachers."""
        if self._student_taps is not None:
            self._student_taps.remove()
        self.teachers, self._called_losses, self._student_taps = (), (), None


class OneTeacherInMemory(TeachersInMemory):
    """A single frozen teacher."""

    most_teachers = 1
