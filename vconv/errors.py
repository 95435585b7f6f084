"""The two kinds of failure that a user sees, each with its exit code."""

from __future__ import annotations


class VconvError(Exception):
    """Something failed that is not the user's doing. The message is one line and says what to do."""

    exit_code = 1


class InputError(VconvError):
    """Bad use or bad input: which file, what is wrong, what to do about it."""

    exit_code = 2
