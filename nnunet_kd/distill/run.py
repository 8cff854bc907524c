"""Runs steps: prints each command, skips what is finished, shows the progress, says how to resume."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from nnunet_kd.distill.progress import Progress
from nnunet_kd.distill.step import Step
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.forked import run_installed
from nnunet_kd.utilities.programs import failure

SHOW_EVERY = 1.0
"""Seconds between two looks at how far the steps are."""

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
    with Progress(groups, side_by_side) as progress:
        for group in groups:
            waiting = []
            for step in group:
                number += 1
                finished = step.is_finished() and not (step.follows and (rerun or not _was_run(step, logs)))
                state = ", finished already" if finished else ""
                progress.say(f"\n[{number}/{total}] {step.title}{state}\n$ {step}")
                if finished:
                    progress.end(step)
                else:
                    waiting.append(step)
            for part in [waiting] if side_by_side else [[step] for step in waiting]:
                try:
                    seconds |= _run_together(part, logs, progress, resume_command)
                except KeyboardInterrupt:
                    raise KeyboardInterrupt(f"To go on: {resume_command}") from None
            rerun = rerun or any(step.follows or step.epochs for step in waiting)
    return seconds


def _mark(step: Step, logs: Path) -> Path:
    return logs / f"{step.log}.done"


def _was_run(step: Step, logs: Path) -> bool:
    mark = _mark(step, logs)
    return mark.is_file() and mark.read_text(encoding="utf-8") == str(step)


def _run_together(steps: Sequence[Step], logs: Path, progress: Progress, resume_command: str) -> dict[str, float]:
    begin = time.perf_counter()
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        running = {}
        for step in steps:
            log = logs / f"{step.log}.log"
            log.unlink(missing_ok=True)
            _mark(step, logs).unlink(missing_ok=True)
            process = _context.Process(
                target=run_installed, args=(list(step.command), {**os.environ, **step.variables}, str(log))
            )
            process.start()
            stack.callback(_end, process)
            progress.begin(step, log)
            running[step.log] = (step, process, log)
        while running:
            wait([process.sentinel for _, process, _ in running.values()], timeout=SHOW_EVERY)
            progress.show()
            for name, (step, process, log) in list(running.items()):
                if process.is_alive():
                    continue
                process.join()
                del running[name]
                seconds[name] = time.perf_counter() - begin
                if process.exitcode:
                    error = failure(step.command[0], process.exitcode, log)
                    raise UserError(f"{error}\nTo go on: {resume_command}")
                progress.end(step)
                _mark(step, logs).write_text(str(step), encoding="utf-8")
                progress.say(f"{step.title}: {seconds[name]:.1f} s")
    return seconds


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
    process.join()
