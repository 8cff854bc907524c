"""Draws all figures of a report into its folder and keeps what the page shows of them."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from nnunet_kd.report import figures
from nnunet_kd.report.cases import ShownCase, view_case
from nnunet_kd.report.content import Report
from nnunet_kd.report.costs import Cost
from nnunet_kd.report.formats import of_metric, structures
from nnunet_kd.report.methods import Method, file_stems
from nnunet_kd.report.numbers import Numbers, failed_apart
from nnunet_kd.report.overlays import draw_case, draw_class_legend
from nnunet_kd.report.soft_labels import SoftLabelEntropy
from nnunet_kd.report.style import RC, MethodStyle, inline_svg, method_styles, save_plot
from nnunet_kd.report.tables import MARK
from nnunet_kd.report.volumes import Volumes

WEBP_QUALITY = 88  # lines of one pixel keep their colours
COST_TITLES = {"parameters": "parameters (million)", "network_seconds": "network s per case (median)"}


@dataclass(frozen=True)
class Plot:
    """A figure as the page shows it.

    Attributes:
        stem: file name in ``plots/`` without ending.
        caption: what it shows.
        content: HTML: an inline drawing, or an image inside the page.
        width: of an image, in pixels of the page.
    """

    stem: str
    caption: str
    content: str
    width: int = 0


@dataclass
class Plots:
    """All figures, by section."""

    accuracy: list[Plot] = field(default_factory=list)
    paired: list[Plot] = field(default_factory=list)
    cost: list[Plot] = field(default_factory=list)
    calibration: list[Plot] = field(default_factory=list)
    cases: dict[str, list[Plot]] = field(default_factory=dict)
    soft_labels: list[Plot] = field(default_factory=list)
    styles: dict[str, MethodStyle] = field(default_factory=dict)


def cost_points(costs: Mapping[str, Cost]) -> dict[str, dict[str, float]]:
    """Parameters (million) and median network seconds of each method that has them."""
    points = {
        "parameters": {n: c.parameters / 1e6 for n, c in costs.items() if c.parameters},
        "network_seconds": {n: float(np.median(c.network_seconds)) for n, c in costs.items() if c.network_seconds},
    }
    return {kind: values for kind, values in points.items() if len(values) > 1}


def draw_plots(
    report: Report, methods: Mapping[str, Method], volumes: Volumes, soft_labels: SoftLabelEntropy | None, folder: Path
) -> Plots:
    """Draws everything and writes it to ``folder`` as PNG and SVG."""
    n = report.numbers
    stems = file_stems(n.methods)
    plots = Plots(styles=method_styles(n.methods, n.roles))
    with rc_context(RC):
        for metric in n.shown:
            figure = figures.dot_plot(n, metric, plots.styles)
            plots.accuracy.append(_vector(figure, folder, f"accuracy_{metric}", _dots_caption(n, metric)))
        for first, second in _pairs(n):
            for metric in n.shown[:2]:
                figure = figures.paired_plot(n, first, second, metric, plots.styles)
                stem = f"paired_{stems[first]}_{stems[second]}_{metric}"
                plots.paired.append(_vector(figure, folder, stem, _paired_caption(n, first, second, metric)))
        points = cost_points(report.costs)
        if points:
            figure = figures.cost_plot(n, n.shown[0], points, report.fronts, COST_TITLES, plots.styles)
            caption = (
                f"{n.shown[0]} against cost. Ringed and joined: the Pareto front, which no other method beats in both. "
                "Times that differ by no more than the runs of one method do are equal."
            )
            plots.cost.append(_vector(figure, folder, "cost", caption))
        if report.calibration:
            figure = figures.reliability_plot({c.method: c.curve for c in report.calibration}, plots.styles)
            plots.calibration.append(_vector(figure, folder, "reliability", _RELIABILITY.format(unit=n.distance_unit)))
        save_plot(draw_class_legend(n.labels), folder, "cases_legend")
        for shown in tqdm(report.shown, desc="pictures of cases", unit="case"):
            view = view_case(volumes, methods[shown.method], shown.case)
            figure = draw_case(view, volumes.classes(n.labels), shown.method)
            stem = f"case_{stems[shown.method]}_{shown.kind}"
            plot = _raster(figure, folder, stem, _case_caption(shown, n))
            plots.cases.setdefault(shown.method, []).append(plot)
        for (kind, case), figure in (soft_labels.figures if soft_labels else {}).items():
            caption = f"{kind}: {case}, mean entropy {soft_labels.mean[case]:.3f}" if soft_labels else ""
            plots.soft_labels.append(_raster(figure, folder, f"soft_labels_{kind}", caption))
    return plots


def _pairs(numbers: Numbers) -> list[tuple[str, str]]:
    """The student against its ensemble and its twin."""
    roles = numbers.roles
    return [(roles.student, other) for other in (roles.ensemble, roles.twin) if other is not None]


def _vector(figure: Figure, folder: Path, stem: str, caption: str) -> Plot:
    return Plot(stem, caption, inline_svg(save_plot(figure, folder, stem), stem, escape(caption)))


def _raster(figure: Figure, folder: Path, stem: str, caption: str) -> Plot:
    """The page has a WebP picture, a quarter as large as the PNG file beside it, which has every pixel as it is."""
    save_plot(figure, folder, stem)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    small = io.BytesIO()
    with Image.open(folder / f"{stem}.png") as file:
        file.convert("RGB").save(small, "webp", quality=WEBP_QUALITY)
    data = base64.b64encode(small.getvalue()).decode()
    image = f'<img alt="{escape(caption)}" width="{width}" height="{height}" src="data:image/webp;base64,{data}">'
    return Plot(stem, caption, image, width)


def _dots_caption(numbers: Numbers, metric: str) -> str:
    return (
        f"{metric}: mean (mark) and standard deviation (line) over {len(numbers.cases)} cases, of what all methods "
        f"have. A ring marks a significant difference from {numbers.roles.reference} ({MARK} in the table)."
    )


def _paired_caption(numbers: Numbers, first: str, second: str, metric: str) -> str:
    test = numbers.test(first, second, metric)
    assert test is not None, (first, second)
    low, mean, high = (of_metric(v, metric, sign=True) for v in (test.low, test.mean, test.high))
    failures = failed_apart(test)
    return (
        f"{metric} ({numbers.over}) of {first} against {second}, case by case. Left: below the line {second} is "
        f"higher. Right: differences in order; dashed, their mean {mean}, shaded its 95 % interval {low} to {high}."
        f"{f' Left out: {failures}.' if failures else ''}"
    )


def _case_caption(shown: ShownCase, numbers: Numbers) -> str:
    metric = numbers.shown[0]
    value = f"{of_metric(shown.score, metric)} {numbers.unit(metric)}".strip()
    return f"{shown.kind}: {shown.case}, {metric} {value}{structures(shown.left_out)}"


_RELIABILITY = (
    "Reliability near the organs (bounding box of the reference's foreground and 10 {unit} around it). Left: on the "
    "diagonal, probabilities mean what they say; below it a method is over-confident. Right: how the voxels are spread "
    "over the bins."
)
