"""Pictures of cases: 2D images keep their pixels, and errors are counted in their colours."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from nnunet_kd.report.layout import CaseView, find_layout
from nnunet_kd.report.overlays import draw_case
from nnunet_kd.report.style import ERROR_COLORS

LABELS = [1, 2]
# Machado et al. 2009, Table 1, severity 1: linear RGB as the colour-blind see it.
COLOUR_BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def flat_view(shape, top, left, size, **more):
    """A square of label 1 and a prediction that is one pixel too far right, in part of another class."""
    reference = np.zeros((1, *shape), np.uint8)
    reference[0, top : top + size, left : left + size] = 1
    prediction = np.roll(reference, 1, axis=2)
    prediction[0, top : top + 3, left + 5 : left + 7] = 2
    image = np.random.default_rng(0).integers(80, 200, (1, *shape)).astype(np.float32)
    return CaseView(reference, prediction, image, None, (999.0, 1.0, 1.0), ("plane 1", "plane 2", "plane 3"), **more)


def pixels(view):
    figure = draw_case(view, LABELS, "student")
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def panels(view):
    """Panels of a picture, cut out of it as the layout says."""
    layout, whole = find_layout(view, 3), pixels(view)
    height, width = layout.panel_px
    places = (divmod(i, layout.columns) for i in range(3))
    return layout, [whole[r * (height + 8) :][:height, c * (width + 8) :][:, :width] for r, c in places]


def count(picture, color):
    return int((picture == np.round(255 * np.array(to_rgb(color))).astype(np.uint8)).all(-1).sum())


def test_a_2d_image_that_is_all_foreground_is_shown_pixel_for_pixel():
    view = flat_view((512, 512), 8, 8, 490)
    layout, (reference, _, errors) = panels(view)
    assert (layout.panel_px, layout.columns, layout.rows) == ((512, 512), 2, 2)
    assert pixels(view).shape == (1032, 1032, 3)
    low, high = np.percentile(view.image, (1, 99.5))
    gray = 255 * np.clip((view.image[0] - low) / (high - low), 0, 1)
    inside = np.s_[30:480, 30:480]  # away from the line and the words
    assert np.abs(reference[inside].astype(float) - gray[inside][..., None]).max() <= 2
    assert count(errors, ERROR_COLORS["missed"]) == 490


def test_errors_are_counted_in_whole_pixels_of_their_colours():
    view = flat_view((60, 80), 20, 30, 15)
    layout, (_, _, errors) = panels(view)
    scale = layout.panel_px[0] / layout.size_mm[1]
    assert scale == int(scale) >= 10
    for name, voxels in (("missed", 15), ("invented", 15), ("another class", 6)):
        assert count(errors, ERROR_COLORS[name]) == voxels * scale**2, name


def test_what_is_ignored_is_no_error():
    view = flat_view((60, 80), 20, 30, 15, ignore_label=3)
    view.reference[0, :, 45] = 3  # where the prediction is too far right
    _, (_, _, errors) = panels(view)
    assert count(errors, ERROR_COLORS["invented"]) == 0
    assert count(errors, ERROR_COLORS["missed"]) > 0


def test_a_window_ends_where_the_image_ends():
    """No black border beside an image, also where the foreground is in its corner."""
    layout, (reference, _, _) = panels(flat_view((60, 200), 0, 0, 40))
    first, stop = (layout.centre_mm[1:] + sign * layout.size_mm[1:] / 2 + 0.5 for sign in (-1, 1))
    assert first.tolist() == [0, 0]
    assert stop.tolist() == [47, 48]
    assert reference[-1].min() > 0
    assert reference[:, -1].mean() > 20


def test_lines_are_thin():
    view = flat_view((512, 512), 100, 100, 300)
    _, (reference, _, _) = panels(view)
    colored = (reference.max(-1).astype(int) - reference.min(-1) > 40).sum()
    assert colored <= 3 * 4 * 300


@pytest.mark.parametrize(("side", "panel"), [(100, 500), (300, 300), (512, 512), (1000, 1000), (3000, 1024)])
def test_panels_have_a_multiple_of_the_pixels_up_to_a_limit(side, panel):
    layout = find_layout(flat_view((side, side), 0, 0, side - 1), 3)
    assert layout.panel_px == (panel, panel)
    assert layout.columns == (3 if panel < 340 else 2 if panel < 513 else 1)


def test_volumes_keep_cubes_and_have_errors_too():
    reference = np.zeros((12, 30, 30), np.uint8)
    reference[4:8, 10:20, 10:20] = 1
    view = CaseView(reference, np.zeros_like(reference), None, None, (2.0, 1.0, 1.0), ("axial", "coronal", "sagittal"))
    layout = find_layout(view, 3)
    assert len(set(layout.size_mm)) == 1
    assert pixels(view).shape == (3 * 358 - 8, 3 * 358 - 8, 3)
    missed = count(pixels(view)[:350, 716:], ERROR_COLORS["missed"])
    assert missed == pytest.approx((10 * 350 / layout.size_mm[0]) ** 2, rel=0.03)


@pytest.mark.parametrize("kind", COLOUR_BLIND)
def test_the_colour_blind_tell_errors_apart(kind):
    linear = np.array([to_rgb(c) for c in ERROR_COLORS.values()])
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(COLOUR_BLIND[kind]).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055))
    for a, b in itertools.combinations(range(len(lab)), 2):
        assert np.linalg.norm(lab[a] - lab[b]) > 30, (list(ERROR_COLORS)[a], list(ERROR_COLORS)[b])
