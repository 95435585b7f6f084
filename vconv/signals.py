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
