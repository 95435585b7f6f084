"""The command line: options and messages. What the commands do is imported when it is needed."""

# ruff: noqa: I001

from __future__ import annotations

import contextlib
from pathlib import Path
import os
import signal
import sys
from typing import NoReturn

import typer

# Imported in the order of `vconv --help`.
from vconv.cli import converting, tokens, model, live, web, training, evaluating, speakers  # noqa: F401 (the order of the help)
from vconv.cli.app import app
from vconv.cli.console import complain
from vconv.errors import InputError, VconvError, show_warnings_as_lines, unforeseen
from vconv.signals import end_on_signals, raise_interruption

__all__ = ["app", "main", "run"]


def main() -> NoReturn:
    """The entry point of the program."""
    end_on_signals()
    # numpy multiplies only small matrices here, and starting a thread for every core takes longer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run()
    # At the interpreter's end nothing could be told any more of what does not fit into a full disk.
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.close()
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code; a failure is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_warnings_as_lines("vconv")
    if sys.stdout is None:  # closed by the caller: what is printed goes nowhere
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    elif hasattr(sys.stdout, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            # Without arguments typer would raise its help as an error.
            code = app(arguments or ["--help"], prog_name="vconv", standalone_mode=False) or 0
        except Exception as error:
            raise_interruption(error)
            raise
        sys.stdout.flush()
        return code
    except VconvError as error:
        complain(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own, on options and arguments
            complain(f"{error.format_message().rstrip('.')}; see vconv --help")
            return InputError.exit_code
        if os.environ.get("VCONV_DEBUG"):
            raise
        complain(unforeseen(error))
        return VconvError.exit_code
