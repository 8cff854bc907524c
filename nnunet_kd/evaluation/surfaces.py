"""Surface metrics of binary masks in 2D and 3D, distances in mm.

Two surfaces are in use, because two families of published numbers are:

* **surface voxels**: the centres of the mask's outermost voxels, each counting once (HD, HD95, ASSD, MSD);
* **surface elements**: pieces of the boundary between mask and background, weighted by their area in mm², or by their
  length in mm in 2D (NSD).

What lies outside the image is background: a mask that touches the image's border has a surface there.

Nearest points are found with a k-d tree over the surface instead of a distance map over the volume: the distances are
the same, and the cost grows with the surface.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.spatial import cKDTree

Spacing = Sequence[float]


def surface_metrics(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, nsd_tolerance_mm: float
) -> dict[str, float]:
    """Distances in mm between the surfaces of two masks, and the normalised surface Dice.

    With X, Y the surface voxels of prediction and reference, and d(x, Y) the distance of x to the nearest point of Y:
    HD = max(max d(x, Y), max d(y, X)); HD95 the same with 95th percentiles (linear interpolation);
    MSD = mean d(x, Y); ASSD = (mean d(x, Y) + mean d(y, X)) / 2.
    NSD: the share of both surfaces' elements, by area, that lie within the tolerance of the other surface.

    Source: Noothout et al. 2022, Eq. 3 (ASSD), Eq. 4 (MSD, from prediction to reference), Eq. 5-6 (HD);
    Nikolov et al. 2021 (NSD).

    Returns:
        HD, HD95, ASSD, MSD, NSD. Distances are NaN when a mask is empty; NSD is 0 then, and NaN when both are.
    """
    union = prediction | reference
    if not union.any():
        return dict.fromkeys(("HD", "HD95", "ASSD", "MSD", "NSD"), float("nan"))
    box = bounding_box(union)
    prediction, reference = prediction[box], reference[box]
    if not (prediction.any() and reference.any()):
        return {**dict.fromkeys(("HD", "HD95", "ASSD", "MSD"), float("nan")), "NSD": 0.0}
    x, y = (surface_voxels_mm(mask, spacing_mm) for mask in (prediction, reference))
    to_reference, to_prediction = distances_mm(x, y), distances_mm(y, x)
    return {
        "HD": float(max(to_reference.max(), to_prediction.max())),
        "HD95": float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        "ASSD": float((to_reference.mean() + to_prediction.mean()) / 2),
        "MSD": float(to_reference.mean()),
        "NSD": _surface_dice(prediction, reference, spacing_mm, nsd_tolerance_mm),
    }


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box that holds all of a mask, which must not be empty."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)


def surface_voxels_mm(mask: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Centres of the voxels that share a face (an edge in 2D) with the background.

    Args:
        mask: boolean, 2D or 3D.
        spacing_mm: voxel size along each axis of ``mask``.

    Returns:
        Points in mm, float64 of shape (n, dimensions).
    """
    inner = mask.copy()
    for axis in range(mask.ndim):
        first, last = (_along(mask.ndim, axis, s) for s in (slice(None, -1), slice(1, None)))
        inner[first] &= mask[last]
        inner[last] &= mask[first]
        inner[_along(mask.ndim, axis, slice(0, 1))] = False
        inner[_along(mask.ndim, axis, slice(-1, None))] = False
    return np.argwhere(mask & ~inner) * np.asarray(spacing_mm, dtype=float)


def surface_elements_mm(mask: np.ndarray, spacing_mm: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the boundary between mask and background.

    Wherever the 2x2x2 voxels (2x2 pixels) around a corner of the voxel grid are neither all inside nor all outside,
    there is one element: the surface that marching cubes puts between them.

    Source: Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy for radiotherapy".

    Args:
        mask: boolean, 2D or 3D.
        spacing_mm: voxel size along each axis of ``mask``.

    Returns:
        Points in mm (corners of the grid), float64 of shape (n, dimensions); their areas in mm² (lengths in mm in 2D).
    """
    padded = np.pad(mask, 1).view(np.uint8)
    patterns = np.zeros([n - 1 for n in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(c, n - 1 + c) for c, n in zip(corner, padded.shape, strict=True))
        patterns |= padded[window] << bit
    where = np.nonzero((patterns != 0) & (patterns != 2 ** (2**mask.ndim) - 1))
    sizes = _element_sizes(tuple(float(s) for s in spacing_mm))[patterns[where]]
    return np.stack(where, axis=1) * np.asarray(spacing_mm, dtype=float), sizes


def distances_mm(points_mm: np.ndarray, surface_mm: np.ndarray) -> np.ndarray:
    """Distance of every point to the nearest point of a surface; infinite where there is no surface."""
    if len(surface_mm) == 0:
        return np.full(len(points_mm), np.inf)
    # Points of a grid lie evenly: trees built without medians are as fast to search, and several times faster to build
    tree = cKDTree(surface_mm, compact_nodes=False, balanced_tree=False)
    return tree.query(points_mm)[0]


def _surface_dice(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, tolerance_mm: float) -> float:
    (x, x_size), (y, y_size) = (surface_elements_mm(mask, spacing_mm) for mask in (prediction, reference))
    limit = tolerance_mm * (1 + 1e-9)  # 5 voxels of 0.6 mm are 3 mm, whatever the rounding
    near = x_size[distances_mm(x, y) <= limit].sum() + y_size[distances_mm(y, x) <= limit].sum()
    return float(near / (x_size.sum() + y_size.sum()))


@lru_cache(maxsize=32)
def _element_sizes(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Area (length) of the element of every pattern of inside and outside around a corner of the grid."""
    from skimage.measure import find_contours, marching_cubes, mesh_surface_area

    corners = 2 ** len(spacing_mm)
    sizes = np.zeros(2**corners)
    for code in range(1, len(sizes) - 1):
        pattern = (code >> np.arange(corners) & 1).astype(np.float32)
        if pattern.sum() > corners / 2:  # the same surface, seen from the other side
            pattern = 1 - pattern
        pattern = pattern.reshape([2] * len(spacing_mm))
        if pattern.ndim == 3:
            vertices, faces, *_ = marching_cubes(pattern, 0.5, spacing=spacing_mm, method="lorensen")
            sizes[code] = mesh_surface_area(vertices, faces)
        else:
            lines = [np.diff(line * spacing_mm, axis=0) for line in find_contours(pattern, 0.5)]
            sizes[code] = sum(np.linalg.norm(line, axis=1).sum() for line in lines)
    return sizes


def _along(dimensions: int, axis: int, where: slice) -> tuple[slice, ...]:
    return tuple(where if a == axis else slice(None) for a in range(dimensions))
