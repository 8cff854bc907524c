"""Training curves of loss terms, below nnU-Net's own in ``progress.png``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg


def append_curves(
    progress_png: Path, curves: Mapping[str, Sequence[float]], meaning: str = "weighted loss term"
) -> None:
    """Adds one panel with a curve per loss term, or other value, at the bottom of nnU-Net's ``progress.png``.

    Args:
        progress_png: the file as nnU-Net has just drawn it.
        curves: name -> one value per epoch.
        meaning: what the values are, beside the axis.
    """
    above = plt.imread(progress_png)
    dpi = 100
    with plt.rc_context({"font.size": 28}):
        figure, axes = plt.subplots(figsize=(above.shape[1] / dpi, 16), dpi=dpi)
        for name, values in curves.items():
            axes.plot(range(len(values)), values, linewidth=4, label=name)
        axes.set(xlabel="epoch", ylabel=meaning)
        axes.grid(visible=True, alpha=0.4)
        axes.legend(loc="upper right")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        below = np.asarray(canvas.buffer_rgba(), dtype=np.float32) / 255
        plt.close(figure)
    plt.imsave(
        progress_png, np.concatenate((above[..., :3], below[:, : above.shape[1], :3])), pil_kwargs={"compress_level": 1}
    )
