"""The panels below nnU-Net's training curves, and when they are drawn."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

from nnunet_kd.utilities import curves
from nnunet_kd.utilities.curves import Panel, ProgressLogger, append_panels

WIDTH = 3000  # of nnU-Net's figure
TERMS = Panel({"soft_ce": "kd_soft_ce", "hard": "kd_hard"}, "weighted loss term", "loss_tr is the sum of these terms")
DICE = Panel({"student": "mean_fg_dice"}, "pseudo Dice")
LOG = {"kd_soft_ce": [0.5, 0.25], "kd_hard": [1.0, 0.5], "mean_fg_dice": [0.1, 0.9]}
BLUE = np.array([31, 119, 180])  # the first of matplotlib's colours


def draw(folder: Path, panels: list[Panel], log: dict[str, list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """What was there, and the whole picture after it."""
    above = np.random.default_rng(0).integers(0, 255, (40, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(above).save(folder / "progress.png")
    append_panels(folder / "progress.png", panels, log)
    return above, np.asarray(Image.open(folder / "progress.png"))


def test_panels_are_added_below_what_is_there(tmp_path: Path) -> None:
    above, whole = draw(tmp_path, [TERMS, DICE], LOG)
    assert np.array_equal(whole[: len(above)], above)
    first, second = np.split(whole[len(above) :], 2)
    assert len(first) == 1600
    assert not np.array_equal(first, second)
    assert first.std() > 1 < second.std(), "an empty panel"


def test_a_panel_is_as_wide_as_nnunets(tmp_path: Path) -> None:
    """nnU-Net's axes reach from about 165 to 2830 of 3000 pixels."""
    above, whole = draw(tmp_path, [TERMS], LOG)
    frame = np.nonzero((whole[len(above) :] < 100).all(-1).mean(0) > 0.8)[0]
    assert frame.min() == pytest.approx(165, abs=20)
    assert frame.max() == pytest.approx(2830, abs=20)


def test_a_single_epoch_is_seen(tmp_path: Path) -> None:
    _, whole = draw(tmp_path, [Panel({"hard": "kd_hard"}, "loss")], {"kd_hard": [1.0]})
    blue = (np.abs(whole.astype(int) - BLUE) < 8).all(-1)
    middle = blue[:, WIDTH // 2 - 50 : WIDTH // 2 + 50]  # away from the legend
    assert middle.sum() > 100


def test_the_note_is_written(tmp_path: Path) -> None:
    above, with_note = draw(tmp_path, [TERMS], LOG)
    _, without = draw(tmp_path, [Panel(TERMS.curves, TERMS.meaning)], LOG)
    rows = np.nonzero((with_note != without).any((1, 2)))[0] - len(above)
    assert len(rows) > 10
    assert rows.max() < 0.08 * 1600, "above the diagram"


def test_short_epochs_are_not_spent_on_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing takes 2 s here, an epoch 5 s: one in 40 s at most, and the last one at the end."""
    now = [100.0]
    drawn: list[float] = []

    def nnunets(self: LocalLogger, folder: str) -> None:
        drawn.append(now[0])
        now[0] += 2
        Image.new("RGB", (WIDTH, 40)).save(Path(folder) / "progress.png")

    monkeypatch.setattr(LocalLogger, "plot_progress_png", nnunets)
    monkeypatch.setattr(curves, "perf_counter", lambda: now[0])
    log = ProgressLogger()
    log.panels.append(TERMS)
    log.load_checkpoint(LOG)
    for _ in range(20):
        log.plot_progress_png(str(tmp_path))
        now[0] += 5
    assert len(drawn) == 3
    assert all(later - earlier >= 42 for earlier, later in pairwise(drawn))
    assert Image.open(tmp_path / "progress.png").height == 40 + 1600
    log.finish(str(tmp_path))
    log.finish(str(tmp_path))
    assert len(drawn) == 4
