"""A case that is shown: which part of it a picture has, and in how many pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_kd.report.style import new_figure
from nnunet_kd.report.volumes import plane_axes

GAP_PX = 8
PAGE_PX = 1032  # as wide as the page's text
VOLUME_PX, VOLUME_DPI = 350, 200  # panels of volumes, shown at about half their size
FLAT_DPI = 96  # 2D images are shown pixel for pixel
FLAT_PX, MOST_FLAT_PX = 512, 1024  # an image is enlarged up to the first, and made smaller from the second on


@dataclass(frozen=True)
class CaseView:
    """One case, turned for display.

    Attributes:
        reference: (z, y, x) labels.
        prediction: (z, y, x) labels.
        image: (z, y, x) or None.
        entropy: (z, y, x) from 0 to 1, or None.
        spacing_mm: of the displayed axes.
        planes: name of the plane perpendicular to each displayed axis.
        ignore_label: label of the reference that does not count, or None.
    """

    reference: np.ndarray
    prediction: np.ndarray
    image: np.ndarray | None
    entropy: np.ndarray | None
    spacing_mm: tuple[float, ...]
    planes: tuple[str, ...]
    ignore_label: int | None = None


@dataclass(frozen=True)
class Layout:
    """Panels of one picture, all of one size, in rows.

    Attributes:
        centre_mm: middle of the window that is shown, along each displayed axis.
        size_mm: its size along each of them: a cube for volumes.
        panel_px: height and width of a panel.
        columns, rows: of panels.
        dpi: pixels of the picture in an inch; 96 are shown pixel for pixel.
    """

    centre_mm: np.ndarray
    size_mm: np.ndarray
    panel_px: tuple[int, int]
    columns: int
    rows: int
    dpi: int

    def new_figure(self, facecolor: str) -> Figure:
        """An empty figure for the panels."""
        height, width = self._size_px()
        return new_figure(width / self.dpi, height / self.dpi, dpi=self.dpi, facecolor=facecolor)

    def add_panel(self, figure: Figure, position: int) -> Axes:
        """A black panel, at a position counted from the upper left."""
        (height, width), (total_height, total_width) = self.panel_px, self._size_px()
        row, column = divmod(position, self.columns)
        left, bottom = column * (width + GAP_PX), total_height - row * (height + GAP_PX) - height
        place = (left / total_width, bottom / total_height, width / total_width, height / total_height)
        return figure.add_axes(place, facecolor="black")

    def frame(self, ax: Axes, axis: int, origin: str) -> None:
        """Cuts a panel of the plane perpendicular to ``axis`` to the window."""
        (y, x), (height, width) = np.delete(self.centre_mm, axis), np.delete(self.size_mm, axis) / 2
        ax.set(xticks=[], yticks=[], xlim=(x - width, x + width))
        ax.set_ylim((y - height, y + height) if origin == "lower" else (y + height, y - height))
        for spine in ax.spines.values():
            spine.set_visible(False)

    def _size_px(self) -> tuple[int, int]:
        height, width = self.panel_px
        return self.rows * (height + GAP_PX) - GAP_PX, self.columns * (width + GAP_PX) - GAP_PX


def find_layout(view: CaseView, panels: int) -> Layout:
    """Shows all foreground and a fifth more, in as many pixels as the image has, or a multiple of them.

    Args:
        view: the case.
        panels: of each plane.
    """
    first, stop = _foreground(view)
    spacing = np.array(view.spacing_mm)
    flat = len(plane_axes(view.reference.shape)) == 1
    seen = slice(1, 3) if flat else slice(0, 3)
    side_mm = 1.2 * ((stop - first) * spacing)[seen].max() + 4 * spacing[seen].min()
    if not flat:
        centre_mm = (first + stop - 1) / 2 * spacing
        return Layout(centre_mm, np.full(3, side_mm), (VOLUME_PX, VOLUME_PX), panels, 3, VOLUME_DPI)
    # whole voxels, none outside the image
    margin = np.ceil((side_mm / spacing - (stop - first)) / 2).astype(int)
    first, stop = np.maximum(first - margin, 0), np.minimum(stop + margin, view.reference.shape)
    size = ((stop - first) * spacing / spacing[seen].min())[seen]
    scale = min(max(1, FLAT_PX // size.max()), MOST_FLAT_PX / size.max())
    height, width = (int(n) for n in np.maximum(np.round(size * scale), 1))
    columns = max(1, min(panels, (PAGE_PX + GAP_PX) // (width + GAP_PX)))
    columns = -(-panels // -(-panels // columns))  # rows of one length
    rows = -(-panels // columns)
    return Layout((first + stop - 1) / 2 * spacing, (stop - first) * spacing, (height, width), columns, rows, FLAT_DPI)


def _foreground(view: CaseView) -> tuple[np.ndarray, np.ndarray]:
    """First voxel, and the one behind the last, of what is labelled; of the whole image where nothing is."""
    labelled = (view.reference > 0) | (view.prediction > 0)
    if view.ignore_label is not None:
        labelled &= view.reference != view.ignore_label
    where: Any = np.nonzero(labelled if labelled.any() else np.ones_like(labelled))
    return np.array([w.min() for w in where]), np.array([w.max() + 1 for w in where])
