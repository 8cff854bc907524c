"""A user's mistake: one clear sentence on standard error and exit code 2."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Says what is wrong, where, and how to mend it, in one sentence."""


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns a :class:`UserError` into its sentence on standard error and exit code 2, without a traceback."""
    try:
        yield
    except UserError as error:
        print(f"nnunet_kd: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
