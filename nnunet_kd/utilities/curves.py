"""Training curves of loss terms, below nnU-Net's own in ``progress.png``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image


def append_curves(
    progress_png: Path, curves: Mapping[str, Sequence[float]], meaning: str = "weighted loss term"
) -> None:
    """Adds one panel with a curve per loss term, or other value, at the bottom of nnU-Net's ``progress.png``.

    Args:
        progress_png: the file as nnU-Net has just drawn it.
        curves: name -> one value per epoch.
        meaning: what the values are, beside the axis.
    """
    with Image.open(progress_png) as file:
        above = file.convert("RGB")
    dpi = 100
    with plt.rc_context({"font.size": 28}):
        figure, axes = plt.subplots(figsize=(above.width / dpi, 16), dpi=dpi)
        for name, values in curves.items():
            axes.plot(range(len(values)), values, linewidth=4, label=name)
        axes.set(xlabel="epoch", ylabel=meaning)
        axes.grid(visible=True, alpha=0.4)
        axes.legend(loc="upper right")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        below = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        plt.close(figure)
    both = Image.new("RGB", (above.width, above.height + below.height), "white")
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height))
    both.save(progress_png, compress_level=1)
