"""The ``"kd"`` block of a plans file as frozen, validated dataclasses.

Every number of a distillation lives here and is written into the plans, which nnU-Net copies into the model folder.
All keys have defaults, so that a plans file without the block works.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nnunet_kd.losses.distillation import DistillationSettings
from nnunet_kd.losses.feature_distillation import FeatureSettings
from nnunet_kd.losses.feature_term import FEATURE_TERMS
from nnunet_kd.losses.hard_loss import HardLoss
from nnunet_kd.losses.peer_term import PEER_TERMS
from nnunet_kd.losses.peers import CrossTeachingSettings
from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.extensions import room_modules
from nnunet_kd.utilities.files import check_component
from nnunet_kd.utilities.schema import block, from_dict, number, value

room_modules("losses")  # every term registers itself; these blocks have a key for each
Distillation = SOFT_LABEL_TERMS.settings(DistillationSettings, "Distillation", __name__)
Features = FEATURE_TERMS.settings(FeatureSettings, "Features", __name__)
CrossTeaching = PEER_TERMS.settings(CrossTeachingSettings, "CrossTeaching", __name__)

TEACHER_TRAINER = "nnUNetTrainerKDTeacher"  # of plans for a teacher, and of a student's undistilled twin


@dataclass(frozen=True)
class Schedule:
    """Length, seed and precision of a training."""

    num_epochs: int = number(1000, "epochs", minimum=1)
    iterations_per_epoch: int = number(250, "training iterations per epoch", minimum=1)
    val_iterations_per_epoch: int = number(50, "validation iterations per epoch", minimum=1)
    save_every: int = number(50, "epochs between two resume checkpoints", minimum=1)
    seed: int | None = number(
        None,
        "seed of the weights and of the main process; batches are repeatable too when nnUNet_n_proc_DA=0",
        minimum=0,
        maximum=2**32 - 1,
    )
    precision: Literal["default", "bf16", "fp32"] = value(
        "default",
        "default: nnU-Net's (float16 autocast on CUDA, float32 elsewhere); bf16: bfloat16 autocast; fp32: no autocast",
    )
    validate_all: Literal["teachers", "always", "never"] = value(
        "teachers",
        "who predicts fold all's validation cases at the end of a training, which are its training cases: teachers, so "
        "that the best one is known; nnUNetv2_train ... --val does it in any case",
    )


@dataclass(frozen=True)
class Optimizer:
    """Optimizer and learning rate; the defaults are nnU-Net's."""

    name: Literal["sgd", "adam", "adamw"] = value("sgd", "optimizer")
    initial_lr: float = number(1e-2, "initial learning rate", above=0)
    weight_decay: float = number(3e-5, "weight decay", minimum=0)
    momentum: float = number(0.99, "Nesterov momentum (sgd only)", minimum=0, maximum=1)
    lr_schedule: Literal["poly", "cosine", "constant"] = value(
        "poly", "learning rate over the epochs; poly has exponent 0.9"
    )


@dataclass(frozen=True)
class Mixup:
    """Weighted mean of two patches (Zhang et al. 2018)."""

    probability: float = number(0.0, "share of the batches that are mixed so; 0: none", minimum=0, maximum=1)
    alpha: float = number(0.4, "the weight of a patch is drawn from Beta(alpha, alpha)", above=0)


@dataclass(frozen=True)
class CutMix:
    """A box of another patch in a patch (Yun et al. 2019)."""

    probability: float = number(0.0, "share of the batches that are mixed so; 0: none", minimum=0, maximum=1)
    alpha: float = number(1.0, "the share of the box is drawn from Beta(alpha, alpha)", above=0)


@dataclass(frozen=True)
class Augmentation:
    """What is done to the training patches; alike for a student and its undistilled twin."""

    transforms: Literal["default", "DA5"] = value(
        "default",
        "default: nnU-Net's; DA5: those of its nnUNetTrainerDA5, stronger: more rotation, turned and exchanged axes, "
        "median filter, sharpening, blank boxes, brightness gradients, local gamma; its quarter turns and exchanged "
        "axes stay, whatever mirroring and rotation say",
    )
    mirroring: bool | None = value(
        None,
        "mirrored patches among them; null: where the network is mirrored at prediction, as teachers are and students "
        "are not unless student.mirroring says so; false: neither these nor mirroring at prediction, as in nnU-Net's "
        "nnUNetTrainerNoMirroring",
    )
    rotation: float = number(
        180.0,
        "largest angle of turned patches in degrees, where nnU-Net's is larger: it has 180 for 2D patches that are "
        "nearly square, also in anisotropic 3D patches, and 30 in other 3D ones",
        minimum=0,
        maximum=180,
    )
    mixup: Mixup = block(Mixup, "weighted means of two patches of a batch, with the same means of their soft labels")
    cutmix: CutMix = block(CutMix, "boxes of other patches of a batch, with their labels")

    @property
    def mixes(self) -> bool:
        """Whether patches are mixed at all."""
        return self.mixup.probability + self.cutmix.probability > 0

    def check(self, path: str) -> None:
        """A batch is mixed in one way.

        Raises:
            UserError: names the keys.
        """
        total = self.mixup.probability + self.cutmix.probability
        if total > 1:
            raise UserError(
                f"{path}.mixup.probability and {path}.cutmix.probability: sum to {total:g}, expected at most 1; a "
                "batch is mixed in one way."
            )


