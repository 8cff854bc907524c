"""nnU-Net's preprocessing of a region of an image.

nnU-Net normalises the whole image and resamples the whole image. Here the whole image is normalised, too, because a
network expects it so, but only the region is resampled. All steps are nnU-Net's own functions in nnU-Net's order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.inference.box import Box
from nnunet_kd.softlabels.geometry import original_spacing, spacing_3d
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class PreparedImage:
    """A whole image, transposed, cropped to what is not zero, and normalised; not resampled yet.

    Attributes:
        data: (C, z, y, x), float32.
        nonzero: where ``data`` lies in the transposed image.
        shape: spatial shape of the transposed image.
        properties: of the image, from nnU-Net's reader.
    """

    data: np.ndarray
    nonzero: Box
    shape: tuple[int, ...]
    properties: Mapping[str, Any]


def normalisation_of(plans: PlansManager, configuration: ConfigurationManager) -> tuple[Any, ...]:
    """What decides how an image is prepared; equal for two models, one preparation serves both."""
    return (
        list(plans.transpose_forward),
        list(configuration.normalization_schemes),
        list(configuration.use_mask_for_norm),
        plans.foreground_intensity_properties_per_channel,
    )


def prepare(
    image: np.ndarray, properties: Mapping[str, Any], plans: PlansManager, configuration: ConfigurationManager
) -> PreparedImage:
    """Transposes, crops and normalises as nnU-Net's preprocessor does.

    Args:
        image: (C, ...) as nnU-Net's reader gives it.
        properties: the reader's.
        plans: the model's plans.
        configuration: its configuration.

    Raises:
        UserError: for a preprocessor that does something else.
    """
    preprocessor = configuration.preprocessor_class(verbose=False)
    if type(preprocessor).run_case_npy is not DefaultPreprocessor.run_case_npy:
        raise UserError(
            f"{plans.plans_name}: its preprocessor {configuration.preprocessor_name} cannot be confined to a region; "
            "only nnU-Net's default one can."
        )
    transposed = image.astype(np.float32).transpose([0, *(i + 1 for i in plans.transpose_forward)])
    data, mask, bbox = crop_to_nonzero(transposed, None)
    data = preprocessor._normalize(data, mask, configuration, plans.foreground_intensity_properties_per_channel)
    nonzero = Box(*zip(*((int(a), int(b)) for a, b in bbox), strict=True))
    return PreparedImage(data, nonzero, transposed.shape[1:], properties)


def resample_region(
    prepared: PreparedImage, region: Box, plans: PlansManager, configuration: ConfigurationManager
) -> tuple[np.ndarray, dict[str, Any]]:
    """A region at the configuration's spacing, with properties by which nnU-Net exports its prediction.

    Args:
        prepared: the image.
        region: in the grid of ``prepared.data``.
        plans: the model's plans.
        configuration: its configuration, or what :func:`fitted` made of it.

    Returns:
        Input of the network (C, z, y, x), float32, and nnU-Net's properties, in which the region takes the place of
        the box that nnU-Net crops to.
    """
    data = prepared.data[(slice(None), *region.slices)]
    spacing = original_spacing(plans, prepared.properties)
    target = spacing_3d(configuration, spacing)
    shape = compute_new_shape(data.shape[1:], spacing, target)
    resampled = configuration.resampling_fn_data(data, shape, spacing, target)
    absolute = region.shifted(prepared.nonzero.start)
    properties = {
        **prepared.properties,
        "shape_before_cropping": prepared.shape,
        "bbox_used_for_cropping": [list(r) for r in zip(absolute.start, absolute.stop, strict=True)],
        "shape_after_cropping_and_before_resampling": region.shape,
    }
    return np.asarray(resampled, dtype=np.float32), properties


def fitted(
    prepared: PreparedImage, region: Box, plans: PlansManager, configuration: ConfigurationManager
) -> ConfigurationManager:
    """The configuration with the spacing at which the region fills the patch exactly; axes beyond a 2D patch stay."""
    patch = configuration.patch_size
    spacing = original_spacing(plans, prepared.properties)[-len(patch) :]
    shape = region.shape[-len(patch) :]
    return ConfigurationManager(
        {
            **configuration.configuration,
            "spacing": [s * n / p for s, n, p in zip(spacing, shape, patch, strict=True)],
        }
    )
