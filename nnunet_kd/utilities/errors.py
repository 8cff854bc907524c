"""A user's mistake, or a full disk: one clear sentence on standard error and exit code 2."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_LINE = 1000
# What the system refuses whatever the program does; any other OSError is a fault of the program.
_SYSTEM_ERRORS = {
    code
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ENOTDIR", "EISDIR"),
        *("ELOOP", "EMFILE", "ENFILE", "ESTALE", "ENODEV", "ENXIO"),
    )
    if (code := getattr(errno, name, None)) is not None
}


class UserError(Exception):
    """Says what is wrong, where, and how to mend it, in one sentence."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns a :class:`UserError`, and what the system refuses (a full or read-only disk, no permission, a name that is
    too long, no memory), into its sentence on standard error and exit code 2, without a traceback.
    """
    try:
        yield
    except UserError as error:
        sentence = str(error)
    except MemoryError:
        sentence = "not enough memory for this; close other programs, or give smaller files or numbers."
    except OSError as error:
        if error.errno not in _SYSTEM_ERRORS:
            raise
        sentence = f"{error.filename2 or error.filename or 'a file'}: {error.strerror}; {_remedy(error.errno)}."
    else:
        return
    lines = [_abridged(line) for line in sentence.split("\n")]
    print("nnunet_kd: " + "\n".join(lines), file=sys.stderr, flush=True)
    raise SystemExit(2) from None


def _remedy(code: int | None) -> str:
    if code in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
        return "give another path"
    return "free some space or mend the permissions"


def _abridged(line: str) -> str:
    """A line with its middle left out when it quotes something endless."""
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 3 :]}"
