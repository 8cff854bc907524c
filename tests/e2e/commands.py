"""Runs installed commands, each in a process of its own that is forked from one which has imported nnU-Net already.

Imports are most of the time of a command on a handful of small images.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.forked import run_installed

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
        process = _context.Process(
            target=run_installed, args=([str(c) for c in command], dict(environment), str(output))
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        printed = output.read_text(errors="replace") if output.exists() else ""
    assert process.exitcode is not None
    return process.exitcode, printed
