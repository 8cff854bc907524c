"""Pictures of cases: reference and prediction as contours on the image, and where they differ."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from nnunet_kd.report.layout import VOLUME_DPI, VOLUME_PX, CaseView, Layout, find_layout
from nnunet_kd.report.style import CLASS_COLORS, CLASS_LINES, DARK, ERROR_COLORS, new_figure
from nnunet_kd.report.volumes import PATIENT_PLANES, origin_of, plane_axes

SCALE_BARS_MM = (200, 100, 50, 20, 10, 5, 2, 1)
LINE_PT, DOTTED_PT = 0.9, 0.7
AGREED = (1.0, 1.0, 1.0, 0.18)  # foreground of both, red to opacity
DIMMED = 0.65  # brightness of the image below the errors


def choose_cases(scores: Sequence[float], failures: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """Positions of the worst, median (the lower one of two) and best case; fewer where there are fewer cases.

    Args:
        scores: one number per case, higher is better; cases with NaN and no failure are left out.
        failures: of each case; more are worse, whatever the score.
    """
    failed = [0] * len(scores) if failures is None else failures
    known = [i for i in range(len(scores)) if np.isfinite(scores[i]) or failed[i]]
    known.sort(key=lambda i: (-failed[i], scores[i] if np.isfinite(scores[i]) else -np.inf))
    if not known:
        return []
    if len(known) == 1:
        return [("only", known[0])]
    chosen = [("worst", known[0]), ("median", known[(len(known) - 1) // 2]), ("best", known[-1])]
    return [(kind, i) for kind, i in chosen if len(known) > 2 or kind != "median"]


def slice_of_most_disagreement(view: CaseView, axis: int) -> int:
    """Slice along ``axis`` with the most voxels that differ; where none do, the one with the most foreground."""
    other = tuple(i for i in range(3) if i != axis)
    counted = np.ones(view.reference.shape, bool) if view.ignore_label is None else view.reference != view.ignore_label
    differ = ((view.reference != view.prediction) & counted).sum(other)
    return int((differ if differ.any() else ((view.reference > 0) & counted).sum(other)).argmax())


def errors(view: CaseView) -> dict[str, np.ndarray]:
    """Masks (z, y, x) of what is missed, what is invented, and foreground that is another class there."""
    counted = True if view.ignore_label is None else view.reference != view.ignore_label
    there, found = view.reference > 0, view.prediction > 0
    return {
        "missed": there & ~found & counted,
        "invented": found & ~there & counted,
        "another class": there & found & (view.reference != view.prediction) & counted,
    }


def draw_case(view: CaseView, foreground: Sequence[int | tuple[int, ...]], name: str) -> Figure:
    """Reference, prediction with the reference dotted, errors, and entropy where it is known; a row for each plane.

    Everything is written inside the panels, on black, so that the picture suits a light and a dark page. A 2D image has
    its own pixels, each a square of whole pixels of the picture; its panels go on in a second row where one is full.

    Args:
        view: the case.
        foreground: labels or regions that get a contour.
        name: the method's.
    """
    axes = plane_axes(view.reference.shape)
    titles = ["reference", name, "errors"] + (["entropy"] if view.entropy is not None else [])
    layout = find_layout(view, len(titles))
    figure = layout.new_figure(DARK)
    gray = None if view.image is None else _gray_range(view, layout)
    wrong = errors(view)
    for row, axis in enumerate(axes):
        for column, title in enumerate(titles):
            ax = layout.add_panel(figure, row * len(titles) + column)
            _draw_panel(ax, view, wrong, axis, title if column != 1 else "prediction", foreground, gray)
            layout.frame(ax, axis, origin_of(axis))
            if row == 0:
                _write(ax, 0.03, 0.97, title, va="top")
            if column == 0 and len(axes) > 1:
                _write(ax, 0.03, 0.03, view.planes[axis], va="bottom")
        if view.planes == PATIENT_PLANES and row == 0:
            _scale_bar(figure.axes[0], float(layout.size_mm[-1]))
    if view.entropy is not None:
        _entropy_bar(figure.axes[len(titles) - 1])
    return figure


def draw_entropy(volume: np.ndarray) -> Figure:
    """Three planes of an entropy map in its own grid, through the slices with the highest sum.

    Args:
        volume: (z, y, x) from 0 to 1.
    """
    axes = plane_axes(volume.shape)
    layout = Layout(np.zeros(3), np.ones(3), (VOLUME_PX, VOLUME_PX), len(axes), 1, VOLUME_DPI)
    figure = layout.new_figure("black")
    for column, axis in enumerate(axes):
        where = int(volume.sum(tuple(i for i in range(3) if i != axis)).argmax())
        ax = layout.add_panel(figure, column)
        ax.imshow(
            volume.take(where, axis), cmap="inferno", vmin=0, vmax=1, origin=origin_of(axis), interpolation="nearest"
        )
        ax.set(xticks=[], yticks=[])
        _write(ax, 0.03, 0.03, f"axis {axis + 1}, slice {where}", va="bottom")
    _entropy_bar(figure.axes[-1])
    return figure


def draw_class_legend(labels: Sequence[str]) -> Figure:
    """Lines and colours of the classes and colours of the errors, for the pictures of cases."""
    handles: list = [Line2D([], [], lw=2, label=name, **_line(i)) for i, name in enumerate(labels)]
    handles.append(Line2D([], [], color="white", lw=1.3, ls=(0, (1, 1.2)), label="reference, beside a prediction"))
    handles += [Patch(color=color, label=name) for name, color in ERROR_COLORS.items()]
    figure = new_figure(6.2, 0.22 * -(-len(handles) // 4) + 0.1, facecolor=DARK)
    figure.legend(
        handles=handles, loc="center", ncols=min(4, len(handles)), frameon=False, labelcolor="white", handlelength=3
    )
    return figure


def class_line(index: int) -> Mapping[str, str]:
    """Colour and dashes of a class for a page's own legend: ``color`` and SVG's ``dashes``."""
    style = CLASS_LINES[index % len(CLASS_LINES)]
    dashes = "none" if style == "solid" else " ".join(str(2 * d) for d in style[1])
    return {"color": CLASS_COLORS[index % len(CLASS_COLORS)], "dashes": dashes}


def _line(index: int) -> dict:
    return {"color": CLASS_COLORS[index % len(CLASS_COLORS)], "ls": CLASS_LINES[index % len(CLASS_LINES)]}


def _gray_range(view: CaseView, layout: Layout) -> tuple[float, float]:
    """Intensities shown as black and white: percentiles 1 and 99.5 inside the window."""
    spacing = np.array(view.spacing_mm)
    first = np.maximum(0, np.floor((layout.centre_mm - layout.size_mm / 2) / spacing)).astype(int)
    stop = np.ceil((layout.centre_mm + layout.size_mm / 2) / spacing).astype(int) + 1
    assert view.image is not None
    low, high = np.percentile(view.image[tuple(slice(*s) for s in zip(first, stop, strict=True))], (1, 99.5))
    return float(low), float(high if high > low else low + 1)


def _draw_panel(
    ax: Axes,
    view: CaseView,
    wrong: Mapping[str, np.ndarray],
    axis: int,
    what: str,
    foreground: Sequence,
    gray: tuple[float, float] | None,
) -> None:
    where = slice_of_most_disagreement(view, axis)
    rows_mm, columns_mm = np.delete(view.spacing_mm, axis)
    origin = origin_of(axis)

    def show(plane: np.ndarray, **style) -> None:
        left, right = -0.5 * columns_mm, (plane.shape[1] - 0.5) * columns_mm
        first, last = -0.5 * rows_mm, (plane.shape[0] - 0.5) * rows_mm
        extent = (left, right, first, last) if origin == "lower" else (left, right, last, first)
        ax.imshow(plane, extent=extent, origin=origin, aspect="auto", **({"interpolation": "nearest"} | style))

    if what == "entropy" and view.entropy is not None:
        show(view.entropy.take(where, axis), cmap="inferno", vmin=0, vmax=1)
        return
    if view.image is not None and gray is not None:
        smooth = "bilinear" if len(plane_axes(view.reference.shape)) > 1 else "antialiased"
        look = {"cmap": "gray", "vmin": gray[0], "vmax": gray[1], "interpolation": smooth}
        show(view.image.take(where, axis), alpha=DIMMED if what == "errors" else 1, **look)
    if what == "errors":
        show(_colors_of_errors(view, wrong, axis, where))
        return
    label = view.reference if what == "reference" else view.prediction
    for i, region in enumerate(foreground):
        _contour(ax, label.take(where, axis), region, (rows_mm, columns_mm), linewidths=LINE_PT, **_contour_line(i))
        if what == "prediction":
            dotted = {"colors": "white", "linestyles": [(0, (1, 1.2))], "linewidths": DOTTED_PT}
            _contour(ax, view.reference.take(where, axis), region, (rows_mm, columns_mm), **dotted)


def _colors_of_errors(view: CaseView, wrong: Mapping[str, np.ndarray], axis: int, where: int) -> np.ndarray:
    """One plane, (rows, columns, 4) from 0 to 1: colours of the errors, white of foreground that is right."""
    reference = view.reference.take(where, axis)
    colors = np.zeros((*reference.shape, 4))
    colors[(reference > 0) & (reference == view.prediction.take(where, axis))] = AGREED
    for name, mask in wrong.items():
        colors[mask.take(where, axis)] = to_rgba(ERROR_COLORS[name])
    return colors


def _contour_line(index: int) -> dict:
    line = _line(index)
    return {"colors": line["color"], "linestyles": [line["ls"]]}


def _contour(
    ax: Axes, plane: np.ndarray, region: int | tuple[int, ...], spacing_mm: tuple[float, float], **style
) -> None:
    mask = np.isin(plane, np.atleast_1d(region))
    if not mask.any():
        return
    where = np.nonzero(mask)
    box = [(w.min() - 1, w.max() + 2) for w in where]  # one voxel of background around, so that contours close
    padded = np.pad(mask, 1)[box[0][0] + 1 : box[0][1] + 1, box[1][0] + 1 : box[1][1] + 1]
    rows, columns = (np.arange(*b) * mm for b, mm in zip(box, spacing_mm, strict=True))
    ax.contour(columns, rows, padded.astype(float), levels=[0.5], **style)


def _write(ax: Axes, x: float, y: float, text: str, **where) -> None:
    short = text if len(text) <= 22 else f"{text[:21]}…"
    outline = [withStroke(linewidth=2, foreground="black")]
    ax.text(x, y, short, transform=ax.transAxes, color="white", fontsize=7.5, path_effects=outline, **where)


def _scale_bar(ax: Axes, side_mm: float) -> None:
    length = next((mm for mm in SCALE_BARS_MM if mm <= side_mm / 3), None)
    if length is None:
        return
    right = 0.96
    left = right - length / side_mm
    stroke = [withStroke(linewidth=3.2, foreground="black")]
    ax.plot([left, right], [0.05, 0.05], color="white", lw=1.8, transform=ax.transAxes, path_effects=stroke)
    _write(ax, (left + right) / 2, 0.075, f"{length} mm", va="bottom", ha="center")


def _entropy_bar(ax: Axes) -> None:
    bar = ax.inset_axes((0.62, 0.05, 0.34, 0.05))
    bar.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap="inferno", extent=(0, 1, 0, 1))
    bar.set(xticks=[], yticks=[])
    _write(ax, 0.62, 0.11, "0", va="bottom", ha="left")
    _write(ax, 0.96, 0.11, "1", va="bottom", ha="right")
