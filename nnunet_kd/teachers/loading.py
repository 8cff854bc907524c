"""Load what a trained model folder holds: checkpoints, networks, predictors."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.config import Ensemble
from nnunet_kd.teachers.model import TeacherModel, load_checkpoint_file
from nnunet_kd.utilities.errors import UserError


class NetworkError(UserError):
    """A network cannot be built from the arguments that plans give."""


def find_trainer(name: str) -> Any:
    """A trainer's class, as nnU-Net finds it.

    Raises:
        UserError: when nnU-Net does not find it.
    """
    try:
        with contextlib.redirect_stdout(None):  # nnU-Net talks about trainer folders at every look-up
            return recursive_find_trainer_class_by_name(name)
    except Exception as err:  # nnU-Net imports whatever is in nnUNet_extTrainer
        raise UserError(
            f"trainer {name}: cannot be imported, but it is needed; mend the name, install the package it comes "
            "from or add its folder to nnUNet_extTrainer."
        ) from err


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
    build = find_trainer(trainer_name).build_network_architecture
    arguments: tuple[Any, ...] = (plans_manager, cm)
    if "plans_manager" not in inspect.signature(build).parameters:  # trainers written for nnU-Net < 2.8
        arguments = (
            cm.network_arch_class_name,
            cm.network_arch_init_kwargs,
            cm.network_arch_init_kwargs_req_import,
        )
    try:
        return build(*arguments, inputs, outputs, enable_deep_supervision=False)
    except Exception as err:  # whatever a class raises for arguments that do not fit it
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
    with contextlib.redirect_stdout(None):  # nnU-Net prints trainer folders at every look-up
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
