"""Files that appear whole or not at all, the removal of what killed processes have left of them, and digests."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vconv.errors import InputError

STALE_SECONDS = 3600.0  # without a change; what is being written changes every few seconds


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new name beside ``path``: the file made there takes its place when the block ends well, and else is removed.

    Raises:
        InputError: the folder is missing, not writable or full.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); choose another place with -o") from error
    finally:
        with contextlib.suppress(OSError):  # whatever kept it from being written
            temporary.unlink(missing_ok=True)


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
    return path.with_name(f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Delete what killed runs left under the names of ``temporary_beside``."""
    remove_stale(path.parent, f".{glob.escape(path.stem)}-{'[0-9a-f]' * 12}{glob.escape(path.suffix)}")


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
