"""What runs a bundle: numpy, scipy, an image reader and an inference engine; neither PyTorch nor nnU-Net.

A bundle holds a copy of this package, ``kd_bundle``. A program that keeps a bundle loaded::

    from kd_bundle import load

    predictor = load("BUNDLE")
    segmentation = predictor.predict(array, spacing)
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .predictor import Predictor


def load(folder: str | Path, threads: int | None = None) -> "Predictor":
    """Checks a bundle and loads its network. No code of the bundle's folder is executed.

    Args:
        folder: the bundle.
        threads: of the network; None for every processor that this process may use.

    Raises:
        BundleError: for a folder that is no bundle, or one that is damaged.
    """
    from .verify import verify

    content = verify(Path(folder))  # before anything else of the bundle is read
    from .description import Description
    from .predictor import Predictor

    return Predictor(Path(folder), Description.from_json(content), threads)
