"""What a trained model costs at prediction, counted: parameters, FLOPs and MACs, forward passes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from nnunet_kd.planning.cost import measure
from nnunet_kd.teachers.model import TeacherModel, find_model, load_checkpoint_file, split_folds
from nnunet_kd.utilities.errors import UserError

CHECKPOINT = "checkpoint_final.pth"
SUMMED = ("networks", "parameters", "passes_per_case", "flops_per_case", "macs_per_case")  # over model folders


@dataclass(frozen=True)
class ModelSpec:
    """A model as a user names it: one or more model folders, each with folds (None: every finished one)."""

    name: str
    folders: tuple[tuple[Path, tuple[int | str, ...] | None], ...]

    def find(self, checkpoint: str = CHECKPOINT) -> tuple[TeacherModel, ...]:
        """The finished model folders.

        Raises:
            UserError: when a folder, fold or checkpoint is missing.
        """
        return tuple(find_model(folder, folds, checkpoint, f"--model {self.name}:") for folder, folds in self.folders)


def parse_model(text: str) -> ModelSpec:
    """Reads ``NAME=FOLDER[:FOLDS][,FOLDER[:FOLDS] ...]``; FOLDS is ``0,1,2`` or ``all``.

    What follows a comma is a fold when it is a number or ``all`` and folds came before it, and else a folder.

    Raises:
        UserError: when the name or a folder is missing, or for folds that are none.
    """
    name, equals, value = text.partition("=")
    parts: list[str] = []
    for piece in value.split(","):
        if parts and re.fullmatch(r"all|\d+", piece) and re.search(r":(all|\d+)(,\d+)*$", parts[-1]):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece)
    if not equals or not re.fullmatch(r"[^/\\|\x00-\x1f]{1,60}", name) or not all(parts):
        raise UserError(
            f"--model {text}: expected NAME=FOLDER, with folds NAME=FOLDER:0,1, several as NAME=FOLDER:0,FOLDER2:0; "
            "a name has at most 60 characters, no slash and no bar."
        )
    pairs = (split_folds(part, "--model") for part in parts)
    return ModelSpec(name, tuple((Path(folder).expanduser(), folds) for folder, folds in pairs))


@dataclass(frozen=True)
class ModelCost:
    """Cost of predicting one case with a model.

    FLOPs are those of convolutions (transposed ones included) and matrix products, 2 for each multiply-add (MAC);
    normalisation, nonlinearities and resampling are left out. Nothing here is timed.

    Attributes:
        name: of the model.
        networks: folds of all model folders.
        parameters: of all networks together.
        flops_per_patch: FLOPs of one forward pass of one network, batch size 1, deep supervision off.
        macs_per_patch: multiply-adds of the same, half the FLOPs.
        windows: sliding windows of a case at nnU-Net's step size 0.5.
        mirrors: mirrored versions of a window: 2 to the power of the mirrored axes, 1 without mirroring.
        passes_per_case: forward passes: windows x mirrors x networks, summed over model folders.
        flops_per_case: FLOPs of all passes.
        macs_per_case: multiply-adds of all passes.
        patch_size: voxels (z, y, x) or (y, x).
        input_channels: of the network; the one-hot previous stage of a cascade counts.
        configuration: nnU-Net's name.

    Of several model folders ``flops_per_patch``, ``macs_per_patch``, ``windows``, ``mirrors``, ``patch_size``,
    ``input_channels`` and ``configuration`` are None where the folders differ.
    """

    name: str
    networks: int
    parameters: int
    flops_per_patch: int | None
    macs_per_patch: int | None
    windows: int | None
    mirrors: int | None
    passes_per_case: int
    flops_per_case: int
    macs_per_case: int
    patch_size: tuple[int, ...] | None
    input_channels: int | None
    configuration: str | None


def count_models(
    name: str,
    models: Sequence[TeacherModel],
    mirroring: bool | None = None,
    image_shape: Sequence[int] | None = None,
) -> ModelCost:
    """Counts the cost of one or more model folders (``ModelSpec.find``), which predict a case one after another.

    Args:
        name: of the model.
        models: its folders and folds.
        mirroring: False for none, as ``nnUNetv2_predict --disable_tta``; else over the axes that the checkpoints allow.
        image_shape: voxels (z, y, x) of the preprocessed case; None for the median image of the data set.

    Raises:
        UserError: when a checkpoint is unreadable.
    """
    costs = [_count(name, model, mirroring, image_shape) for model in models]
    whole: dict[str, Any] = {"name": name}
    for key in (f.name for f in fields(ModelCost) if f.name != "name"):
        values = [getattr(c, key) for c in costs]
        common = values[0] if len(set(values)) == 1 else None
        whole[key] = sum(values) if key in SUMMED else common
    return ModelCost(**whole)


def _count(name: str, model: TeacherModel, mirroring: bool | None, image_shape: Sequence[int] | None) -> ModelCost:
    checkpoint = load_checkpoint_file(model.checkpoint_file(model.folds[0]))  # nnU-Net, too, asks the first fold
    axes = () if mirroring is False else checkpoint.get("inference_allowed_mirroring_axes") or ()
    cost = measure(
        model.plans_manager,
        model.configuration,
        model.dataset_json,
        name,
        str(checkpoint["trainer_name"]),
        len(model.folds),
        mirrored=True,
        mirror_axes=len(axes),
        image_shape=image_shape,
    )
    return ModelCost(
        name=name,
        networks=cost.folds,
        parameters=cost.all_parameters,
        flops_per_patch=cost.flops_per_patch,
        macs_per_patch=cost.flops_per_patch // 2,
        windows=cost.windows,
        mirrors=2 ** len(axes),
        passes_per_case=cost.passes(mirrored=True),
        flops_per_case=cost.flops_per_image,
        macs_per_case=cost.flops_per_image // 2,
        patch_size=tuple(model.configuration_manager.patch_size),
        input_channels=determine_num_input_channels(
            model.plans_manager, model.configuration_manager, model.dataset_json
        ),
        configuration=model.configuration,
    )
