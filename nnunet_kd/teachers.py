"""Find, check and load frozen teachers: trained nnU-Net model folders."""

import contextlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.config import Ensemble, Teacher
from nnunet_kd.errors import UserError
from nnunet_kd.files import check_component, file_sha256, load_json_file
from nnunet_kd.nnunet_files import read_dataset_json, read_plans
from nnunet_kd.safe_files import load_torch_file


class NetworkError(UserError):
    """A network cannot be built from the arguments that plans give."""


def load_checkpoint_file(file: Path) -> dict[str, Any]:
    """Loads an nnU-Net checkpoint onto the CPU without running any code that it may hold.

    Raises:
        UserError: when the file is missing, damaged, no checkpoint, or holds objects that no nnU-Net checkpoint holds.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; finish that training or name another checkpoint.")
    checkpoint = load_torch_file(file, "nnU-Net checkpoint")
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise UserError(f"{file}: not an nnU-Net checkpoint, it has no 'network_weights'.")
    weights = checkpoint["network_weights"]
    if not isinstance(weights, dict) or not all(isinstance(w, torch.Tensor) for w in weights.values()):
        raise UserError(f"{file}: not an nnU-Net checkpoint, its 'network_weights' are no tensors by name.")
    if not isinstance(checkpoint.get("trainer_name"), str):
        raise UserError(f"{file}: not an nnU-Net checkpoint, it has no 'trainer_name'.")
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    if axes is not None and not (isinstance(axes, list | tuple) and set(axes) <= {0, 1, 2}):
        raise UserError(f"{file}: found inference_allowed_mirroring_axes {axes!r}, expected some of 0, 1, 2.")
    return checkpoint


@dataclass(frozen=True)
class TeacherModel:
    """A trained model folder ``<trainer>__<plans>__<configuration>`` and the folds of it that teach."""

    folder: Path
    configuration: str
    folds: tuple[int | str, ...]
    checkpoint: str = "checkpoint_final.pth"

    @cached_property
    def plans_manager(self) -> PlansManager:
        """The plans that nnU-Net copied into the model folder, checked."""
        return PlansManager(read_plans(self.folder / "plans.json", self.configuration))

    @cached_property
    def configuration_manager(self) -> ConfigurationManager:
        """The configuration that the teacher was trained with."""
        return self.plans_manager.get_configuration(self.configuration)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """The dataset.json that nnU-Net copied into the model folder, checked."""
        return read_dataset_json(self.folder / "dataset.json")

    def check(self) -> None:
        """Reads plans, dataset.json and the checkpoints of all folds, before nnU-Net does, which runs what they hold.

        Raises:
            UserError: names the file and what is wrong with it.
        """
        _ = self.plans_manager, self.dataset_json
        for fold in self.folds:
            load_checkpoint_file(self.checkpoint_file(fold))

    def checkpoint_file(self, fold: int | str) -> Path:
        """Path of a fold's checkpoint."""
        return self.folder / f"fold_{fold}" / self.checkpoint

    def checkpoint_sha256(self, fold: int | str) -> str:
        """SHA-256 of a fold's checkpoint, hexadecimal."""
        return file_sha256(self.checkpoint_file(fold))

    def validation_summary(self, fold: int | str) -> dict[str, Any] | None:
        """``validation/summary.json`` of a fold, or None where nnU-Net did not validate it."""
        file = self.folder / f"fold_{fold}" / "validation" / "summary.json"
        return load_json_file(file) if file.is_file() else None

    def with_folds(self, keep: Sequence[int | str]) -> "TeacherModel":
        """The same model with only those of its folds that are in ``keep``."""
        return TeacherModel(self.folder, self.configuration, tuple(f for f in self.folds if f in keep), self.checkpoint)


def find_teachers(teachers: Sequence[Teacher], dataset_results: Path, default_folder: str) -> list[TeacherModel]:
    """Resolves the teachers of a ``"kd"`` block to finished model folders.

    Args:
        teachers: ``kd.teachers``.
        dataset_results: ``nnUNet_results/DatasetXXX_NAME``.
        default_folder: model folder that an empty list stands for, with all its finished folds.

    Raises:
        UserError: says which folder, fold or checkpoint was looked for, and the command that makes it.
    """
    default = (Teacher(folder=default_folder),)
    return [_find_teacher(t, dataset_results) for t in teachers or default]


