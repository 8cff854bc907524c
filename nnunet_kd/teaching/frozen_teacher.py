"""One frozen teacher in memory: its network, and taps on the features that the student imitates."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nnunet_kd.losses.feature_distillation import FeaturePair, FeatureSettings
from nnunet_kd.teachers.feature_taps import FeatureTaps, choose_pairs, feature_names, measure_features
from nnunet_kd.teachers.fitness import check_same_input, input_channels
from nnunet_kd.teachers.loading import finite_logits, load_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class FrozenTeacher:
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

    def predict(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Runs the network on the student's patches (B, C, *spatial), in the autocast that is on.

        Returns:
            Logits (B, C, *spatial) in float32, and one feature for each pair.

        Raises:
            UserError: when its logits are not finite.
        """
        with torch.no_grad(), self.taps.recording():
            logits = finite_logits(lambda: self.network(images), f"teacher {self.name}", "a batch of the training")
        return logits.float(), self.taps.pop()


def load_frozen_teacher(
    model: TeacherModel,
    fold: int | str,
    student: StudentSpace,
    student_network: nn.Module,
    features: FeatureSettings | None,
    device: torch.device,
    compiled: bool = False,
) -> FrozenTeacher:
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
    return FrozenTeacher(name, network, pairs, channels, taps)


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
    name: str, student: nn.Module, teacher: nn.Module, shape: Sequence[int], features: FeatureSettings
) -> tuple[tuple[FeaturePair, ...], tuple[tuple[int, int], ...]]:
    pairs = features.pairs
    if not pairs:
        mine, theirs = (measure_features(n, shape, list(feature_names(n))) for n in (student, teacher))
        pairs = choose_pairs(mine, theirs, features.number_of_pairs)
    mine = measure_features(student, shape, [p.student for p in pairs])
    theirs = measure_features(teacher, shape, [p.teacher for p in pairs])
    channels = tuple((mine[p.student][0], theirs[p.teacher][0]) for p in pairs)
    return pairs, channels
