"""Installed commands, run in a process that is forked from one which has imported nnU-Net already."""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points


def run_installed(
    command: Sequence[str], environment: Mapping[str, str], output: str, errors: str | None = None
) -> None:
    """Runs a command as the target of a process of its own, and ends that process with the command's exit code.

    Args:
        command: name and arguments.
        environment: the whole environment of the command.
        output: file to which both streams are appended.
        errors: file to which standard error is appended instead.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    for stream, name in ((1, output), (2, errors or output)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(command)
    (script,) = entry_points(group="console_scripts", name=command[0])
    code: str | int | None = 0
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


def end_with_parent() -> None:
    """Waits for the process that started this one to end, however it ends, and then ends this one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