@dataclass(frozen=True)
class Teacher:
    """One trained nnU-Net model folder."""

    folder: str = value(
        "", "TRAINER__PLANS__CONFIGURATION below nnUNet_results/DatasetXXX_NAME, or a path to a model folder (required)"
    )
    folds: tuple[int | str, ...] | None = value(None, 'folds to use (integers or "all"); null: every finished fold')
    checkpoint: str = value("checkpoint_final.pth", "checkpoint file inside a fold's folder")

    def check(self, path: str) -> None:
        """A folder is required; a checkpoint is a file's name.

        Raises:
            UserError: names the key.
        """
        if not self.folder:
            raise UserError(
                f"{path}.folder: missing; expected TRAINER__PLANS__CONFIGURATION or a path to a model folder."
            )
        if not self.checkpoint or set(self.checkpoint) & set("/\\"):
            raise UserError(
                f"{path}.checkpoint: found {self.checkpoint!r}, expected a file name such as checkpoint_final.pth."
            )
        for fold in self.folds or ():
            if fold != "all" and (isinstance(fold, str) or fold < 0):
                raise UserError(f'{path}.folds: found {fold!r}, expected integers >= 0 or "all".')


@dataclass(frozen=True)
class Ensemble:
    """How the teachers predict and how their predictions are combined."""

    name: str = value("ensemble", "readable part of the store's folder name (letters, digits, '-', '_', '.')")
    combine: Literal["probabilities", "logits"] = value(
        "probabilities",
        "probabilities: as nnUNetv2_ensemble; logits: as nnUNetv2_predict over the folds of one model folder",
    )
    membership: Literal["all", "out_of_fold", "same_fold"] = value(
        "all",
        "all teachers for every case; out_of_fold: those that did not train on the case; "
        "same_fold: those trained on exactly the student's training cases",
    )
    mirroring: bool = value(True, "teachers predict with their test-time mirroring")
    step_size: float = number(0.5, "sliding-window step as a fraction of the patch", minimum=0.01, maximum=1)
    use_gaussian: bool = value(True, "Gaussian weighting of sliding windows")
    precision: Literal["default", "bf16"] = value(
        "default",
        "default: as nnUNetv2_predict (float16 autocast on CUDA, float32 elsewhere); bf16: bfloat16 autocast on the "
        "CPU too",
    )
    from_folder: str | None = value(
        None,
        "folder of probability maps (CASE.npz as nnU-Net writes them, original geometry) that takes the place of "
        "teachers",
    )

    def check(self, path: str) -> None:
        """The name becomes a folder's.

        Raises:
            UserError: names the key.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", self.name):
            raise UserError(
                f"{path}.name: found {self.name!r}, expected letters, digits, '-', '_' and '.', at most 200 of them."
            )


@dataclass(frozen=True)
class Store:
    """Soft labels on disk."""

    dtype: Literal["uint8", "float16"] = value("uint8", "uint8: foreground in 1/255; float16: for those who need it")


@dataclass(frozen=True)
class Unlabeled:
    """Unlabeled cases in the training of a student."""

    fraction: float = number(
        0.0,
        "share of each batch that comes from unlabeled cases (nnUNetv2_kd preprocess-unlabeled), rounded to whole "
        "cases, at least one of them and at least one labeled one; they enter the soft-label terms only",
        minimum=0,
        maximum=1,
    )
    voxel_weight: Literal["none", "confidence", "entropy"] = value(
        "none",
        "weight of the unlabeled cases' voxels in the soft-label terms; none: 1; confidence: (C max t - 1) / (C - 1); "
        "entropy: 1 - H(t) / log C, with the teachers' probabilities t of C classes",
    )


@dataclass(frozen=True)
class MultiTeacher:
    """How nnUNetTrainerKDMultiTeacher weighs its teachers (Ben Loussaief et al. 2023)."""

    weights: Literal["uniform", "paper", "inverse", "fixed"] = value(
        "uniform",
        "uniform: all alike; per batch, from each teacher's Dice loss against the reference: paper (worse teachers "
        "weigh more, as printed) or inverse (better ones do); fixed: fixed_weights",
    )
    fixed_weights: tuple[float, ...] = value((), "one for each teacher network, in their order; they are normalised")
    source: Literal["online", "stored"] = value(
        "online", "online: the teachers are in memory; stored: one soft-label store per teacher, prediction terms only"
    )

    def check(self, path: str) -> None:
        """Fixed weights belong to ``fixed``, are not negative and not all 0.

        Raises:
            UserError: names the key.
        """
        if bool(self.fixed_weights) != (self.weights == "fixed"):
            raise UserError(
                f"{path}.fixed_weights: found {list(self.fixed_weights)}, which belong to weights fixed only."
            )
        if self.fixed_weights and not (min(self.fixed_weights) >= 0 and 0 < sum(self.fixed_weights) < float("inf")):
            raise UserError(
                f"{path}.fixed_weights: found {list(self.fixed_weights)}, expected numbers >= 0, not all 0."
            )


@dataclass(frozen=True)
class Student:
    """The network that is distilled."""

    trainer: str = value(
        "nnUNetTrainerKDEnsemble", "trainer in the commands that nnUNetv2_kd plan prints; any may be given to -tr"
    )
    architecture: str = value("same", "how the plans' network was derived from the base plans; for the record")
    start: Literal["inherit", "best_member", "random"] = value(
        "inherit",
        "initial weights; inherit: a closed-form reconstruction of the teacher fold with the highest validation Dice, "
        "random where that is impossible; best_member: that fold's own weights (same architecture); random",
    )
    inherit_from: str | None = value(
        None, "MODELFOLDER:FOLD to inherit from, one of the teachers or any other; null: the best of the teachers"
    )
    twin_start: Literal["random", "same"] = value(
        "random",
        "initial weights of the undistilled twin, which nnUNetTrainerKDTeacher trains with these plans; same: as start "
        "says, so that inheritance and distillation can be told apart",
    )
    ema: float = number(
        0.0,
        "decay for each step of a moving average of the weights, which is validated, saved and deployed; 0: none",
        minimum=0,
        maximum=0.99999,
    )
    mirroring: bool = value(False, "let nnUNetv2_predict mirror the student at test time (8 passes in 3D instead of 1)")
    check_teachers: bool = value(
        True, "after validation, compare with the teachers on the same cases and warn when there was little to distil"
    )


@dataclass(frozen=True)
class KDConfig:
    """The whole ``"kd"`` block."""

    recipe: str | None = value(None, "name of the recipe the block was made from; for the record")
    role: Literal["student", "teacher"] = value("student", "which trainers the plans are for")
    base_plans: str | None = value(None, "plans the file was derived from; for the record")
    schedule: Schedule = block(Schedule, "length, seed, precision")
    optimizer: Optimizer = block(Optimizer, "optimizer and learning rate")
    augmentation: Augmentation = block(Augmentation, "what is done to the training patches")
    hard_loss: HardLoss = block(HardLoss, "loss against the reference segmentation")
    deep_supervision: bool = value(
        True,
        "losses at the network's lower-resolution outputs too, with nnU-Net's weights; off where there are none",
    )
    teachers: tuple[Teacher, ...] = value(
        (), "teachers; empty: every finished fold of <default_teacher>__<base plans>__<configuration>"
    )
    default_teacher: str = value("nnUNetTrainer", "trainer of the teachers that an empty list stands for")
    ensemble: Ensemble = block(Ensemble, "how teachers predict and are combined")
    store: Store = block(Store, "soft labels on disk")
    distillation: DistillationSettings = block(
        Distillation, "terms between the student's output and the teachers' probabilities"
    )
    features: FeatureSettings = block(Features, "terms between features of student and teacher")
    multi_teacher: MultiTeacher = block(MultiTeacher, "how several teachers are weighed")
    unlabeled: Unlabeled = block(Unlabeled, "unlabeled cases in the training of a student")
    cross_teaching: CrossTeachingSettings = block(CrossTeaching, "networks that are trained together")
    student: Student = block(Student, "the network that is distilled")

    def check(self, path: str) -> None:
        """Names become parts of paths; some settings contradict each other.

        Raises:
            UserError: names the keys.
        """
        check_component(self.default_teacher, f"{path}.default_teacher")
        check_component(self.student.trainer, f"{path}.student.trainer")
        if self.base_plans is not None:
            check_component(self.base_plans, f"{path}.base_plans")
        for name in self.cross_teaching.teachers:
            check_component(name, f"{path}.cross_teaching.teachers")
        if self.multi_teacher.source == "stored" and (active := self.features.active()):
            weights = " and ".join(f"features.{name}.weight" for name in active)
            raise UserError(
                f"{path}.multi_teacher.source: stored soft labels have no features; set {weights} to 0, or the source "
                "to online."
            )
        if self.student.mirroring and self.augmentation.mirroring is False:
            raise UserError(
                f"{path}.student.mirroring: a network that has seen no mirrored patches must not be mirrored at "
                f"prediction; set {path}.augmentation.mirroring to true or {path}.student.mirroring to false."
            )

    def mirrors_at_prediction(self, is_student: bool) -> bool:
        """Whether ``nnUNetv2_predict`` mirrors the network: as nnU-Net does, but a student only if asked."""
        return self.augmentation.mirroring is not False and (self.student.mirroring or not is_student)

    @classmethod
    def from_plans(cls, plans: Mapping[str, Any]) -> "KDConfig":
        """Reads the ``"kd"`` block of a plans dictionary; without one, all defaults.

        Raises:
            UserError: for an unknown key, a wrong type or an impossible value, with the key's path.
        """
        return from_dict(cls, plans.get("kd", {}), "kd")
