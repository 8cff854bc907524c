"""How far a step is, read from what it writes."""

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from nnunet_kd.distill.step import Step

TAIL_BYTES = 10_000  # some epochs of nnU-Net's log, also with a hundred labels


@dataclass(frozen=True)
class Count:
    """How far a step is.

    Attributes:
        unit: what is counted.
        done: how many are over, those of an earlier, stopped run too.
        total: how many there are.
        seconds: of one, as seen lately; None: none has been seen.
    """

    unit: str
    done: int
    total: int
    seconds: float | None

    def __str__(self) -> str:
        return f"{self.unit} {min(self.done + 1, self.total)} of {self.total}"


def count(step: Step, log: Path, started: float) -> Count | None:
    """Reads how far a running step is; None as long as nothing tells.

    Args:
        step: the step.
        log: its output.
        started: time at which it was started, in seconds since the epoch of the clock.
    """
    if step.files:
        return _files(step.files, started)
    if not (step.epochs or step.bar) or not log.is_file():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        tail = file.read().decode(errors="replace")
    return _epochs(tail, step.epochs) if step.epochs else _bar(tail, step.bar)


def _epochs(tail: str, total: int) -> Count | None:
    """Epochs of nnU-Net's log; it counts from 0, and a training that is resumed goes on counting."""
    begun = list(re.finditer(r"Epoch (\d+)\s", tail))
    if not begun:
        return None
    times = [float(seconds) for seconds in re.findall(r"Epoch time: ([\d.]+) s", tail)]
    over = "Epoch time:" in tail[begun[-1].end() :]
    return Count("epoch", int(begun[-1][1]) + over, total, median(times) if times else None)


def _bar(tail: str, name: str) -> Count | None:
    """The last state of a tqdm bar."""
    shown = re.findall(rf"{re.escape(name)}:[^\r\n]*? (\d+)/(\d+) \[([\d:]+)<", tail)
    if not shown:
        return None
    done, total = map(int, shown[-1][:2])
    elapsed = 0
    for part in shown[-1][2].split(":"):  # hours, minutes, seconds
        elapsed = 60 * elapsed + int(part)
    return Count("case", done, total, elapsed / done if done and elapsed else None)


def _files(files: tuple[Path, ...], started: float) -> Count:
    """Files that were written since the start; between the first two a case has been seen from its begin to its end."""
    times = sorted(t for t in (file.stat().st_mtime for file in files if file.is_file()) if t >= started)
    seconds = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    return Count("case", len(times), len(files), seconds)
