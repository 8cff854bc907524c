"""The largest connected component of every class (connected-components-3d, fastremap)."""

import cc3d
import fastremap
import numpy as np


def keep_largest_components(segmentation: np.ndarray) -> np.ndarray:
    """Sets everything to background but the largest component of every label.

    Voxels that share a face, an edge or a corner are connected (26 neighbours in 3D). Of components of equal size the
    first in the order of the array stays.

    Source: Choi et al. 2022, Section 2.3.

    Args:
        segmentation: (z, y, x) label map, background 0.

    Returns:
        A new array of the same type.
    """
    components = cc3d.connected_components(np.ascontiguousarray(segmentation), connectivity=26)
    label_of = fastremap.component_map(components, segmentation)
    sizes = np.bincount(components.ravel())
    largest: dict[int, int] = {}
    for component, label in sorted((int(c), int(x)) for c, x in label_of.items()):
        if label != 0 and (label not in largest or sizes[component] > sizes[largest[label]]):
            largest[label] = component
    return np.where(np.isin(components, list(largest.values())), segmentation, 0).astype(segmentation.dtype)
