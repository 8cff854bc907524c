"""Content of ``bundle.json``, checked once and typed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .verify import DESCRIPTION, BundleError

PRECISIONS = ("fp32", "bf16", "int8")
NORMALIZATIONS = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
READERS = (
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "NibabelIO",
    "NibabelIOWithReorient",
    "NaturalImage2DIO",
    "Tiff3DIO",
)
_LARGEST_PATCH = 1 << 30  # voxels


@dataclass(frozen=True)
class Normalization:
    """How a channel's intensities are normalised.

    Attributes:
        scheme: nnU-Net's name of it.
        use_mask: z-scores are those of the voxels inside the nonzero mask.
        mean, std, lower, upper: intensities of the training images' foreground, for ``CTNormalization``.
    """

    scheme: str
    use_mask: bool
    mean: float = 0.0
    std: float = 1.0
    lower: float = 0.0
    upper: float = 0.0


@dataclass(frozen=True)
class Resampling:
    """Interpolation between two grids.

    Attributes:
        order: 0 nearest, 1 linear, 3 cubic spline.
        order_between_slices: the same along the axis of the slices, where slices are resampled one by one.
        separate_slices: whether they are; None decides by the spacing.
        anisotropy_threshold: ratio of the largest to the smallest spacing above which they are.
        half: the result is rounded to half precision.
    """

    order: int
    order_between_slices: int = 0
    separate_slices: bool | None = None
    anisotropy_threshold: float = 3.0
    half: bool = False


@dataclass(frozen=True)
class Description:
    """A bundle. Spatial axes are those of the network, (z, y, x) after ``transpose``, unless noted.

    Attributes:
        files: engine (``openvino``, ``onnx``) -> network file.
        precision: of the network.
        patch_size: voxels of the network's input; two numbers for slices.
        inputs, outputs: channels of the network.
        mirror_axes: axes of the patch that test-time mirroring flips.
        step_size: of the sliding window, fraction of the patch.
        reader: nnU-Net's name of the image reader.
        file_ending: of images and segmentations.
        channels: names of the image channels.
        transpose: axis of the image for each axis of the network.
        spacing: mm, as many as ``patch_size``.
        normalization: of each channel.
        data_resampling, probabilities_resampling: to the network's grid and back; None for none.
        labels: as in nnU-Net's dataset.json.
        regions_class_order: label that each region is painted with, in this order; None for classes.
        foreground_labels: how many labels there are beside background and ignore.
        dataset_json, plans: as in the model folder.
    """

    files: Mapping[str, str]
    precision: str
    patch_size: tuple[int, ...]
    inputs: int
    outputs: int
    mirror_axes: tuple[int, ...]
    step_size: float
    reader: str
    file_ending: str
    channels: tuple[str, ...]
    transpose: tuple[int, ...]
    spacing: tuple[float, ...]
    normalization: tuple[Normalization, ...]
    data_resampling: Resampling | None
    probabilities_resampling: Resampling | None
    labels: Mapping[str, Any]
    regions_class_order: tuple[int, ...] | None
    foreground_labels: int
    dataset_json: Mapping[str, Any]
    plans: Mapping[str, Any]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Description":
        """Checks the content of ``bundle.json``.

        Raises:
            BundleError: names the key that is missing, of a wrong type or out of range.
        """
        network, image = _part(content, "network"), _part(content, "image")
        pre, labels = _part(content, "preprocessing"), _part(content, "labels")
        files = {k: _value(v, str, f"network.files.{k}") for k, v in _part(network, "files", "network.").items()}
        unknown = [f for f in files.values() if f not in content["files"]]
        if not files or unknown or not set(files) <= {"openvino", "onnx"}:
            raise _error("network.files", "openvino and onnx, each a file of the bundle", network["files"])
        patch = _numbers(network, "patch_size", int, (2, 3), "network.")
        if min(patch) < 1 or math.prod(patch) > _LARGEST_PATCH:
            raise _error("network.patch_size", "a patch of at least one voxel that fits into memory", list(patch))
        inputs = _integer(network, "inputs", 1, 4096, "network.")
        normalization = tuple(_normalization(n) for n in _sequence(pre, "normalization", "preprocessing."))
        channels = tuple(_value(c, str, "image.channels") for c in _sequence(image, "channels", "image."))
        if not len(normalization) == len(channels) == inputs:
            raise _error("network.inputs", "as many channels as there are names and normalisations", inputs)
        transpose = _numbers(pre, "transpose", int, (3,), "preprocessing.")
        if sorted(transpose) != [0, 1, 2]:
            raise _error("preprocessing.transpose", "an order of the axes 0, 1, 2", list(transpose))
        spacing = _numbers(pre, "spacing", float, (len(patch),), "preprocessing.")
        if min(spacing) <= 0:
            raise _error("preprocessing.spacing", "millimetres above 0", list(spacing))
        mirror = _numbers(network, "mirror_axes", int, (0, 1, 2, 3), "network.")
        if any(not 0 <= a < len(patch) for a in mirror):
            raise _error("network.mirror_axes", "axes of the patch", list(mirror))
        outputs = _integer(network, "outputs", 1, 65535, "network.")
        order = labels.get("regions_class_order")
        if order is not None:
            order = _numbers(labels, "regions_class_order", int, (outputs,), "labels.")
            if not all(0 <= label < 65536 for label in order):
                raise _error("labels.regions_class_order", "labels from 0 to 65535", list(order))
        step = _value(network.get("step_size"), float, "network.step_size")
        if not 0 < step <= 1:
            raise _error("network.step_size", "a fraction of the patch", step)
        ending = _value(image.get("file_ending"), str, "image.file_ending")
        if not ending.startswith(".") or set(ending) & set("/\\"):
            raise _error("image.file_ending", "an ending such as .nii.gz", ending)
        return cls(
            files=files,
            precision=_choice(network, "precision", PRECISIONS, "network."),
            patch_size=patch,
            inputs=inputs,
            outputs=outputs,
            mirror_axes=mirror,
            step_size=step,
            reader=_choice(image, "reader", READERS, "image."),
            file_ending=ending,
            channels=channels,
            transpose=transpose,
            spacing=spacing,
            normalization=normalization,
            data_resampling=_resampling(pre, "resampling", "preprocessing."),
            probabilities_resampling=_resampling(content, "probabilities_resampling"),
            labels=_part(labels, "names", "labels."),
            regions_class_order=order,
            foreground_labels=_integer(labels, "foreground", 0, 65535, "labels."),
            dataset_json=_part(content, "dataset_json"),
            plans=_part(content, "plans"),
        )


def _error(key: str, expected: str, found: Any) -> BundleError:
    return BundleError(f"{DESCRIPTION}: {key} is {str(found)[:80]}, expected {expected}; export the bundle again.")


def _value(value: Any, kind: type, key: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 53 else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _error(key, {int: "an integer", float: "a number", str: "text", bool: "true or false"}[kind], value)
    return value


def _part(content: Mapping[str, Any], key: str, prefix: str = "") -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise _error(prefix + key, "an object", value)
    return value


def _sequence(content: Mapping[str, Any], key: str, prefix: str) -> Sequence[Any]:
    value = content.get(key)
    if not isinstance(value, list) or len(value) > 65536:
        raise _error(prefix + key, "a list", value)
    return value


def _numbers(content: Mapping[str, Any], key: str, kind: type, lengths: Sequence[int], prefix: str) -> tuple[Any, ...]:
    values = tuple(_value(v, kind, prefix + key) for v in _sequence(content, key, prefix))
    if len(values) not in lengths:
        raise _error(prefix + key, f"{' or '.join(map(str, lengths))} numbers", list(values))
    return values


def _integer(content: Mapping[str, Any], key: str, lowest: int, highest: int, prefix: str) -> int:
    value = _value(content.get(key), int, prefix + key)
    if not lowest <= value <= highest:
        raise _error(prefix + key, f"{lowest} to {highest}", value)
    return value


def _choice(content: Mapping[str, Any], key: str, choices: Sequence[str], prefix: str) -> str:
    if content.get(key) not in choices:
        raise _error(prefix + key, "one of " + ", ".join(choices), content.get(key))
    return content[key]


def _normalization(content: Any) -> Normalization:
    key = "preprocessing.normalization"
    if not isinstance(content, dict):
        raise _error(key, "objects", content)
    numbers = {k: _value(content.get(k, 0.0), float, f"{key}.{k}") for k in ("mean", "std", "lower", "upper")}
    scheme = _choice(content, "scheme", NORMALIZATIONS, f"{key}.")
    return Normalization(scheme, _value(content.get("use_mask"), bool, f"{key}.use_mask"), **numbers)


def _resampling(content: Mapping[str, Any], key: str, prefix: str = "") -> Resampling | None:
    if key in content and content[key] is None:
        return None
    part, where = _part(content, key, prefix), f"{prefix}{key}."
    orders = [_integer(part, k, 0, 3, where) for k in ("order", "order_between_slices")]
    if 2 in orders or (prefix == "" and 3 in orders):
        raise _error(where + "order", "0 or 1, or 3 for images", orders)
    separate = part.get("separate_slices")
    return Resampling(
        orders[0],
        orders[1],
        None if separate is None else _value(separate, bool, where + "separate_slices"),
        _value(part.get("anisotropy_threshold"), float, where + "anisotropy_threshold"),
        _value(part.get("half"), bool, where + "half"),
    )
