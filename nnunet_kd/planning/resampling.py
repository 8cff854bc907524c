"""How probabilities come back to the image's grid: the same linear interpolation, several times faster."""

from collections.abc import Mapping
from typing import Any

LINEAR = "resample_data_or_seg_to_shape"
FAST_LINEAR = "resample_torch_fornnunet"


def with_fast_resampling(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of plans whose probabilities are resampled by nnU-Net's own ``resample_torch_fornnunet``.

    It interpolates as the planner's default does: linear, or linear in the plane and nearest between anisotropic
    slices. nnU-Net's default (2.8.1) rounds its result to the half precision of its input, this one does not: labels
    differ only where two of them are that close. Any other function, interpolation or inherited entry stays as it is.
    """
    changed = dict(configuration)
    settings = configuration.get("resampling_fn_probabilities_kwargs", {})
    default = {"is_seg": False, "order": 1, "order_z": 0}
    if configuration.get("resampling_fn_probabilities") != LINEAR or {k: settings.get(k) for k in default} != default:
        return changed
    geometry = {k: v for k, v in settings.items() if k not in default}
    return changed | {
        "resampling_fn_probabilities": FAST_LINEAR,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, **geometry},
    }
