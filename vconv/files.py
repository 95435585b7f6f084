"""Files that appear whole or not at all, the removal of what killed processes have left of them, and digests."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from vconv.errors import InputError

TOKEN = "[0-9a-f]" * 12  # glob of the random part of the names of temporary files
STALE_SECONDS = 3600.0  # without a change; what is being written changes every few seconds


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool = True, option: str = "-o") -> Iterator[Path]:
    """A new name beside ``path``: the file made there takes its place when the block ends well, and else is removed.

    Of a link, the file that it stands for is replaced. ``option`` names the path on the command line.

    Raises:
        InputError: the folder is missing, not writable or full, or without ``overwrite`` the file exists by then.
    """
    path = Path(path)
    temporary = temporary_beside(Path(os.path.realpath(path)))
    try:
        yield temporary
        sync(temporary)
        publish(temporary, path, overwrite)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another place with {option}") from error
    finally:
        with contextlib.suppress(OSError):  # whatever kept it from being written
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, overwrite: bool = True) -> None:
    """Give a finished file its name; both lie in one folder, or ``path`` is a link to a file there.

    Raises:
        InputError: without ``overwrite`` the file exists, as another process has just made it.
    """
    place = os.path.realpath(path)
    if overwrite:
        os.replace(temporary, place)
        return
    try:
        os.link(temporary, place)
    except FileExistsError as error:
        raise exists_already(path) from error
    except OSError:  # a file system without hard links: the name is taken first
        try:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError as error:
            raise exists_already(path) from error
        os.replace(temporary, place)


def exists_already(path: Path, option: str = "-o") -> InputError:
    """The error that says so; ``option`` names the file."""
    return InputError(f"{path}: exists already; pass --overwrite to replace it, or choose another place with {option}")


def check_no_input(output: Path, inputs: Iterable[Path], option: str = "-o") -> None:
    """See before the work that an output, which ``option`` names, does not replace what it is made from.

    Raises:
        InputError: it is the same file as one of the inputs.
    """
    if output.is_file() and any(path.exists() and output.samefile(path) for path in inputs):
        raise InputError(f"{output}: is an input and cannot be the output too; choose another place with {option}")


def readable(name: str) -> str:
    r"""A name for texts: bytes that are not UTF-8, as in names from old archives, become ``\xe9`` and the like."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file."""
    with path.open("rb+") as file:  # Windows can only flush a handle open for writing
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, and its folder.

    Raises:
        InputError: they cannot be written.
    """
    with contextlib.suppress(OSError):  # then the file cannot be written either, which is told
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the same folder, with the same suffix."""
    return path.with_name(f".{_short(path.stem)}-{secrets.token_hex(6)}{path.suffix}")


def _short(stem: str) -> str:
    """So that what is put around it makes no name that is too long."""
    return os.fsdecode(os.fsencode(stem)[:200])


def remove_leftovers(path: Path) -> None:
    """Delete what killed runs left under the names of ``temporary_beside``."""
    remove_stale(path.parent, f".{glob.escape(_short(path.stem))}-{TOKEN}{glob.escape(path.suffix)}")


def remove_stale(folder: Path, pattern: str) -> None:
    """Delete the files and folders in ``folder`` whose names fit the glob ``pattern`` and that nobody writes any more.

    Age tells, and not the number of the process that wrote them: that process may be on another machine.
    """
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process was quicker, or it is not ours to delete
            if time.time() - _changed(path) < STALE_SECONDS:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _changed(path: Path) -> float:
    """When a file, or the latest file of a folder, was last written."""
    inside = [file.stat().st_mtime for file in path.iterdir()] if path.is_dir() else []
    return max(inside, default=path.stat().st_mtime)


def name_digest(name: str) -> str:
    """SHA-256 of a name in hexadecimal, to sort or seed by: random, and alike on every machine."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def digest(path: str | os.PathLike[str]) -> str:
    """Of a file's content.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
