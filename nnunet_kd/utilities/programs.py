"""Console scripts of this environment, and the message when one fails."""

import shutil
import sys
from collections import deque
from pathlib import Path

from nnunet_kd.utilities.errors import UserError


def find_program(name: str) -> str:
    """Console script beside this Python, so that an environment need not be activated, or else on the PATH.

    Raises:
        UserError: when there is none.
    """
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise UserError(f"{name}: not beside {sys.executable} and not on the PATH; install nnunet-kd and nnunetv2.")
    return found


def failure(program: str, code: int, log: Path) -> UserError:
    """The error of a command that ended with an exit code other than 0: where its output is, and the last of it."""
    with log.open(errors="replace") as lines:
        tail = "".join(deque(lines, 15)).rstrip()
    return UserError(f"{program} failed with exit code {code}; the whole output is in {log}, its last lines:\n{tail}")
