"""nnU-Net's plans, dataset.json and splits_final.json, read and checked where they enter.

Whatever comes back is safe to hand to nnU-Net: names that it looks up are those of networks, readers and the like, not
of anything else that is importable, and names that become part of a path do not lead to other folders.
"""

import importlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.utilities import dotted_names
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import check_component, load_json_file
from nnunet_kd.utilities.schema import REQUIRED, from_dict, number, value

_RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
_INTENSITIES = ("mean", "std", "percentile_00_5", "percentile_99_5")
_COUNTS = {  # arguments of networks, and what no network reaches
    "n_stages": 100,
    **dict.fromkeys(("n_conv_per_stage", "n_blocks_per_stage", "n_conv_per_stage_decoder"), 1000),
    "features_per_stage": 10**6,
}


@dataclass(frozen=True)
class _Architecture:
    network_class_name: str = value(REQUIRED, "dotted name")
    arch_kwargs: dict = value(REQUIRED, "arguments of the class")
    _kw_requires_import: tuple[str, ...] = value(REQUIRED, "those that are dotted names")


@dataclass(frozen=True)
class _Configuration:
    """The keys that nnU-Net and this package read, of a configuration with what it inherits."""

    data_identifier: str = value(REQUIRED, "folder")
    preprocessor_name: str = value(REQUIRED, "class")
    batch_size: int = number(REQUIRED, "cases", minimum=1)
    patch_size: tuple[int, ...] = number(REQUIRED, "voxels", minimum=1)
    median_image_size_in_voxels: tuple[float, ...] = number(REQUIRED, "voxels", above=0)
    spacing: tuple[float, ...] = number(REQUIRED, "mm", above=0)
    normalization_schemes: tuple[str, ...] = value(REQUIRED, "classes")
    use_mask_for_norm: tuple[bool, ...] = value(REQUIRED, "of each channel")
    resampling_fn_data: str = value(REQUIRED, "function")
    resampling_fn_data_kwargs: dict = value(REQUIRED, "arguments")
    resampling_fn_seg: str = value(REQUIRED, "function")
    resampling_fn_seg_kwargs: dict = value(REQUIRED, "arguments")
    resampling_fn_probabilities: str = value(REQUIRED, "function")
    resampling_fn_probabilities_kwargs: dict = value(REQUIRED, "arguments")
    batch_dice: bool = value(REQUIRED, "loss")
    architecture: _Architecture = value(REQUIRED, "network")
    previous_stage: str | None = value(None, "of a cascade")

    def check(self, path: str) -> None:
        """Numbers of axes and channels agree; what is counted is not absurd."""
        dim = len(self.patch_size)
        if dim not in (2, 3):
            raise UserError(f"{path}.patch_size: found {list(self.patch_size)}, expected 2 or 3 numbers.")
        for key in ("median_image_size_in_voxels", "spacing"):
            if len(getattr(self, key)) != dim:
                raise UserError(f"{path}.{key}: found {list(getattr(self, key))}, expected {dim} numbers.")
        if len(self.normalization_schemes) != len(self.use_mask_for_norm):
            raise UserError(f"{path}: normalization_schemes and use_mask_for_norm have not one entry for each channel.")
        check_counts(self.architecture.arch_kwargs, f"{path}.architecture.arch_kwargs")
        _check_strides(self.architecture.arch_kwargs.get("strides", []), dim, f"{path}.architecture.arch_kwargs")


@dataclass(frozen=True)
class _Plans:
    dataset_name: str = value(REQUIRED, "folder")
    plans_name: str = value(REQUIRED, "file")
    configurations: dict = value(REQUIRED, "by name")
    image_reader_writer: str = value(REQUIRED, "class")
    transpose_forward: tuple[int, ...] = value(REQUIRED, "axes")
    transpose_backward: tuple[int, ...] = value(REQUIRED, "axes")
    original_median_shape_after_transp: tuple[float, ...] = number(REQUIRED, "voxels", above=0)
    label_manager: str = value("LabelManager", "class")
    foreground_intensity_properties_per_channel: dict = field(default_factory=dict, metadata={})
    kd: dict = field(default_factory=dict, metadata={})

    def check(self, path: str) -> None:
        """The two transpositions are each other's inverse."""
        forward, backward = self.transpose_forward, self.transpose_backward
        if sorted(forward) != [0, 1, 2] or [backward[i] for i in forward if i < len(backward)] != [0, 1, 2]:
            raise UserError(
                f"{path}.transpose_forward: found {list(forward)} and back {list(backward)}, expected an order of "
                "0, 1, 2 and its inverse."
            )


def read_plans(file: Path, configuration: str | None = None) -> dict[str, Any]:
    """Reads a plans file and checks it, see :func:`check_plans`."""
    plans = load_json_file(file)
    check_plans(plans, str(file), configuration)
    return plans


