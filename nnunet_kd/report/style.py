"""One look for all figures: colours that the colour-blind tell apart, markers and lines that survive greyscale."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path as FilePath
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from nnunet_kd.report.methods import Roles

# Okabe and Ito's colours without yellow and black: on white, yellow is hardly seen, and black is the ink.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("s", "o", "D", "^", "v", "<", ">", "p", "h", "P", "X")
# Colours of classes on grey images, bright ones first, and their lines.
CLASS_COLORS = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#00C990", "#FF7A1A", "#8AA8FF")
CLASS_LINES: tuple[Any, ...] = ("solid", (0, (6, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))
# Errors on grey images: none is a colour of a class.
ERROR_COLORS = {"missed": "#4DC4FF", "invented": "#FF4B00", "another class": "#FFF100"}
DARK = "#22262b"  # behind pictures of cases
INK, PAPER, FAINT = "#1b1f24", "#fefefe", "#8a9099"
PAGE_COLORS = {COLORS[0]: "var(--blue)"}  # the one colour that is too dark on a dark page
REM_PER_INCH = 7.5
RC: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": "auto",
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class MethodStyle:
    """Colour and marker of a method, the same in every figure."""

    color: str
    marker: str

    @property
    def page_color(self) -> str:
        """The colour as CSS inside the page."""
        return PAGE_COLORS.get(self.color, self.color)

    @property
    def outline(self) -> str:
        """The marker as an SVG path within -1 and 1, y downwards."""
        shape = MarkerStyle(self.marker)
        path = shape.get_path().transformed(shape.get_transform())
        scale = np.abs(path.vertices).max()
        letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
        parts = []
        for vertices, code in path.iter_segments(simplify=False):
            points = vertices.reshape(-1, 2) / scale * (1, -1)
            parts.append(
                letters[code] + ("" if letters[code] == "Z" else " ".join(f"{x:.3f} {y:.3f}" for x, y in points))
            )
        return " ".join(parts)


def method_styles(names: Sequence[str], roles: Roles) -> dict[str, MethodStyle]:
    """Ensemble, student and twin look the same in every report; the others follow in order."""
    fixed = {roles.ensemble: 0, roles.student: 1, roles.twin: 2}
    free = iter(i for i in range(len(names) + 3) if i not in {v for k, v in fixed.items() if k in names})
    styles = {}
    for name in names:
        i = fixed[name] if name in fixed else next(free)
        styles[name] = MethodStyle(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)])
    return styles


def new_figure(width_in: float, height_in: float, dpi: int = 200, **layout: Any) -> Figure:
    """An empty figure with its own canvas: no state that other code could see."""
    figure = Figure(figsize=(width_in, height_in), dpi=dpi, **layout)
    FigureCanvasAgg(figure)
    return figure


def save_plot(figure: Figure, folder: FilePath, stem: str) -> str:
    """Writes ``STEM.png`` and ``STEM.svg``; returns the SVG."""
    figure.savefig(folder / f"{stem}.png", metadata={"Software": None})
    text = StringIO()
    with rc_context({"svg.hashsalt": stem}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    (folder / f"{stem}.svg").write_text(text.getvalue(), encoding="utf-8")
    return text.getvalue()


def inline_svg(svg: str, stem: str, description: str) -> str:
    """The SVG for use inside a page: ink and paper follow the page's colours, ids do not clash with other figures'.

    Args:
        svg: what :func:`save_plot` returned.
        stem: prefix of the ids.
        description: for screen readers; escaped by the caller.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{stem}-\1"', body)
    body = re.sub(r'((?:xlink:)?href)="#([^"]+)"', rf'\1="#{stem}-\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{stem}-\1)", body)
    for color, variable in ((INK, "currentColor"), (PAPER, "var(--paper)"), *PAGE_COLORS.items()):
        body = body.replace(color.lower(), variable)
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', body)
    assert size is not None, stem
    # as large as the drawing is wide, so that all drawings of a page have letters of one size
    width = f'style="max-width: {float(size[1]) / 72 * REM_PER_INCH:.1f}rem"'
    return body.replace(size[0], width, 1).replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
