"""The two kinds of failure that a user sees, each with its exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


class VconvError(Exception):
    """Something failed that is not the user's doing. The message is one line and says what to do."""

    exit_code = 1


class InputError(VconvError):
    """Bad use or bad input: which file, what is wrong, what to do about it."""

    exit_code = 2


class AudioWarning(UserWarning):
    """A recording that is used, though something is wrong with it. The message is one line."""


def show_warnings_as_lines(program: str) -> None:
    """Have each ``AudioWarning`` told as one line on stderr, and other warnings as before."""
    pass_audio_warnings(lambda message: tell(f"{program}: {message}"))


def pass_audio_warnings(take: Callable[[str], object]) -> None:
    """Have ``take`` called with the message of each ``AudioWarning``, and other warnings shown as before."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
        if issubclass(category, AudioWarning):
            take(str(message))
        else:
            before(message, category, *details, **more)

    warnings.showwarning = show


def tell(line: object) -> None:
    """A line on stderr, if there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # closed or full: there is nobody to tell
            print(" ".join(str(line).split()), file=sys.stderr, flush=True)


def unforeseen(error: BaseException, where: str = "") -> VconvError:
    """What a user is told of an error that no module has foreseen: one line, for the exit code 1.

    What the machine lacks (memory, space, file descriptors) is told as such, all else as a fault in vconv.
    """
    before = f"{where}: " if where else ""
    if isinstance(error, MemoryError):
        return VconvError(f"{before}out of memory; close other programs, or use fewer --jobs and shorter recordings")
    if isinstance(error, OSError) and error.errno is not None:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        advice = _ADVICE.get(error.errno, "check the file and the machine")
        return VconvError(f"{before}{name}{error.strerror}; {advice}")
    return VconvError(f"{before}{type(error).__name__}: {error}. This is a fault in vconv; VCONV_DEBUG=1 shows where")


_ADVICE = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some space within your quota",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer --jobs",
    errno.ENFILE: "close other programs",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
}


def run_script(name: str, work: Callable[[], int | None]) -> int:
    """A script's exit code: that of its work (None is 0), or of the error that ended it, told on stderr."""
    try:
        return work() or 0
    except VconvError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
