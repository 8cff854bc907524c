"""Boxes and components: found, grown, moved between grids."""

import numpy as np
import pytest

from nnunet_kd.inference.box import Box
from nnunet_kd.inference.components import keep_largest_components


def test_box_around_a_mask():
    mask = np.zeros((5, 6, 7), bool)
    assert Box.around(mask) is None
    mask[1, 2, 3] = mask[3, 4, 3] = True
    box = Box.around(mask)
    assert box == Box((1, 2, 3), (4, 5, 4))
    assert box.shape == (3, 3, 1)
    assert mask[box.slices].sum() == mask.sum()


def test_a_box_in_a_finer_grid_holds_the_same_region():
    box = Box((1, 0, 2), (3, 4, 5))
    assert box.scaled((4, 4, 5), (8, 4, 10)) == Box((2, 0, 4), (6, 4, 10))
    assert box.scaled((4, 4, 5), (7, 4, 5)) == Box((1, 0, 2), (6, 4, 5)), "rounded outwards"
    whole = Box.whole((4, 4, 5))
    for shape in ((3, 9, 5), (512, 11, 1)):
        assert whole.scaled((4, 4, 5), shape) == Box.whole(shape)


@pytest.mark.parametrize(
    ("margin", "margin_mm", "least", "expected"),
    [
        (0.0, 0.0, 0, (40, 60)),
        (0.1, 0.0, 0, (38, 62)),
        (0.1, 10.0, 0, (35, 65)),  # 10 mm are 5 voxels of 2 mm
        (0.0, 0.0, 30, (35, 65)),
        (0.1, 0.0, 24, (38, 62)),
        (10.0, 0.0, 0, (0, 100)),
        (0.0, 0.0, 300, (0, 100)),
    ],
)
def test_margin_in_parts_and_mm_and_at_least_a_window(margin, margin_mm, least, expected):
    box = Box((40,), (60,)).grown((100,), (2.0,), margin, margin_mm, (least,))
    assert (box.start[0], box.stop[0]) == expected


def test_a_window_at_the_border_is_moved_inside():
    assert Box((2,), (6,)).grown((100,), (1.0,), 0, 0, (20,)) == Box((0,), (20,))
    assert Box((95,), (99,)).grown((100,), (1.0,), 0, 0, (20,)) == Box((80,), (100,))


def test_axes_and_offsets():
    box = Box((1, 2, 3), (4, 6, 8))
    assert box.permuted([2, 0, 1]) == Box((3, 1, 2), (8, 4, 6))
    assert box.shifted((1, 1, 1)).shifted((-1, -1, -1)) == box
    assert box.intersection(Box((0, 0, 0), (2, 9, 9))) == Box((1, 2, 3), (2, 6, 8))
    assert box.intersection(Box((4, 0, 0), (9, 9, 9))) is None


def test_only_the_largest_component_of_every_class_stays():
    segmentation = np.zeros((8, 8, 8), np.uint8)
    segmentation[0:3, 0:3, 0:3] = 1
    segmentation[3, 3, 3] = 1  # touches by a corner
    segmentation[6:8, 6:8, 6:8] = 1
    segmentation[0, 6, 6] = 2
    segmentation[4:6, 0:2, 0] = 2
    kept = keep_largest_components(segmentation)
    assert kept.dtype == segmentation.dtype
    assert (kept == 1).sum() == 28
    assert kept[3, 3, 3] == 1
    assert (kept == 2).sum() == 4
    np.testing.assert_array_equal(keep_largest_components(kept), kept)
    empty = np.zeros((3, 3, 3), np.uint8)
    np.testing.assert_array_equal(keep_largest_components(empty), empty)