def check_plans(plans: Mapping[str, Any], where: str, configuration: str | None = None) -> None:
    """Checks names in all configurations, and every key of one of them.

    Args:
        plans: content of a plans file; not changed.
        where: file, for messages.
        configuration: the one that is used; with the previous stages that it needs. None: all.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    manager = PlansManager(dict(plans))
    top = from_dict(_Plans, plans, where, other_keys=True)
    for key in ("dataset_name", "plans_name"):
        check_component(getattr(top, key), f"{where}: {key}")
    _check_lookup("imageio", top.image_reader_writer, BaseReaderWriter, f"{where}: image_reader_writer")
    _check_lookup("utilities.label_handling", top.label_manager, LabelManager, f"{where}: label_manager")
    resolved = {name: _resolve(manager, name, where) for name in top.configurations}
    for name, content in resolved.items():
        _check_names(content, f"{where}: configurations.{name}")
    for name in _used(configuration, resolved, where):
        path = f"{where}: configurations.{name}"
        checked = from_dict(_Configuration, resolved[name], path, other_keys=True)
        if "CTNormalization" in checked.normalization_schemes:
            _check_intensities(plans, len(checked.normalization_schemes), where)


def _used(configuration: str | None, resolved: Mapping[str, Any], where: str) -> list[str]:
    """The configuration and its previous stages, or all."""
    if configuration is None:
        return list(resolved)
    used: list[str] = []
    name: Any = configuration
    while name is not None and name not in used:
        if not isinstance(name, str) or name not in resolved:
            raise UserError(f"{where}: has no configuration {name!r}, only {', '.join(resolved)}.")
        used.append(name)
        name = resolved[name].get("previous_stage")
    return used


def _resolve(manager: PlansManager, name: str, where: str) -> dict[str, Any]:
    """A configuration with what it inherits, in the form of nnU-Net >= 2.5."""
    check_component(name, f"{where}: configurations")
    path = f"{where}: configurations.{name}"
    if not isinstance(manager.plans["configurations"][name], dict):
        raise UserError(f"{path}: expected an object.")
    try:
        return manager.get_configuration(name).configuration
    except KeyError as err:
        raise UserError(f"{path}: has no {err}.") from None
    except Exception as err:  # nnU-Net's words about configurations that inherit in a circle or from nowhere
        raise UserError(f"{path}: nnU-Net cannot read it ({' '.join(str(err).split())[:200]}).") from err


def _check_names(configuration: Mapping[str, Any], path: str) -> None:
    """Refuses names that lead elsewhere, also in a configuration that is not used: nnU-Net might use it."""
    if "data_identifier" in configuration:
        check_component(configuration["data_identifier"], f"{path}.data_identifier")
    if "preprocessor_name" in configuration:
        where = f"{path}.preprocessor_name"
        _check_lookup("preprocessing", configuration["preprocessor_name"], DefaultPreprocessor, where)
    schemes = configuration.get("normalization_schemes", [])
    for scheme in schemes if isinstance(schemes, list) else [schemes]:
        _check_lookup("preprocessing.normalization", scheme, ImageNormalization, f"{path}.normalization_schemes")
    for key in _RESAMPLING:
        if key in configuration:
            _check_resampling(configuration[key], configuration.get(f"{key}_kwargs", {}), f"{path}.{key}")
    _check_dotted_names(configuration["architecture"], f"{path}.architecture")


def _check_dotted_names(architecture: Any, path: str) -> None:
    """The network's class, and the arguments of it that are imported, are networks and parts of networks."""
    names = from_dict(_Architecture, architecture, path, other_keys=True)
    checks = [("network_class_name", names.network_class_name, dotted_names.is_module_class)]
    for key in names._kw_requires_import:
        if key not in names.arch_kwargs:
            raise UserError(f"{path}._kw_requires_import: names {key!r}, which is not among arch_kwargs.")
        if names.arch_kwargs[key] is not None:
            checks.append((f"arch_kwargs.{key}", names.arch_kwargs[key], dotted_names.is_part))
    for key, name, fits in checks:
        try:
            found = _locate(name) if key == "network_class_name" else dotted_names.locate(name)
        except (ValueError, ImportError) as err:
            raise UserError(f"{path}.{key}: {err}.") from err
        if not fits(found):
            raise UserError(f"{path}.{key}: found {name!r}, expected a torch.nn.Module or a part of one.")


def _locate(name: str) -> Any:
    """A network's class; nnU-Net looks among dynamic_network_architectures for those that have moved."""
    try:
        return dotted_names.locate(name)
    except ImportError:
        found = _find("dynamic_network_architectures.architectures", name.rpartition(".")[2])
        if found is None:
            raise
        return found


def _check_lookup(package: str, name: Any, base: type, where: str) -> None:
    """nnU-Net looks a name up in its modules, and would take whatever is there."""
    found = _find(f"nnunetv2.{package}", name) if isinstance(name, str) and name.isidentifier() else None
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise UserError(f"{where}: found {name!r}, which is no {base.__name__} of this nnU-Net.")


