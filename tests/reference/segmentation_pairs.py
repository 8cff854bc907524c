"""Pairs of masks, and their metrics by two independent packages: surface-distance (DeepMind) and MONAI."""

import numpy as np
from scipy import ndimage

TOLERANCE_MM = 1.0


def random_pairs(dimensions: int, count: int):
    """Ragged blobs that overlap in part and touch the border, at anisotropic spacing."""
    rng = np.random.default_rng(dimensions)
    for _ in range(count):
        shape = tuple(rng.integers(10, 30, dimensions))
        spacing_mm = tuple(np.round(rng.uniform(0.4, 4, dimensions), 2))
        common = rng.standard_normal(shape)
        prediction, reference = (
            ndimage.gaussian_filter(common + 0.7 * rng.standard_normal(shape), rng.uniform(0.5, 2.5)) > 0.02
            for _ in range(2)
        )
        yield prediction, reference, spacing_mm


def metrics_by_monai(prediction, reference, spacing_mm) -> dict[str, float]:
    """ASSD from the two directions: MONAI's symmetric average pools the points of both surfaces."""
    import torch
    from monai import metrics

    p, r = (torch.from_numpy(m[None, None]).float() for m in (prediction, reference))
    options = {"include_background": True, "spacing": [float(s) for s in spacing_mm]}
    there, back = (metrics.compute_average_surface_distance(*pair, **options).item() for pair in ((p, r), (r, p)))
    return {
        "Dice": metrics.compute_dice(p, r).item(),
        "IoU": metrics.compute_iou(p, r).item(),
        "HD": metrics.compute_hausdorff_distance(p, r, **options).item(),
        "HD95": metrics.compute_hausdorff_distance(p, r, percentile=95, **options).item(),
        "MSD": there,
        "ASSD": (there + back) / 2,
        "NSD": metrics.compute_surface_dice(p, r, [TOLERANCE_MM], use_subvoxels=True, **options).item(),
    }


def metrics_by_surface_distance(prediction, reference, spacing_mm) -> dict[str, float]:
    """The two that it defines as this package does; its distances are between surface elements, weighted by area."""
    import surface_distance

    surfaces = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    return {
        "Dice": surface_distance.compute_dice_coefficient(reference, prediction),
        "NSD": surface_distance.compute_surface_dice_at_tolerance(surfaces, TOLERANCE_MM),
    }


PACKAGES = {"monai": metrics_by_monai, "surface_distance": metrics_by_surface_distance}
