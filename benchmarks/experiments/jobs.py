"""Jobs that need each other, worked off by any number of processes that share a folder."""

import fcntl
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.forked import run_installed

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["benchmarks.experiments.preloaded"])


@dataclass(frozen=True)
class Job:
    """Commands that run one after the other.

    Attributes:
        name: unique; also the name of its log.
        commands: installed commands with their arguments.
        needs: names of the jobs that must be done before.
        prepare: called before the commands.
    """

    name: str
    commands: Sequence[Sequence[str]] = ()
    needs: Sequence[str] = field(default_factory=tuple)
    prepare: Callable[[], None] | None = None


def work(jobs: Sequence[Job], folder: Path, environment: dict[str, str]) -> None:
    """Works off what nobody else does, in the order of the list, until nothing is left that can be done.

    ``folder/jobs/NAME.done`` and ``.failed`` mark a job's end, ``.log`` is what it printed. Remove ``.failed`` to try
    again. A worker that is killed takes its command with it and gives its job back.
    """
    state = folder / "jobs"
    state.mkdir(parents=True, exist_ok=True)
    unique: dict[str, Job] = {}
    for job in jobs:
        unique.setdefault(job.name, job)
    while todo := [j for j in unique.values() if not _has_ended(j, state)]:
        ready = [j for j in todo if all((state / f"{n}.done").exists() for n in j.needs)]
        if not any(_run_unclaimed(j, state, environment) for j in ready):
            if not ready:
                break
            time.sleep(2)  # others are at work


def _has_ended(job: Job, state: Path) -> bool:
    return any((state / f"{job.name}.{end}").exists() for end in ("done", "failed"))


def _run_unclaimed(job: Job, state: Path, environment: dict[str, str]) -> bool:
    """Runs the job unless somebody else does or did; says whether it was run."""
    with (state / f"{job.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _has_ended(job, state):
            return False
        begin = time.time()
        ok = _run_job(job, state / f"{job.name}.log", environment)
        (state / f"{job.name}.{'done' if ok else 'failed'}").write_text(f"{time.time() - begin:.0f} s\n")
        print(f"{'done' if ok else 'FAILED'} {job.name} {time.time() - begin:.0f} s", flush=True)
        return True


def _run_job(job: Job, log: Path, environment: dict[str, str]) -> bool:
    if job.prepare is not None:
        try:
            job.prepare()
        except Exception:
            with log.open("a") as file:
                traceback.print_exc(file=file)
            return False
    for command in job.commands:
        with log.open("a") as file:
            print("$", *command, file=file, flush=True)
        begin = time.time()
        process = _context.Process(target=run_installed, args=(list(command), {**os.environ, **environment}, str(log)))
        process.start()
        process.join()
        with log.open("a") as file:
            print(f"# {time.time() - begin:.1f} s", file=file)
        if process.exitcode:
            return False
    return True