def _check_resampling(name: Any, arguments: Any, where: str) -> None:
    package = "nnunetv2.preprocessing.resampling"
    found = _find(package, name) if isinstance(name, str) and name.isidentifier() else None
    if not (inspect.isfunction(found) and found.__module__.startswith(package)):
        raise UserError(f"{where}: found {name!r}, which is no resampling function of this nnU-Net.")
    try:
        inspect.signature(found).bind(*[None] * 4, **arguments)  # data, shape, spacings
    except TypeError as err:
        raise UserError(f"{where}_kwargs: found {arguments!r}, which {name} does not take ({err}).") from None


def _find(package: str, name: str) -> Any:
    folder = importlib.import_module(package).__path__[0]
    return recursive_find_python_class(folder, name, package, base_folder=nnunetv2.__path__[0])


def check_counts(arguments: Mapping[str, Any], where: str) -> None:
    """Refuses numbers of stages, blocks, convolutions and channels that are none, or would take minutes to build.

    Args:
        arguments: of the network's class.
        where: of them, for messages.

    Raises:
        UserError: names the argument.
    """
    for key, most in _COUNTS.items():
        counts = arguments.get(key, [])
        for n in counts if isinstance(counts, list | tuple) else [counts]:
            if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= most:
                raise UserError(f"{where}: {key}: found {n!r}, expected integers from 0 to {most}.")


def _check_strides(strides: Any, dim: int, where: str) -> None:
    if not isinstance(strides, list) or not all(_is_stride(s, dim) for s in strides):
        raise UserError(f"{where}: strides: found {strides!r}, expected {dim} positive integers for each stage.")


def _is_stride(stride: Any, dim: int) -> bool:
    return isinstance(stride, list) and len(stride) == dim and all(isinstance(s, int) and s >= 1 for s in stride)


def _check_intensities(plans: Mapping[str, Any], channels: int, where: str) -> None:
    key = "foreground_intensity_properties_per_channel"
    properties = plans.get(key, plans.get("foreground_intensity_properties_by_modality"))
    for channel in map(str, range(channels)):
        of_channel = properties.get(channel) if isinstance(properties, dict) else None
        for name in _INTENSITIES:
            number = of_channel.get(name) if isinstance(of_channel, dict) else None
            if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
                raise UserError(f"{where}: {key}.{channel}.{name}: found {number!r}, CTNormalization needs a number.")


def read_dataset_json(file: Path) -> dict[str, Any]:
    """Reads a ``dataset.json`` and checks channels, labels and file ending.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    content = load_json_file(file)
    channels = content.get("channel_names", content.get("modality"))
    if not isinstance(channels, dict) or not channels:
        raise UserError(f"{file}: channel_names: found {channels!r}, expected an object with one entry for each.")
    ending = content.get("file_ending")
    check_component(ending, f"{file}: file_ending")
    if not str(ending).startswith("."):
        raise UserError(f"{file}: file_ending: found {ending!r}, expected for example '.nii.gz'.")
    check_label_values(content.get("labels"), str(file))
    try:
        labels = LabelManager(content["labels"], content.get("regions_class_order"))
    except (AssertionError, RuntimeError, TypeError, ValueError) as err:
        raise UserError(f"{file}: nnU-Net does not accept its labels ({' '.join(str(err).split())}).") from err
    if list(map(int, labels.all_labels)) != list(range(len(labels.all_labels))):
        raise UserError(f"{file}: labels: the values {labels.all_labels} are not 0, 1, 2 ... without gaps.")
    return content


def check_label_values(labels: Any, where: str) -> None:
    """Refuses labels that are not whole numbers >= 0 (or lists of them, regions), and a background without others.

    Raises:
        UserError: names the label.
    """
    if not isinstance(labels, dict) or "background" not in labels:
        raise UserError(f"{where}: labels: found {labels!r}, expected an object with background: 0 and other labels.")
    for name, given in labels.items():
        values = given if isinstance(given, list) else [given]
        if not values or not all(_is_label(v) for v in values):
            raise UserError(f"{where}: labels.{name}: found {given!r}, expected whole numbers >= 0.")
    if not set(labels) - {"background", "ignore"}:
        raise UserError(f"{where}: labels: there is no label beside the background.")


def _is_label(label: Any) -> bool:
    return isinstance(label, int | float) and not isinstance(label, bool) and label >= 0 and float(label).is_integer()


def read_splits(file: Path) -> list[dict[str, list[str]]]:
    """Reads ``splits_final.json``: training and validation cases of each fold; none where there is no file.

    Raises:
        UserError: when it is no list of objects with ``train`` and ``val``, or names of cases could not be files'.
    """
    if not file.is_file():
        return []
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise UserError(f"{file}: cannot be read ({err}).") from err
    if not isinstance(splits, list) or not all(_is_fold(s) for s in splits):
        raise UserError(f"{file}: expected a list with one object for each fold, which has the lists train and val.")
    for cases in (fold[part] for fold in splits for part in ("train", "val")):
        for case in cases:
            check_component(case, f"{file}: case")
    return splits


def _is_fold(fold: Any) -> bool:
    return isinstance(fold, dict) and all(isinstance(fold.get(part), list) for part in ("train", "val"))
