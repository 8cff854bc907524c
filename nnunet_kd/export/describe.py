"""Images, windows and labels of a model folder, as a bundle's ``bundle.json`` describes them."""

from collections.abc import Mapping
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.export.runtime.description import NORMALIZATIONS, READERS
from nnunet_kd.teachers.fitness import channel_names
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError

STEP_SIZE = 0.5  # of the sliding window, nnUNetv2_predict's default


def describe(model: TeacherModel) -> dict[str, Any]:
    """Everything in ``bundle.json`` that follows from plans and dataset.json; ``network`` is not complete yet.

    Raises:
        UserError: for what no bundle can do, with the reason.
    """
    plans, configuration, dataset_json = model.plans_manager, model.configuration_manager, model.dataset_json
    where = f"{model.folder / 'plans.json'}, {model.configuration}"
    labels = plans.get_label_manager(dataset_json)
    _check_supported(plans, configuration, labels, where)
    channels = channel_names(dataset_json)
    return {
        "network": {
            "patch_size": list(configuration.patch_size),
            "inputs": len(channels),
            "outputs": labels.num_segmentation_heads,
            "step_size": STEP_SIZE,
        },
        "image": {
            "channels": channels,
            "file_ending": dataset_json["file_ending"],
            "reader": plans.plans["image_reader_writer"],
        },
        "preprocessing": {
            "transpose": list(plans.transpose_forward),
            "spacing": [float(s) for s in configuration.spacing],
            "normalization": _normalization(plans, configuration, len(channels), where),
            "resampling": _resampling(configuration.configuration, "data", (0, 1, 3), where),
        },
        "probabilities_resampling": _resampling(configuration.configuration, "probabilities", (0, 1), where),
        "labels": {
            "names": dataset_json["labels"],
            "regions_class_order": [int(r) for r in dataset_json["regions_class_order"]]
            if labels.has_regions
            else None,
            "foreground": len(labels.foreground_labels),
        },
        "dataset_json": dataset_json,
        "plans": plans.plans,
    }


def _check_supported(plans: PlansManager, configuration: ConfigurationManager, labels: LabelManager, where: str):
    if configuration.previous_stage_name is not None:
        raise UserError(
            f"{where}: is cascaded, and a bundle holds one network; export {configuration.previous_stage_name} or a "
            "configuration without a previous stage."
        )
    if configuration.preprocessor_name != "DefaultPreprocessor":
        raise UserError(f"{where}: has the preprocessor {configuration.preprocessor_name}; only nnU-Net's default one "
                        "can be exported.")  # fmt: skip
    if type(labels) is not LabelManager:
        raise UserError(f"{where}: has the label manager {type(labels).__name__}; only nnU-Net's own can be exported.")
    if (reader := plans.plans["image_reader_writer"]) not in READERS:
        raise UserError(f"{where}: reads images by {reader}; only nnU-Net's readers can be exported.")


def _normalization(plans: PlansManager, configuration: ConfigurationManager, channels: int, where: str) -> list[dict]:
    result = []
    for channel in range(channels):
        scheme = configuration.normalization_schemes[channel]
        if scheme not in NORMALIZATIONS:
            raise UserError(f"{where}: normalises by {scheme}; only {', '.join(NORMALIZATIONS)} can be exported.")
        entry = {"scheme": scheme, "use_mask": bool(configuration.use_mask_for_norm[channel])}
        if scheme == "CTNormalization":
            known = plans.foreground_intensity_properties_per_channel[str(channel)]
            keys = {"mean": "mean", "std": "std", "lower": "percentile_00_5", "upper": "percentile_99_5"}
            entry |= {name: float(known[key]) for name, key in keys.items()}
        result.append(entry)
    return result


def _resampling(configuration: Mapping[str, Any], of: str, orders: tuple[int, ...], where: str) -> dict | None:
    """Settings of nnU-Net's resampling functions; ``half``: the planner's default rounds logits as they came."""
    function, settings = configuration[f"resampling_fn_{of}"], configuration[f"resampling_fn_{of}_kwargs"]
    if function == "no_resampling_hack":
        return None
    default = function == "resample_data_or_seg_to_shape"
    known = {"is_seg", "force_separate_z", "separate_z_anisotropy_threshold"}
    known |= {"order", "order_z"} if default else {"memefficient_seg_resampling", "num_threads"}
    between = (settings.get("order", 3), settings.get("order_z", 0)) if default else (1, 0)
    supported = default or function == "resample_torch_fornnunet"
    if not supported or set(settings) - known or settings.get("is_seg") or between[0] not in orders or between[1] > 1:
        raise UserError(f"{where}: resamples {of} by {function} with {dict(settings)}, which cannot be exported.")
    return {
        "order": between[0],
        "order_between_slices": between[1],
        "separate_slices": settings.get("force_separate_z", False if default else None),
        "anisotropy_threshold": float(settings.get("separate_z_anisotropy_threshold", 3)),
        "half": default and of == "probabilities",
    }
