"""Many files at once: what is written where, and one bad file that does not stop the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vconv import audio
from vconv.errors import InputError, VconvError


@dataclass(frozen=True)
class Job:
    """One file to make from another."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Plan:
    """The jobs that can be tried, and what is wrong with the sources that cannot."""

    jobs: list[Job]
    errors: list[VconvError]


def plan(
    sources: Sequence[Path],
    output: Path | None,
    rename: Callable[[str], str],
    suffix: str,
    *,
    overwrite: bool = False,
    protected: Sequence[Path] = (),
) -> Plan:
    """Name the output of every source, before any work is done.

    Args:
        sources: files and folders; a folder stands for the audio in it, at any depth.
        output: a file (one source file only), or a folder, in which the folders of the sources are kept.
            None writes beside each source.
        rename: the stem of a source to that of its output.
        suffix: of the outputs, where ``output`` does not name the file.
        overwrite: take outputs that exist.
        protected: files that are no output, whatever ``overwrite`` says.

    Raises:
        InputError: ``output`` is a file, but there are several sources.
    """
    single = output is not None and _is_file_name(output, sources, suffix)
    jobs: list[Job] = []
    errors: list[VconvError] = []
    makers: dict[Path, Path] = {}
    for source in sources:
        try:
            files = audio.find_audio(source) if source.is_dir() else [source]
        except VconvError as error:
            errors.append(error)
            continue
        for file in files:
            inside = file.relative_to(source).parent if source.is_dir() else Path()
            folder = file.parent if output is None else output / inside
            place = output if single else folder / f"{rename(file.stem)}{suffix}"
            try:
                _check_output(place, file, overwrite, protected, makers)
            except VconvError as error:
                errors.append(error)
            else:
                makers[place] = file
                jobs.append(Job(file, place))
    return Plan(jobs, errors)


def run(jobs: Sequence[Job], make: Callable[[Job], None]) -> list[VconvError]:
    """``make`` every job's output; the errors of those that failed."""
    errors: list[VconvError] = []
    for job in jobs:
        try:
            with folder_for(job.output):
                make(job)
        except VconvError as error:
            errors.append(error)
    return errors


@contextlib.contextmanager
def folder_for(path: Path) -> Iterator[None]:
    """Make the folder of an output; it goes again if the context fails and nothing is in it.

    Raises:
        InputError: the folder cannot be made.
    """
    made = [folder for folder in path.parents if not folder.exists()]  # the deepest first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot make this folder ({error.strerror}); choose another with -o"
        ) from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def _is_file_name(output: Path, sources: Sequence[Path], suffix: str) -> bool:
    if output.is_dir() or not output.suffix:
        return False
    if len(sources) == 1 and not sources[0].is_dir():
        return True
    if output.is_file() or output.suffix.lower() in (suffix, *audio.WRITE_FORMATS):
        raise InputError(f"{output}: is one file, but there are several sources; name a folder with -o")
    return False


def _check_output(
    output: Path, source: Path, overwrite: bool, protected: Sequence[Path], makers: dict[Path, Path]
) -> None:
    """Raise InputError if ``source`` must not be written to ``output``."""
    if not source.exists():
        raise InputError(f"{source}: no such file; check the path")
    if output in makers:
        raise InputError(f"{source}: would be written to {output}, as {makers[output]} is; rename one of them")
    if not output.exists():
        return
    if output.is_file() and any(output.samefile(path) for path in (source, *protected) if path.exists()):
        raise InputError(f"{output}: is an input and cannot be the output too; choose another place with -o")
    if not overwrite:
        raise InputError(f"{output}: exists already; pass --overwrite to replace it, or choose another place with -o")
