"""nnU-Net's ``progress.png`` with further panels below its own, drawn as often as the epochs' length allows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

LARGEST_SHARE = 0.05  # of a training's time that is spent on drawing
MOST_MARKED = 20  # epochs
DPI = 100  # nnU-Net's 2.8.1


@dataclass(frozen=True)
class Panel:
    """One diagram of curves over the epochs.

    Attributes:
        curves: name in the legend -> key in the log.
        meaning: what the values are, beside the axis.
        note: above the diagram.
    """

    curves: Mapping[str, str]
    meaning: str
    note: str = ""


class ProgressLogger(LocalLogger):
    """nnU-Net's log, whose figure has further panels.

    The figure takes about a second, which is much of a short epoch; so it is not drawn while that would take more than
    a twentieth of the time. :meth:`finish` brings it up to date.
    """

    def __init__(self) -> None:
        super().__init__()
        self.panels: list[Panel] = []
        self._due = 0.0  # when it may be drawn again
        self._is_behind = False

    def plot_progress_png(self, output_folder: str) -> None:
        """Draws ``progress.png``, or puts it off."""
        start = perf_counter()
        self._is_behind = start < self._due
        if self._is_behind:
            return
        super().plot_progress_png(output_folder)
        if self.panels:
            append_panels(Path(output_folder) / "progress.png", self.panels, self.my_fantastic_logging)
        end = perf_counter()
        self._due = end + (end - start) / LARGEST_SHARE

    def finish(self, output_folder: str) -> None:
        """Draws what was put off."""
        if self._is_behind:
            self._due = 0.0
            self.plot_progress_png(output_folder)


def append_panels(progress_png: Path, panels: Sequence[Panel], log: Mapping[str, Sequence[float]]) -> None:
    """Adds panels at the bottom of nnU-Net's ``progress.png``, as wide as its own.

    Args:
        progress_png: the file as nnU-Net has just drawn it.
        panels: from top to bottom.
        log: key -> one value per epoch.
    """
    with Image.open(progress_png) as file:
        parts = [file.convert("RGB")]
    parts += [_draw(panel, log, parts[0].width / DPI) for panel in panels]
    whole = Image.new("RGB", (parts[0].width, sum(p.height for p in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    whole.save(progress_png, compress_level=1)


def _draw(panel: Panel, log: Mapping[str, Sequence[float]], width_in: float) -> Image.Image:
    with plt.rc_context({"font.size": 28}):
        figure, axes = plt.subplots(figsize=(width_in, 16), dpi=DPI)
        for name, key in panel.curves.items():
            values = log[key]
            marker = "o" if len(values) <= MOST_MARKED else ""  # a line of one epoch would not be seen
            axes.plot(range(len(values)), values, linewidth=4, label=name, marker=marker, markersize=12)
        axes.set(xlabel="epoch", ylabel=panel.meaning)
        axes.set_title(panel.note, loc="left")
        axes.grid(visible=True, alpha=0.4)
        axes.legend(loc="upper right")
        figure.tight_layout()
        # nnU-Net's axes end here, having numbers on the right
        figure.subplots_adjust(right=0.943, top=0.92, bottom=0.08)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        plt.close(figure)
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
