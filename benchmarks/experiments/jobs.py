"""Jobs that need each other, worked off by doit."""

import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain

from nnunet_kd.utilities.forked import run_installed

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
    needs: Sequence[str] = ()
    prepare: Callable[[], None] | None = None


def select(jobs: Mapping[str, Job], names: Sequence[str]) -> list[Job]:
    """The named jobs, and all that they need."""
    chosen: dict[str, Job] = {}
    todo = list(names)
    while todo:
        if (name := todo.pop(0)) not in chosen:
            chosen[name] = jobs[name]
            todo += jobs[name].needs
    return list(chosen.values())


def work(jobs: Sequence[Job], folder: Path, environment: Mapping[str, str], processes: int = 1) -> bool:
    """Works off what is not done yet, and says whether all of it is done now.

    A job is done when its commands, and those of all that it needs, have ended well as they are now. One that fails
    stops those that need it, no others, and is tried again the next time; so is one that was stopped.
    ``folder/jobs/NAME.log`` is what it printed, ``NAME.done`` what was done: doit's own file is written at the end
    only, and lost with a run of days that is killed.

    Args:
        jobs: in the order in which they are wanted, with all that they need.
        folder: where logs and marks go.
        environment: what is added to this process's own for the commands.
        processes: how many jobs run at a time.
    """
    state = folder / "jobs"
    state.mkdir(parents=True, exist_ok=True)
    by_name = {job.name: job for job in jobs}

    def task_study() -> Iterator[dict[str, Any]]:
        for job in jobs:
            steps = json.dumps([[j.name, j.commands] for j in select(by_name, [job.name])])
            yield {
                "basename": job.name,
                "actions": [partial(_run, job, steps, state, environment)],
                "task_dep": list(job.needs),
                "uptodate": [_is_done(state / f"{job.name}.done", steps)],
            }

    settings = {"dep_file": str(state / "doit.db"), "verbosity": 2}
    loader = ModuleTaskLoader({"task_study": task_study, "DOIT_CONFIG": settings})
    code = DoitMain(loader).run(["run", "--continue", "-n", str(processes), "-P", "thread", *by_name])
    return not code


def _is_done(mark: Path, steps: str) -> bool:
    return mark.is_file() and mark.read_text() == steps


def _run(job: Job, steps: str, state: Path, environment: Mapping[str, str]) -> bool:
    log = state / f"{job.name}.log"
    if not _run_commands(job, log, environment):
        return False
    (state / f"{job.name}.done").write_text(steps)
    return True


def _run_commands(job: Job, log: Path, environment: Mapping[str, str]) -> bool:
    with log.open("a") as file:
        try:
            if job.prepare is not None:
                job.prepare()
        except Exception:
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
