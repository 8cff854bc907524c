"""One stage of coarse-to-fine prediction: a trained nnU-Net model folder, loaded to predict regions."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.inference.box import Box
from nnunet_kd.inference.region import PreparedImage, fitted, resample_region
from nnunet_kd.softlabels.geometry import spacing_3d
from nnunet_kd.teachers.loading import build_network, finite_logits, load_trained, set_weights
from nnunet_kd.teachers.model import TeacherModel


@dataclass(frozen=True)
class Stage:
    """A model and nnU-Net's predictor with its networks.

    Attributes:
        model: the model folder.
        predictor: has ``predict_logits_from_preprocessed_data``.
        whole_region: one pass over the region, resized to the patch, in place of sliding windows.
    """

    model: TeacherModel
    predictor: Any
    whole_region: bool = False

    @property
    def plans(self) -> PlansManager:
        """The model's plans."""
        return self.model.plans_manager

    @property
    def labels(self) -> LabelManager:
        """The model's labels."""
        return self.plans.get_label_manager(self.model.dataset_json)

    def predict_logits(
        self, prepared: PreparedImage, region: Box
    ) -> tuple[torch.Tensor, dict[str, Any], ConfigurationManager]:
        """Logits (C, z, y, x) of a region of ``prepared.data``, nnU-Net's properties, and the configuration used."""
        configuration = self.model.configuration_manager
        if self.whole_region:
            configuration = fitted(prepared, region, self.plans, configuration)
        data, properties = resample_region(prepared, region, self.plans, configuration)
        predict = partial(self.predictor.predict_logits_from_preprocessed_data, torch.from_numpy(data))
        logits = finite_logits(predict, f"model {self.model.folder.name}", "this image").cpu()
        return logits, properties, configuration

    def mask(self, prepared: PreparedImage, region: Box) -> np.ndarray:
        """Label map of a region in the network's own grid, for finding things: nothing is resampled back."""
        logits, _, _ = self.predict_logits(prepared, region)
        return np.asarray(self.labels.convert_logits_to_segmentation(logits))

    def segment(self, prepared: PreparedImage, region: Box) -> np.ndarray:
        """Label map of the whole image in the axes of nnU-Net's reader, background outside the region."""
        logits, properties, configuration = self.predict_logits(prepared, region)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            logits.numpy(), self.plans, configuration, self.labels, properties
        )

    def patch_voxels(self, spacing_mm: Sequence[float]) -> list[int]:
        """Voxels of an image that one patch covers along each axis, in the preprocessed order of axes."""
        configuration = self.model.configuration_manager
        patch = [1, 1, *configuration.patch_size][-3:]
        target = spacing_3d(configuration, spacing_mm)
        return [int(np.ceil(p * t / s - 1e-6)) for p, t, s in zip(patch, target, spacing_mm, strict=True)]


def load_stage(
    model: TeacherModel, device: torch.device, step_size: float, mirroring: bool, whole_region: bool
) -> Stage:
    """Loads every fold of a model into nnU-Net's predictor.

    Raises:
        UserError: for checkpoints that cannot be read, are of a training that diverged or do not fit the plans.
    """
    checkpoints = [load_trained(model, f) for f in model.folds]
    first = checkpoints[0]
    trainer = str(first["trainer_name"])
    with contextlib.redirect_stdout(None):  # nnU-Net prints devices and trainer folders at every construction
        network = build_network(model.plans_manager, model.configuration, model.dataset_json, trainer)
        predictor = nnUNetPredictor(tile_step_size=step_size, use_mirroring=mirroring, device=device, allow_tqdm=False)
    for fold, checkpoint in zip(model.folds, checkpoints, strict=True):
        set_weights(network, checkpoint, model, fold)
    predictor.manual_initialization(
        network.to(device).eval(),
        model.plans_manager,
        model.configuration_manager,
        [c["network_weights"] for c in checkpoints],
        model.dataset_json,
        trainer,
        first.get("inference_allowed_mirroring_axes"),
    )
    return Stage(model, predictor, whole_region)
