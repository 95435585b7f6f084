"""The two kinds of failure that a user sees, each with its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable


class VconvError(Exception):
    """Something failed that is not the user's doing. The message is one line and says what to do."""

    exit_code = 1


class InputError(VconvError):
    """Bad use or bad input: which file, what is wrong, what to do about it."""

    exit_code = 2


def run_script(name: str, work: Callable[[], int | None]) -> int:
    """A script's exit code: that of its work (None is 0), or of the error that ended it, told on stderr."""
    try:
        return work() or 0
    except VconvError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
