"""Frozen teachers in memory that see the student's augmented patches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nnunet_kd.losses.term import FeaturePair, Features
from nnunet_kd.teachers.feature_taps import FeatureTaps, choose_pairs, feature_names, measure_features
from nnunet_kd.teachers.fitness import check_same_input, input_channels
from nnunet_kd.teachers.loading import finite_logits, load_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class Lesson:
    """What one teacher says about a batch: logits (B, C, *spatial) in float32 and one feature for each pair."""

    logits: Tensor
    features: list[Tensor]


@dataclass(frozen=True)
class OnlineTeacher:
    """One frozen network with taps on the features that the student imitates.

    Attributes:
        name: model folder and fold, for logs.
        network: in evaluation mode, without gradients; never a part of the student.
        pairs: layers of student and teacher; empty without feature terms.
        channels: (student's, teacher's) number of channels of every pair.
        taps: records the teacher's layers of the pairs.
    """

    name: str
    network: nn.Module = field(repr=False)
    pairs: tuple[FeaturePair, ...]
    channels: tuple[tuple[int, int], ...]
    taps: FeatureTaps = field(repr=False)

    def teach(self, images: Tensor) -> Lesson:
        """Runs the network on the student's patches (B, C, *spatial), in the autocast that is on.

        Raises:
            UserError: when its logits are not finite.
        """
        with torch.no_grad(), self.taps.recording():
            logits = finite_logits(lambda: self.network(images), f"teacher {self.name}", "a batch of the training")
        return Lesson(logits.float(), self.taps.pop())


def load_online_teacher(
    model: TeacherModel,
    fold: int | str,
    student: StudentSpace,
    student_network: nn.Module,
    features: Features | None,
    device: torch.device,
    compiled: bool = False,
) -> OnlineTeacher:
    """Loads one teacher and pairs its layers with the student's.

    Args:
        model: the teacher's model folder.
        fold: its fold.
        student: the student's geometry; the teacher must read the same preprocessed images.
        student_network: the bare student.
        features: the feature terms; None without any.
        device: where the student trains.
        compiled: run the teacher through ``torch.compile``, as nnU-Net does the student.

    Raises:
        UserError: when the teacher cannot see what the student sees, or a pair of layers cannot be made.
    """
    name = f"{model.folder.name} fold {fold}"
    check_same_input(student, model)
    network, _ = load_network(model, fold, device)
    patch = student.configuration_manager.patch_size
    shape = (input_channels(student), *patch)
    with torch.no_grad():
        _check_output(name, network, shape, student.label_manager.num_segmentation_heads, device)
    pairs, channels = _pair(name, student_network, network, shape, features) if features else ((), ())
    taps = FeatureTaps(network, [p.teacher for p in pairs])
    if compiled:
        network.compile()
    return OnlineTeacher(name, network, pairs, channels, taps)


def as_channels(probabilities: Tensor, valid: Tensor | None, sigmoid: bool) -> Tensor:
    """Probabilities (B, C, *spatial) in the layout of stored soft labels: foreground or regions, then the mask."""
    foreground = probabilities if sigmoid else probabilities[:, 1:]
    mask = torch.ones_like(probabilities[:, :1]) if valid is None else valid.to(probabilities.dtype)
    return torch.cat((foreground, mask), 1)


def probabilities_of(logits: Tensor, sigmoid: bool) -> Tensor:
    """Softmax over classes, or independent sigmoids of regions."""
    return logits.sigmoid() if sigmoid else logits.softmax(1)


def networks_of(models: Sequence[TeacherModel]) -> Iterator[tuple[TeacherModel, int | str]]:
    """Every (model folder, fold): one network each, in order."""
    return ((model, fold) for model in models for fold in model.folds)


def _check_output(name: str, network: nn.Module, shape: Sequence[int], heads: int, device: torch.device) -> None:
    try:
        output = network(torch.zeros(1, *shape, device=device))
    except Exception as err:  # whatever a network of another library raises
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UserError(
            f"teacher {name}: cannot take the student's patch of {list(shape[1:])} voxels ({reason})."
        ) from err
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (1, heads, *shape[1:]):
        raise UserError(f"teacher {name}: returned {found} for the student's patch, expected {(1, heads, *shape[1:])}.")


def _pair(
    name: str, student: nn.Module, teacher: nn.Module, shape: Sequence[int], features: Features
) -> tuple[tuple[FeaturePair, ...], tuple[tuple[int, int], ...]]:
    pairs = features.pairs
    if not pairs:
        mine, theirs = (measure_features(n, shape, list(feature_names(n))) for n in (student, teacher))
        pairs = choose_pairs(mine, theirs, features.number_of_pairs)
    mine = measure_features(student, shape, [p.student for p in pairs])
    theirs = measure_features(teacher, shape, [p.teacher for p in pairs])
    channels = tuple((mine[p.student][0], theirs[p.teacher][0]) for p in pairs)
    return pairs, channels
