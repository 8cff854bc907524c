"""A picture of one test case: image, reference and the three predictions as contours."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from SimpleITK import GetArrayFromImage, ReadImage

from nnunet_kd.demo.results import Result
from nnunet_kd.demo.synthetic import DATASET_NAME, ORGANS

# Okabe and Ito's colours, which the colour-blind tell apart
COLORS = {
    "large_organ": "#56B4E9",
    "small_organ": "#E69F00",
    "vessel": "#CC79A7",
}
REFERENCE_COLOR = "white"


def draw_overlay(folder: Path, results: Sequence[Result]) -> Path:
    """Draws the test case whose distilled Dice is the median one; returns the picture's path.

    Args:
        folder: the demo's folder.
        results: ensemble, student, twin.
    """
    case = median_case(results[1])
    raw = folder / "nnUNet_raw" / DATASET_NAME
    image, spacing_mm = _read(raw / "imagesTs" / f"{case}_0000.nii.gz")
    reference, _ = _read(raw / "labelsTs" / f"{case}.nii.gz")
    panels = [("image", None), ("reference", reference)]
    for r in results:
        prediction, _ = _read(folder / "predictions" / r.model.key / f"{case}.nii.gz")
        panels.append((f"{r.model.name}\nDice {r.case_dice(case):.3f}", prediction))

    path = folder / "overlay.png"
    figure = _draw(panels, image, reference, spacing_mm)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def median_case(result: Result) -> str:
    """The case with the median Dice, the lower one of two."""
    ordered = sorted(result.dice, key=result.case_dice)
    return ordered[(len(ordered) - 1) // 2]


def busiest_slice(label: np.ndarray, axis: int) -> int:
    """Slice along ``axis`` that shows all organs: the smallest section, relative to the organ's largest, is largest."""
    other = tuple(i for i in range(label.ndim) if i != axis)
    areas = np.array([(label == k).sum(other) for k in ORGANS.values()])
    return int((areas / areas.max(1, keepdims=True)).min(0).argmax())


def _draw(panels: list, image: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> plt.Figure:
    views = [("axial", 0, "upper"), ("coronal", 1, "lower")]
    figure, axes = plt.subplots(
        len(views), len(panels), figsize=(2.4 * len(panels), 5.7), layout="constrained", facecolor="white"
    )
    low, high = np.percentile(image, (1, 99.7))
    for row, (view, axis, origin) in zip(axes, views, strict=True):
        height_mm, width_mm = np.delete(spacing_mm, axis)
        where = busiest_slice(reference, axis)
        row[0].set_ylabel(view, fontsize=12)
        for ax, (title, label) in zip(row, panels, strict=True):
            style = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "bilinear"}
            ax.imshow(image.take(where, axis), aspect=height_mm / width_mm, origin=origin, **style)
            ax.autoscale(False)
            if label is not None:
                if label is not reference:
                    _contours(ax, reference.take(where, axis), dict.fromkeys(ORGANS, REFERENCE_COLOR), "dotted", 1.2)
                _contours(ax, label.take(where, axis), COLORS, "solid", 1.8)
            ax.set(xticks=[], yticks=[])
            if axis == 0:
                ax.set_title(title, fontsize=12)
    handles = [Line2D([], [], color=c, lw=2.5, label=o.replace("_", " ")) for o, c in COLORS.items()]
    handles.append(Line2D([], [], color="0.45", lw=1.5, ls="dotted", label="reference (white)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12)
    return figure


def _contours(ax: plt.Axes, label: np.ndarray, colors: dict[str, str], style: str, width: float) -> None:
    for organ, index in ORGANS.items():
        mask = np.pad(label == index, 1).astype(float)
        if mask.any():
            ticks = [np.arange(-1, n + 1) for n in reversed(label.shape)]
            ax.contour(*ticks, mask, levels=[0.5], colors=colors[organ], linestyles=style, linewidths=width)


def _read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Array (z, y, x) and spacing (z, y, x) in mm."""
    image = ReadImage(str(path))
    return GetArrayFromImage(image), image.GetSpacing()[::-1]
