"""From an image to the network's input: axes, crop to nonzero, intensities, spacing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label

from .description import Description, Normalization
from .resampling import axis_orders, resample
from .verify import BundleError

_SMALLEST_STD = 1e-8


@dataclass(frozen=True)
class Prepared:
    """An image for the network, and the way back.

    Attributes:
        data: (C, z, y, x), float32, in the network's axes and spacing.
        spacing: mm of the image, in the network's axes.
        target_spacing: mm of ``data``.
        shape: of the image, in the network's axes.
        box: what ``data`` covers of it.
    """

    data: np.ndarray
    spacing: tuple[float, ...]
    target_spacing: tuple[float, ...]
    shape: tuple[int, ...]
    box: tuple[slice, ...]

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box."""
        return tuple(b.stop - b.start for b in self.box)


def prepare(image: np.ndarray, spacing: Sequence[float], bundle: Description) -> Prepared:
    """An image (C, ...) in the reader's axes, with its spacing in mm, as the network's input.

    Raises:
        BundleError: for another number of channels, and values that a normalisation does not allow.
    """
    if image.ndim != 4 or image.shape[0] != bundle.inputs or 0 in image.shape:
        names = ", ".join(bundle.channels)
        raise BundleError(f"has shape {image.shape}, expected {bundle.inputs} channels ({names}) of three dimensions")
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise BundleError(f"has the spacing {tuple(spacing)}, expected three numbers of mm above 0")
    data = image.astype(np.float32).transpose([0, *(a + 1 for a in bundle.transpose)])
    old = tuple(float(spacing[a]) for a in bundle.transpose)
    new = bundle.spacing if len(bundle.spacing) == 3 else (old[0], *bundle.spacing)
    shape = data.shape[1:]
    box = _nonzero_box(data)
    data = data[(slice(None), *box)]
    mask = _filled((data != 0).any(0)) if any(n.use_mask for n in bundle.normalization) else None
    for channel, settings in zip(data, bundle.normalization, strict=True):
        _normalize(channel, settings, mask)
    if bundle.data_resampling is not None:
        new_shape = [round(o / n * s) for o, n, s in zip(old, new, data.shape[1:], strict=True)]
        if 0 in new_shape:
            raise BundleError(f"has only {data.shape[1:]} voxels of {old} mm, less than one of the network's")
        data = resample(data, new_shape, *axis_orders(bundle.data_resampling, old, new))
    return Prepared(np.ascontiguousarray(data, np.float32), old, new, shape, box)


def _nonzero_box(data: np.ndarray) -> tuple[slice, ...]:
    """Smallest box that holds every voxel of which any channel is not 0; all of an image that is 0 everywhere."""
    nonzero = (data != 0).any(0)
    box = []
    for axis in range(3):
        found = np.flatnonzero(nonzero.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, nonzero.shape[axis]))
    return tuple(box)


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes: what is not connected to the border by faces of voxels outside the mask."""
    components, _ = label(~mask)
    outside = np.zeros(components.max() + 1, bool)
    for axis in range(3):
        for border in (0, -1):
            outside[np.take(components, border, axis)] = True
    outside[0] = False  # the mask itself
    return ~outside[components]


def _normalize(channel: np.ndarray, settings: Normalization, mask: np.ndarray | None) -> None:
    """Normalises one channel (z, y, x) in place."""
    if settings.scheme == "CTNormalization":
        np.clip(channel, settings.lower, settings.upper, out=channel)
        channel -= settings.mean
        channel /= max(settings.std, _SMALLEST_STD)
    elif settings.scheme == "ZScoreNormalization":
        inside = channel if mask is None or not settings.use_mask else channel[mask]
        mean, std = inside.mean(), max(inside.std(), _SMALLEST_STD)
        if inside is channel:
            channel -= mean
            channel /= std
        else:
            channel[mask] = (inside - mean) / std
    elif settings.scheme == "RescaleTo01Normalization":
        channel -= channel.min()
        channel /= max(channel.max(), _SMALLEST_STD)
    elif settings.scheme == "RGBTo01Normalization":
        if channel.min() < 0 or channel.max() > 255:
            raise BundleError(f"has values from {channel.min():g} to {channel.max():g}, expected colours of 0 to 255")
        channel /= 255.0
