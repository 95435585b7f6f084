"""What the commands share: messages, progress, checks of outputs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from vconv.errors import InputError, VconvError, tell

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from vconv.batch import Tally
    from vconv.live import Enrolment
    from vconv.voice import Voice
    from vconv.voices.population import Population


def summary(tally: Tally, started: float) -> str:
    """One line on what a batch has made, out of how much audio and how fast."""
    there = f"{tally.finished} files were there already" if tally.finished else ""
    if not tally.made:
        return there
    what = str(tally.last) if tally.made == 1 and not tally.errors and not there else f"{tally.made} files"
    elapsed = time.perf_counter() - started
    speed = f"{elapsed:.1f} s with start-up, real-time factor {elapsed / tally.seconds:.3f}"
    return f"{what}: {tally.seconds:.1f} s of audio in {speed}" + (f"; {there}" if there else "")


def finish(errors: list[VconvError]) -> None:
    """Report the sources that failed, each in a line, and exit if there are any."""
    for error in errors:
        complain(error)
    if errors:
        raise typer.Exit(max(InputError.exit_code if isinstance(e, InputError) else e.exit_code for e in errors))


def save_arrays_file(made: Voice | Enrolment | Population, place: Path, overwrite: bool) -> None:
    """Save it, and make the folder."""
    from vconv import batch

    with batch.Folders() as folders:
        folders.make(place.parent)
        made.save(place, overwrite)


def complain(message: object) -> None:
    tell(f"vconv: {message}")


def check_arrays_file(path: Path, overwrite: bool, suffix: str = ".npz", option: str = "-o") -> None:
    """See before the work that the file that ``option`` names can be written, and its folder be made.

    Raises:
        InputError: it cannot.
    """
    from vconv.files import exists_already  # take a while to import
    from vconv.opening import is_folder

    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: is written as {suffix}; name it so with {option}")
    if is_folder(path):
        raise InputError(f"{path}: is a folder; name an output file in it")
    folder = Path(os.path.realpath(path)).parent
    there = next(place for place in (folder, *folder.parents) if os.access(place, os.F_OK))
    if not is_folder(there):
        raise InputError(f"{path}: {there} is no folder; choose another place with {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {there}; choose another place with {option}")
    if path.exists() and not overwrite:
        raise exists_already(path, option)


class Report:
    """Progress over files on stderr, or nothing where nobody watches."""

    def __init__(self, progress: Bar | None, total: int | None) -> None:
        self.progress = progress
        self._task = progress.add_task("", total=total, done="") if progress else None
        self._finished = 0
        self._seconds = 0.0

    def start(self, name: Path) -> None:
        """A file begins."""
        self._seconds = 0.0
        self._update(description=name.name, done="")

    def done(self) -> None:
        """One more file is done with."""
        self._finished += 1
        self._update(completed=self._finished)

    def advance(self, seconds: float) -> None:
        """So many more seconds of the file's audio are done."""
        self._seconds += seconds
        self._update(done=f"{self._seconds:.0f} s")

    def count(self, finished: int, total: int | None = None) -> None:
        """So many files are done, of as many if that is known."""
        self._update(completed=finished, total=total)

    def _update(self, **fields: object) -> None:
        if self.progress:
            self.progress.update(self._task, **fields)


@contextlib.contextmanager
def progress(count: Callable[[], int] | None, quiet: bool) -> Iterator[Report]:
    """``count`` says how many files there are, where that has to be found out."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield Report(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description} {task.fields[done]}", markup=False))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        yield Report(progress, count() if count else None)


@contextlib.contextmanager
def needs_extra(extra: str = "train") -> Iterator[None]:
    """Say what to install where an import finds that an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vconv":
            raise
        raise InputError(f"this command needs {error.name}; install it with: pip install 'vconv[{extra}]'") from error


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Keep what native libraries print off the terminal; Python's own stderr stays what it is.

    libmpg123 comments on every odd frame of an mp3 and onnxruntime on the machine's devices, straight
    to file descriptor 2, and neither can be asked not to.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # started without a stderr
        yield
        return
    python_stderr, native = sys.stderr, os.open(os.devnull, os.O_WRONLY)
    replaced = _writes_to_terminal(python_stderr)
    if replaced:
        python_stderr.flush()
        sys.stderr = os.fdopen(
            os.dup(terminal), "w", encoding=python_stderr.encoding, errors=python_stderr.errors, buffering=1
        )
    os.dup2(native, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        if replaced:
            sys.stderr.close()
            sys.stderr = python_stderr
        os.close(native)
        os.close(terminal)


def _writes_to_terminal(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError, AttributeError):  # replaced by something that is no file, as tests do
        return False


def default_model() -> Path:
    """The model that is included; its module imports numpy, which takes longer than ``vconv --help`` may."""
    from vconv import model_folder

    return model_folder.default_model()
