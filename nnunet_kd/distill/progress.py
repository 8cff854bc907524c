"""One line over all steps: which of them runs, how far it is, and the time that is left."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_kd.distill.count import Count, count
from nnunet_kd.distill.step import Step

LINE_EVERY = 60.0
"""Seconds between two lines where there is no terminal; more after ten minutes, so that long logs stay short."""


@dataclass
class _Running:
    log: Path
    started: float
    count: Count | None = None
    begun: float = 0.0  # when what is counted was last seen to go on


class Progress:
    """The line: kept up to date on a terminal, else printed when a time is first known, and now and then.

    The time left is known from epochs and cases that are over. A training that has not begun is taken to be as long as
    one of its group that runs: the same network and schedule. For what was never seen nothing is added, and the
    time is called the least.

    Args:
        groups: all steps, in order.
        side_by_side: whether the steps of a group run at the same time.
    """

    def __init__(self, groups: Sequence[Sequence[Step]], side_by_side: bool):
        self._groups = groups
        self._side_by_side = side_by_side
        self._steps = [step for group in groups for step in group]
        self._over: set[str] = set()
        self._counts: dict[str, Count] = {}
        self._running: dict[str, _Running] = {}
        self._bar: Any = tqdm(total=0, bar_format="{desc}", dynamic_ncols=True, leave=False, disable=not _has_line())
        self._next_line = self._group_begun = 0.0
        self._time_was_known = True

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """Prints above the line."""
        tqdm.write(text)
        sys.stdout.flush()

    def begin(self, step: Step, log: Path) -> None:
        """A step has been started."""
        now = time.time()
        if not self._running:
            self._group_begun, self._next_line, self._time_was_known = now, now + LINE_EVERY, False
        self._running[step.log] = _Running(log, now, begun=now)

    def end(self, step: Step) -> None:
        """A step has ended, or was finished already."""
        self._running.pop(step.log, None)
        self._over.add(step.log)

    def show(self) -> None:
        """Reads how far the running steps are, and shows it."""
        now = time.time()
        for step in self._steps:
            if (running := self._running.get(step.log)) is not None:
                seen = count(step, running.log, running.started)
                if seen is not None and (running.count is None or seen.done != running.count.done):
                    running.begun = now
                running.count = seen
                if seen is not None:
                    self._counts[step.log] = seen
        seconds, is_all = self.time_left(now)
        line = self._line(seconds, is_all)
        if not self._bar.disable:
            self._bar.set_description_str(line)
        elif now >= self._next_line or (seconds and not self._time_was_known):
            print(line, flush=True)
            self._next_line = now + max(LINE_EVERY, (now - self._group_begun) / 10)
            self._time_was_known = self._time_was_known or seconds > 0

    def time_left(self, now: float) -> tuple[float, bool]:
        """Seconds that are known to be left over all steps, and whether that is all."""
        seconds, is_all = 0.0, True
        for group in self._groups:
            waiting = [step for step in group if step.log not in self._over]
            left = [self._left(step, group, now) for step in waiting]
            known = [s for s in left if s is not None]
            is_all = is_all and len(known) == len(left) and not any(step.validates for step in waiting)
            if known:
                seconds += max(known) if self._side_by_side else sum(known)
        return seconds, is_all

    def _left(self, step: Step, group: Sequence[Step], now: float) -> float | None:
        running = self._running.get(step.log)
        seen = running.count if running is not None else None
        if seen is None and (not step.epochs or step.is_resumed):
            return None
        done, total, seconds = (seen.done, seen.total, seen.seconds) if seen is not None else (0, step.epochs, None)
        if seconds is None and step.epochs:
            seconds = next((c.seconds for s in group if (c := self._counts.get(s.log)) and c.seconds is not None), None)
        if seconds is None:
            return None
        gone = min(now - running.begun, seconds) if running is not None and seen is not None else 0.0
        return max(0.0, (total - done) * seconds - gone)

    def _line(self, seconds: float, is_all: bool) -> str:
        numbers = [str(i) for i, step in enumerate(self._steps, 1) if step.log in self._running]
        steps = f"step{'s' * (len(numbers) > 1)} {'-'.join(numbers[:1] + numbers[1:][-1:])} of {len(self._steps)}"
        left = f", {'about' if is_all else 'at least'} {duration(seconds)} left" if seconds else ""
        running = [(step, self._running[step.log]) for step in self._steps if step.log in self._running]
        return f"{steps}{left}: " + "; ".join(
            step.name + (f", {running.count}" if running.count is not None else "") for step, running in running
        )


def _has_line() -> bool:
    """Whether the error output is a terminal with room for a line; some say that they have 0 columns."""
    if not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # no file descriptor
        return True


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as exact as an estimate may look.

    >>> duration(42), duration(600), duration(12_000)
    ('42 s', '10 min', '3 h 20 min')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
