"""Files that appear whole or not at all, whatever becomes of the process that writes them."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from vconv.errors import InputError
from vconv.processes import remove_stale


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
