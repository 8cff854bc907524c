"""Runs installed commands, each in a process of its own that is forked from one which has imported nnU-Net already.

Imports are most of the time of a command on a handful of small images.
"""

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nnunet_kd.utilities.forked import run_installed

os.environ["nnUNet_def_n_proc"] = "1"  # nnU-Net 2.8.1 reads it when it is imported
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.e2e.preloaded"])


def run_command(command: Sequence[object], environment: Mapping[str, str], timeout: float = 900) -> tuple[int, str]:
    """Runs an installed command.

    Args:
        command: name and arguments.
        environment: the whole environment of the command.
        timeout: seconds.

    Returns:
        Exit code, and what it printed to either stream.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        code = _run(timeout, run_installed, [str(c) for c in command], dict(environment), str(output))
        return code, _read(output)


def run_separately(
    command: Sequence[str], environment: Mapping[str, str], timeout: float, cwd: Path, limits: Mapping[int, int]
) -> tuple[int, str, str]:
    """Runs an installed command within limits.

    Args:
        command: name and arguments.
        environment: the whole environment of the command.
        timeout: seconds, after which the command is killed.
        cwd: its working directory.
        limits: for example ``{resource.RLIMIT_AS: bytes}``.

    Returns:
        Exit code, and what it printed to standard output and to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        code = _run(
            timeout, _run_within, list(command), dict(environment), str(output), str(errors), str(cwd), dict(limits)
        )
        return code, _read(output), _read(errors)


def _run_within(
    command: list[str], environment: dict[str, str], output: str, errors: str, cwd: str, limits: dict[int, int]
) -> None:
    os.chdir(cwd)
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    run_installed(command, environment, output, errors)


def _run(timeout: float, target: Callable[..., None], *arguments: object) -> int:
    process = _context.Process(target=target, args=arguments)
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
