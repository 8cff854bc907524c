"""A student's initial weights: from which teacher, and its Dice before any training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor, nn

from nnunet_kd.config import Teacher
from nnunet_kd.inheritance.pairs import pair_layers
from nnunet_kd.inheritance.patches import draw_batches
from nnunet_kd.inheritance.reconstruct import Batch, reconstruct
from nnunet_kd.losses import SoftCrossEntropy, SoftDiceLoss
from nnunet_kd.teachers.fitness import check_same_input, check_teacher
from nnunet_kd.teachers.loading import load_network, load_trained
from nnunet_kd.teachers.model import TeacherModel, find_teacher, split_folds
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class Member:
    """One teacher network, and the mean Dice of its validation where it has one."""

    model: TeacherModel
    fold: int | str
    dice: float | None

    def __str__(self) -> str:
        score = "not validated" if self.dice is None else f"validation Dice {self.dice:.4f}"
        return f"{self.model.folder.name} fold {self.fold} ({score})"


@dataclass(frozen=True)
class Scores:
    """Dice of each foreground class or region over all measured patches together, before any training."""

    patches: int
    teacher: Tensor
    student: Tensor

    def __str__(self) -> str:
        teacher, student = (format_dice(d) for d in (self.teacher, self.student))
        return f"Dice on {self.patches} patches: teacher {teacher}, untrained student {student}"


def best_member(models: Sequence[TeacherModel]) -> Member:
    """The network with the highest mean validation Dice (Noothout et al. 2022, Section 2.2); unvalidated ones last,
    and those whose Dice is not defined.

    Raises:
        UserError: when there is no network.
    """
    members = []
    for model in models:
        for fold in model.folds:
            summary = model.validation_summary(fold)
            members.append(Member(model, fold, None if summary is None else summary.dice))
    if not members:
        raise UserError("kd.teachers: there is no teacher to start from.")
    return max(members, key=lambda m: -1.0 if m.dice is None or math.isnan(m.dice) else m.dice)


def named_member(text: str, dataset_results: Path) -> Member:
    """The network that ``kd.student.inherit_from`` names as MODELFOLDER:FOLD; without fold the best of the folder's.

    Raises:
        UserError: when there is no such finished training.
    """
    folder, folds = split_folds(text, "kd.student.inherit_from:")
    return best_member([find_teacher(Teacher(folder, folds), dataset_results)])


def copy_member(network: nn.Module, member: Member) -> None:
    """Loads the weights of a member of the same architecture.

    Raises:
        UserError: when the member has no validation, or another architecture.
    """
    if member.dice is None:
        raise UserError(
            "kd.student.start is best_member, but no teacher has a validation/summary.json; validate them with "
            "nnUNetv2_train ... --val, or use start random."
        )
    file = member.model.checkpoint_file(member.fold)
    weights = load_trained(member.model, member.fold)["network_weights"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as err:
        raise UserError(
            f"kd.student.start is best_member, but {file} has another architecture than the student; use start "
            "inherit, plan the student with --student same, or use start random."
        ) from err


def inherit(
    network: Any,
    member: Member,
    space: StudentSpace,
    training: Any,
    validation: Any,
    device: torch.device,
    seed: int = 0,
    progress: bool = True,
) -> Scores | None:
    """Makes the student a reconstruction of a teacher (a copy where they are alike), and measures both.

    Args:
        network: the bare student, on ``device``.
        member: the teacher.
        space: the student's geometry.
        training: dataset of the cases on which it is reconstructed.
        validation: dataset of the cases on which both are measured.
        device: where the networks run.
        seed: of the patches and of the places sampled in them.
        progress: show a bar.

    Returns:
        Dice of teacher and untrained student on patches of the validation cases; None for a copy.

    Raises:
        UserError: when the teacher reads other images or labels.
        CannotInheritError: when the student cannot be a reconstruction of it.
    """
    check_teacher(space, member.model)
    check_same_input(space, member.model)
    teacher, _ = load_network(member.model, member.fold, device)
    configuration, labels = space.configuration_manager, space.label_manager

    def draw(dataset: Any, seed: int) -> list[Batch]:
        cascaded = configuration.previous_stage_name is not None
        features = int(network.compute_conv_feature_map_size(configuration.patch_size))
        return draw_batches(dataset, configuration, labels, features, device, seed, cascaded)

    weights = teacher.state_dict()
    if {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in weights.items()}:
        network.load_state_dict(weights)
        return None
    pair_layers(network, teacher)  # refuses before any patch is drawn
    reconstruct(network, teacher, draw(training, seed), _importance_loss(labels), labels.has_regions, seed, progress)
    measured = draw(validation, seed + 1)
    patches = sum(len(b.images) for b in measured)
    return Scores(patches, *(patch_dice(n, measured, labels.has_regions) for n in (teacher, network)))


def _importance_loss(labels: LabelManager) -> Any:
    """Dice + cross-entropy of logits and one-hot reference; voxels without any class do not count."""
    terms = SoftDiceLoss(sigmoid=labels.has_regions), SoftCrossEntropy(labels.has_regions)

    def loss(logits: Tensor, reference: Tensor) -> Tensor:
        valid = None if labels.has_regions else reference.sum(1, keepdim=True) > 0
        return terms[0](logits, reference, valid) + terms[1](logits, reference, valid)

    return loss


@torch.no_grad()
def patch_dice(network: Any, batches: Sequence[Batch], regions: bool) -> Tensor:
    """Dice of each foreground class or region over all patches together, NaN where neither has any."""
    mode, deep = network.training, network.decoder.deep_supervision
    network.eval()
    network.decoder.deep_supervision = False
    overlap = total = torch.zeros(())
    for batch in batches:
        logits, reference = network(batch.images), batch.reference
        if regions:
            predicted = (logits > 0).float()
        else:
            predicted = torch.zeros_like(reference).scatter_(1, logits.argmax(1, keepdim=True), 1)
            predicted = (predicted * reference.sum(1, keepdim=True))[:, 1:]  # where the reference is known
            reference = reference[:, 1:]
        over = [0, *range(2, reference.ndim)]
        overlap = overlap + (predicted * reference).sum(over).cpu()
        total = total + (predicted.sum(over) + reference.sum(over)).cpu()
    network.train(mode)
    network.decoder.deep_supervision = deep
    return 2 * overlap / total


def format_dice(dice: Tensor) -> str:
    """``0.812 (0.80, 0.82)``: mean, then every class."""
    return f"{dice.nanmean():.3f} ({', '.join(f'{d:.3f}' for d in dice)})"
