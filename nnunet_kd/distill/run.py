"""Runs steps: prints each command, skips what is finished, shows the progress of a training, how to resume."""

import multiprocessing
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_kd.distill.steps import Step
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.forked import run_installed
from nnunet_kd.utilities.programs import failure

POLL_SECONDS = 0.2

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["nnunet_kd.distill.preloaded"])


def run_steps(
    groups: Sequence[Sequence[Step]], logs: Path, side_by_side: bool, resume_command: str
) -> dict[str, float]:
    """Runs what is not finished.

    Args:
        groups: steps in order; those of one group need nothing of each other.
        logs: folder for their output, made if it is not there.
        side_by_side: run the steps of a group at the same time.
        resume_command: command that resumes after a failure.

    Returns:
        Wall seconds of each step that was run, by its log's name.

    Raises:
        UserError: with the last lines of the log of the step that failed.
        KeyboardInterrupt: says how to go on; the steps that were running have ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    total, number, rerun = sum(map(len, groups)), 0, False
    for group in groups:
        waiting = []
        for step in group:
            number += 1
            finished = step.is_finished() and not (step.follows and (rerun or not _was_run(step, logs)))
            print(f"\n[{number}/{total}] {step.title}{', finished already' if finished else ''}\n$ {step}", flush=True)
            if not finished:
                waiting.append(step)
        for part in [waiting] if side_by_side else [[step] for step in waiting]:
            try:
                seconds |= _run_together(part, logs, resume_command)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"To go on: {resume_command}") from None
        rerun = rerun or any(step.follows or step.epochs for step in waiting)
    return seconds


def _mark(step: Step, logs: Path) -> Path:
    return logs / f"{step.log}.done"


def _was_run(step: Step, logs: Path) -> bool:
    mark = _mark(step, logs)
    return mark.is_file() and mark.read_text(encoding="utf-8") == str(step)


def _run_together(steps: Sequence[Step], logs: Path, resume_command: str) -> dict[str, float]:
    begin = time.perf_counter()
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        running = {}
        for position, step in enumerate(steps):
            log = logs / f"{step.log}.log"
            log.unlink(missing_ok=True)
            _mark(step, logs).unlink(missing_ok=True)
            bar = stack.enter_context(_bar(step, position)) if step.epochs else None
            process = _context.Process(
                target=run_installed, args=(list(step.command), {**os.environ, **step.variables}, str(log))
            )
            process.start()
            stack.callback(_end, process)
            running[step.log] = (step, process, log, bar)
        while running:
            time.sleep(POLL_SECONDS)
            for name, (step, process, log, bar) in list(running.items()):
                if bar is not None:
                    _show(bar, _epochs(log))
                if process.is_alive():
                    continue
                process.join()
                del running[name]
                seconds[name] = time.perf_counter() - begin
                if process.exitcode:
                    error = failure(step.command[0], process.exitcode, log)
                    raise UserError(f"{error}\nTo go on: {resume_command}")
                _mark(step, logs).write_text(str(step), encoding="utf-8")
                tqdm.write(f"{step.title}: {seconds[name]:.1f} s")
    return seconds


def _bar(step: Step, position: int) -> Any:
    return tqdm(total=step.epochs, desc=step.title, unit="epoch", position=position, leave=False, disable=None)


def _show(bar: Any, epochs: int) -> None:
    if epochs > bar.n:
        bar.update(epochs - bar.n)
    else:
        bar.refresh()  # the time


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
    process.join()


def _epochs(log: Path) -> int:
    """Number of finished epochs, from a training's log."""
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        found = re.findall(rb"Epoch (\d+)\s", file.read())
    return int(found[-1]) if found else 0
