"""The panels below nnU-Net's training curves."""

from pathlib import Path

import numpy as np
from PIL import Image

from nnunet_kd.utilities.curves import append_curves


def test_panels_are_added_below_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "progress.png"
    above = np.random.default_rng(0).integers(0, 255, (40, 600, 3), dtype=np.uint8)
    Image.fromarray(above).save(file)
    append_curves(file, {"soft_ce": [0.5, 0.25], "hard": [1.0, 0.5]})
    first = np.asarray(Image.open(file))
    append_curves(file, {"student": [0.1, 0.9]}, "pseudo Dice")
    second = np.asarray(Image.open(file))
    panel = len(first) - len(above)
    assert len(second) == len(first) + panel
    assert np.array_equal(second[: len(first)], first)
    assert np.array_equal(first[: len(above)], above)
    for part in (first[len(above) :], second[len(first) :]):
        assert part.std() > 1, "an empty panel"
