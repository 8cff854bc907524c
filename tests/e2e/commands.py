"""Runs installed commands, each in a process of its own that is forked from one which has imported nnU-Net already.

Imports are most of the time of a command on a handful of small images.
"""

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

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
        process = _context.Process(target=_run, args=([str(c) for c in command], dict(environment), str(output)))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        printed = output.read_text(errors="replace") if output.exists() else ""
    assert process.exitcode is not None
    return process.exitcode, printed


def _run(command: list[str], environment: dict[str, str], output: str) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    (script,) = entry_points(group="console_scripts", name=command[0])
    code: object = 0
    try:
        code = script.load()()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code or 0)
