"""Where the teaching of a batch comes from: the interface of stored soft labels, teachers in memory, and peers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nnunet_kd.config import KDConfig
from nnunet_kd.data.dataset import UnlabeledDataset
from nnunet_kd.data.mixed_batches import unlabeled_share
from nnunet_kd.losses.soft_targets import SoftTargets
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class Training:
    """What a source has to know of the training that it serves.

    Attributes:
        trainer: name of the trainer's class, for messages.
        kd: the plans' ``"kd"`` block.
        data: the student's data.
        results: ``nnUNet_results/DatasetXXX_NAME``.
        ensemble: finds the teachers of the plans, for this configuration and fold.
        fold: the student's.
        device: where the student trains.
        cascaded: whether the student sees the segmentation of a previous stage.
        deep_supervision: whether networks are built with lower-resolution outputs.
        compiled: whether networks go through ``torch.compile``.
        distributed: whether this process is one of several.
        rank: which of them.
        log: prints to nnU-Net's log file.
        make_optimizer: parameters -> optimizer and its learning-rate schedule.
        hard_label_loss: output and target -> nnU-Net's loss.
    """

    trainer: str
    kd: KDConfig
    data: StudentSpace
    results: Path
    ensemble: Callable[[], TeachingEnsemble]
    fold: int | str
    device: torch.device
    cascaded: bool
    deep_supervision: bool
    compiled: bool
    distributed: bool
    rank: int
    log: Callable[..., None]
    make_optimizer: Callable[[Iterable[nn.Parameter]], tuple[torch.optim.Optimizer, Any]]
    hard_label_loss: Callable[[Any, Any], Tensor]

    @property
    def sigmoid(self) -> bool:
        """Whether the labels are regions."""
        return bool(self.data.label_manager.has_regions)


@dataclass(frozen=True)
class Teaching:
    """What is taught about a batch.

    Attributes:
        targets: soft labels; None where no term compares with any.
        weights: of the teachers, (N,), with sum 1; None without teachers.
        features: of every teacher in memory, one tensor for each pair of layers.
        outputs: of every peer, as the student's.
    """

    targets: SoftTargets | None = None
    weights: Tensor | None = None
    features: tuple[Sequence[Tensor], ...] = ()
    outputs: tuple[Any, ...] = ()


class TeachingSource:
    """Where the teaching of a batch comes from; one object serves one training. This one teaches nothing.

    Attributes:
        stores_soft_labels: soft labels are exported before the training.
        has_teachers: there are trained teachers, which can also be inherited from.
        most_teachers: as many teacher networks there may be; None: any number.
        gives_soft_labels: the terms of ``kd.distillation`` have something to compare with.
        unlabeled: the unlabeled cases, after :meth:`prepare`; None without any.
        labeled_per_batch: labeled cases of a batch.
        unlabeled_per_batch: unlabeled ones, the last of a batch.
    """

    stores_soft_labels: ClassVar[bool] = False
    has_teachers: ClassVar[bool] = True
    most_teachers: ClassVar[int | None] = None
    gives_soft_labels: ClassVar[bool] = True
    unlabeled: UnlabeledDataset | None = None
    labeled_per_batch = 0
    unlabeled_per_batch = 0

    def __init__(self, training: Training):
        """Serves a training."""
        self.training = training

    @classmethod
    def wants_unlabeled(cls, kd: KDConfig) -> bool:
        """Whether the plans ask for unlabeled cases."""
        return kd.unlabeled.fraction > 0

    def check(self) -> None:
        """Refuses what this source cannot do, before anything is built; raises UserError."""
        configuration = self.training.data.configuration
        if self.training.cascaded and self.wants_unlabeled(self.training.kd):
            raise UserError(
                f"-c {configuration}: is cascaded, but unlabeled cases have no segmentation of the previous stage; "
                "name another configuration, or set unlabeled.fraction to 0."
            )

    def curves(self) -> list[str]:
        """Names of the terms that :meth:`further_terms` returns."""
        return []

    def prepare(self, training: Any, validation: Any, batch_size: int) -> Any:
        """nnU-Net's dataset of training cases, with what the source needs of each of them.

        Args:
            training: nnU-Net's dataset.
            validation: the same of the validation cases.
            batch_size: of this rank.

        Raises:
            UserError: for teachers or cases that are missing or unfit.
        """
        return training

    def wrap_transforms(self, transforms: Any, image_channels: int) -> Any:
        """nnU-Net's transforms of training cases, applied to what :meth:`prepare` has added too."""
        return transforms

    def start(self, student: nn.Module, resumed: Mapping[str, Any] | None, epoch: int) -> None:
        """Loads what teaches; before the student's first forward pass.

        Args:
            student: the bare network.
            resumed: this package's entries of the checkpoint that is continued; None at the beginning.
            epoch: that comes next.
        """

    def teach(self, data: Tensor, images: Tensor, reference: Reference) -> Teaching:
        """What is taught about a batch, in the autocast that is on.

        Args:
            data: the whole ``data`` of the batch (B, C, *spatial).
            images: what the student sees of it.
            reference: of the batch.
        """
        return Teaching()

    def watching_student(self) -> AbstractContextManager[None]:
        """Around the student's forward pass."""
        return nullcontext()

    def further_terms(
        self, output: Any, teaching: Teaching, target: Any, reference: Reference, progress: float
    ) -> dict[str, Tensor]:
        """Terms beside the hard-label loss and those against soft labels, weighted and ramped.

        Args:
            output: of the student: logits (B, C, *spatial) in float32, or a list of them.
            teaching: from :meth:`teach`.
            target: the reference as nnU-Net's loss takes it.
            reference: the same as masks.
            progress: fraction of the training that has passed, in [0, 1].
        """
        return {}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """What takes a step after each batch beside the student's optimizer."""
        return []

    def start_epoch(self, epoch: int) -> None:
        """Before the first batch of an epoch."""

    def state(self) -> dict[str, Any]:
        """Entries of the checkpoint, for resuming."""
        return {}

    def stop(self) -> None:
        """After the last epoch, before nnU-Net validates."""

    def use_unlabeled(self, batch_size: int) -> list[str]:
        """Shares the batch between labeled and unlabeled cases, where the plans ask for it, and says so.

        Args:
            batch_size: of this rank.

        Returns:
            The unlabeled cases that this training uses.

        Raises:
            UserError: for a batch with no room for both.
        """
        kd, log = self.training.kd, self.training.log
        self.labeled_per_batch = batch_size
        if not self.wants_unlabeled(kd):
            return []
        cases = self.training.data.unlabeled_cases
        if not cases:
            log(
                f"WARNING: kd.unlabeled.fraction is {kd.unlabeled.fraction}, but {self.training.data.unlabeled_folder} "
                "holds no case: training on labeled cases only. Make them with nnUNetv2_kd preprocess-unlabeled."
            )
            return []
        if batch_size < 2:
            raise UserError(
                "kd.unlabeled.fraction: a batch of 1 has no room for a labeled and an unlabeled case; plan with "
                "--batch_size 2 or more for each GPU."
            )
        self.unlabeled_per_batch = unlabeled_share(kd.unlabeled.fraction, batch_size)
        self.labeled_per_batch -= self.unlabeled_per_batch
        log(f"{self.unlabeled_per_batch} of {batch_size} cases of a batch are unlabeled, drawn from {len(cases)}")
        return cases

    def describe_teachers(self, ensemble: TeachingEnsemble, validation: list[str]) -> None:
        """Logs who teaches, and warns when teachers have seen the cases that will be validated."""
        self.training.log(f"Teachers: {ensemble.describe()}")
        if self.training.fold != "all" and (seen := ensemble.seen_by_teachers(validation)):
            self.training.log(
                f"WARNING: teachers were trained on {len(seen)} of {len(validation)} validation cases of this fold; "
                "its cross-validation Dice is optimistic. Test on other cases, or use ensemble.membership same_fold."
            )


def in_float32(output: Any) -> Any:
    """A network's output, or each of a list of them, in float32."""
    return [o.float() for o in output] if isinstance(output, list | tuple) else output.float()
