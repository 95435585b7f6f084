"""What a process does when it is told to end. Nothing here takes long to import."""

from __future__ import annotations

import signal
import sys


def end_on_signals() -> None:
    """Have a process that is told to end unwind, and so remove its temporary files."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda received, _: sys.exit(128 + received))


def raise_interruption(error: BaseException) -> None:
    """Raise the SystemExit or KeyboardInterrupt behind an error, if there is one.

    An import of compiled code turns what a signal raises in it into an ImportError.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SystemExit | KeyboardInterrupt):
            raise cause
        cause = cause.__cause__