def _find_teacher(teacher: Teacher, dataset_results: Path) -> TeacherModel:
    by_name = re.fullmatch(r"[^/\\]+__[^/\\]+__[^/\\]+", teacher.folder) is not None
    folder = dataset_results / teacher.folder if by_name else Path(teacher.folder).expanduser()
    return find_model(folder, teacher.folds, teacher.checkpoint, "teacher")


def find_model(
    folder: Path,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    role: str = "model",
) -> TeacherModel:
    """A finished model folder.

    Args:
        folder: ``TRAINER__PLANS__CONFIGURATION``, anywhere.
        folds: None for every finished fold (``all`` only where no numbered one is finished).
        checkpoint: file name of the checkpoint in each fold.
        role: what a message calls it.

    Raises:
        UserError: says which folder, fold or checkpoint was looked for, and the command that makes it.
    """
    folder = folder.absolute()
    parts = folder.name.split("__")
    if len(parts) == 3:
        fold = "FOLD" if folds is None else str(folds[0]) if folds else "FOLD"
        mend = f"make it with: nnUNetv2_train {folder.parent.name} {parts[2]} {fold} -tr {parts[0]} -p {parts[1]}"
    else:
        mend = "a model folder is named TRAINER__PLANS__CONFIGURATION"
    check_component(checkpoint, f"{role} checkpoint")
    if not _is_folder(folder) or len(parts) != 3:
        raise UserError(f"{role} {folder}: no such model folder; {mend}.")
    if folds is None:
        found = sorted(p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{checkpoint}"))
        folds = tuple(int(f) for f in found if f.isdecimal()) or tuple(f for f in found if f == "all")
    model = TeacherModel(folder, parts[2], tuple(folds), checkpoint)
    missing = [str(model.checkpoint_file(f)) for f in folds if not model.checkpoint_file(f).is_file()]
    if missing or not folds:
        what = missing[0] if missing else str(folder / "fold_*" / checkpoint)
        raise UserError(f"{role} {what}: no finished training; {mend}.")
    _ = model.plans_manager, model.dataset_json  # are they as they should be?
    return model


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that the file system does not take
        return False


def split_folds(text: str, flag: str) -> tuple[str, tuple[int | str, ...] | None]:
    """Folder and folds of ``FOLDER[:FOLDS]``; FOLDS is ``0,1,2`` or ``all``, None when there are none.

    Raises:
        UserError: for folds that are neither; ``flag`` says where they were given.
    """
    folder, colon, folds = text.rpartition(":")
    if not colon or set(folds) & set("/\\"):  # the colon of a Windows drive
        return text, None
    if not re.fullmatch(r"all|\d+(,\d+)*", folds):
        raise UserError(f"{flag} {text}: found the folds {folds!r}, expected for example :0,1,2 or :all.")
    return folder, tuple(dict.fromkeys(f if f == "all" else int(f) for f in folds.split(",")))


def build_network(
    plans_manager: PlansManager, configuration: str, dataset_json: dict, trainer_name: str
) -> torch.nn.Module:
    """Builds a trainer's network for inference (deep supervision off), with random weights.

    Raises:
        UserError: when nnU-Net does not find the trainer.
        NetworkError: when the network's class refuses its arguments.
    """
    cm = plans_manager.get_configuration(configuration)
    inputs = determine_num_input_channels(plans_manager, cm, dataset_json)
    outputs = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    try:
        build = recursive_find_trainer_class_by_name(trainer_name).build_network_architecture
    except Exception as err:  # nnU-Net imports whatever is in nnUNet_extTrainer
        raise UserError(
            f"trainer {trainer_name}: cannot be imported, but its network is needed; install the package it comes "
            "from or add its folder to nnUNet_extTrainer."
        ) from err
    arguments: tuple[Any, ...] = (plans_manager, cm)
    if "plans_manager" not in inspect.signature(build).parameters:  # trainers written for nnU-Net < 2.8
        arguments = (
            cm.network_arch_class_name,
            cm.network_arch_init_kwargs,
            cm.network_arch_init_kwargs_req_import,
        )
    try:
        return build(*arguments, inputs, outputs, enable_deep_supervision=False)
    except Exception as err:  # whatever a class says about arguments that do not fit it
        name, reason = cm.network_arch_class_name.rpartition(".")[2], " ".join(str(err).split())[:200]
        raise NetworkError(
            f"{plans_manager.plans_name}, {configuration}: {name} cannot be built from its arguments "
            f"({reason or type(err).__name__})."
        ) from err


def load_trained(model: TeacherModel, fold: int | str) -> dict[str, Any]:
    """The checkpoint of a fold that shall predict.

    Raises:
        UserError: when it cannot be read, or holds weights that are not finite.
    """
    file = model.checkpoint_file(fold)
    checkpoint = load_checkpoint_file(file)
    for name, weights in checkpoint["network_weights"].items():
        if not weights.isfinite().all():
            raise UserError(
                f"{file}: its weights {name} are not all finite, this training diverged; train fold {fold} again or "
                "leave it out."
            )
    return checkpoint


def set_weights(network: torch.nn.Module, checkpoint: dict[str, Any], model: TeacherModel, fold: int | str) -> None:
    """Gives a network the weights of a fold's checkpoint.

    Raises:
        UserError: when they do not fit.
    """
    try:
        network.load_state_dict(checkpoint["network_weights"])
    except RuntimeError as err:
        raise UserError(
            f"{model.checkpoint_file(fold)}: does not fit the network in {model.folder / 'plans.json'}."
        ) from err


def load_network(model: TeacherModel, fold: int | str, device: torch.device) -> tuple[torch.nn.Module, dict[str, Any]]:
    """One frozen teacher on ``device``, in evaluation mode and without deep supervision, and its checkpoint.

    Raises:
        UserError: when the training diverged, or the checkpoint does not fit the network that its plans describe.
    """
    checkpoint = load_trained(model, fold)
    with contextlib.redirect_stdout(None):  # nnU-Net talks about trainer folders at every look-up
        network = build_network(
            model.plans_manager, model.configuration, model.dataset_json, str(checkpoint["trainer_name"])
        )
    set_weights(network, checkpoint, model, fold)
    return network.requires_grad_(False).to(device).eval(), checkpoint


def finite_logits(predict: Callable[[], torch.Tensor], network: str, where: str) -> torch.Tensor:
    """What a network gives, refused when it is not finite: nnU-Net 2.8 takes NaN for background, and stops at infinity.

    Args:
        predict: runs the network.
        network: name of the model folder and its fold.
        where: what it is given.

    Raises:
        UserError: names the network.
    """
    try:
        logits = predict()
        finite = bool(logits.isfinite().all())
    except RuntimeError as err:
        if "inf in predicted array" not in str(err):
            raise
        finite = False
    if not finite:
        raise UserError(
            f"{network}: its logits for {where} are not finite; train it again or leave it out, or look for extreme "
            'values in the image and set precision in the "kd" block to bf16.'
        )
    return logits


def load_predictor(model: TeacherModel, fold: int | str, ensemble: Ensemble, device: torch.device) -> nnUNetPredictor:
    """One frozen teacher inside nnU-Net's own predictor, on ``device``, ready for
    ``predict_sliding_window_return_logits``.

    Raises:
        UserError: when the training diverged, or the checkpoint does not fit the network that its plans describe.
    """
    network, checkpoint = load_network(model, fold, device)
    with contextlib.redirect_stdout(None):  # and about devices
        predictor = nnUNetPredictor(
            tile_step_size=ensemble.step_size,
            use_gaussian=ensemble.use_gaussian,
            use_mirroring=ensemble.mirroring,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
    predictor.manual_initialization(
        network,
        model.plans_manager,
        model.configuration_manager,
        None,
        model.dataset_json,
        str(checkpoint["trainer_name"]),
        checkpoint.get("inference_allowed_mirroring_axes"),
    )
    return predictor
