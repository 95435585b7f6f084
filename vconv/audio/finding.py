"""Audio files in a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from vconv.errors import AudioWarning, InputError
from vconv.opening import is_folder

# What find_audio() picks up in a folder; a file named by hand may have any suffix.
READ_SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64")
)


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Audio files under a folder, by suffix, in sorted order; hidden ones are left out.

    A folder in it that cannot be read is left out with an ``AudioWarning``.

    Raises:
        InputError: no such folder, or no audio in it.
    """

    def warn(error: InputError) -> None:
        warnings.warn(str(error), AudioWarning, stacklevel=3)

    found = sorted(place / name for place, names in walk_audio(folder, unreadable=warn) for name in names)
    if not found:
        raise no_audio_in(folder)
    return found


def walk_audio(
    folder: str | os.PathLike[str],
    suffixes: frozenset[str] = READ_SUFFIXES,
    unreadable: Callable[[InputError], None] = lambda error: None,
) -> Iterator[tuple[Path, list[str]]]:
    """What ``find_audio`` finds, one folder's sorted file names at a time: memory stays that of one folder.

    With other ``suffixes`` it finds those files.

    Args:
        unreadable: is told of each folder that cannot be read.

    Raises:
        InputError: no such folder.
    """
    root = Path(folder)
    if not is_folder(root):
        raise InputError(f"{root}: no such folder")

    def tell(error: OSError) -> None:
        unreadable(InputError(f"{error.filename}: this folder cannot be read ({error.strerror}); left out"))

    for place, folders, names in os.walk(root, onerror=tell):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # what os.walk goes into
        if found := [name for name in sorted(names) if is_audio_name(name, suffixes) and _may_be_file(place, name)]:
            yield Path(place), found


def _may_be_file(place: str, name: str) -> bool:
    """Whether it is a plain file, or cannot be looked at, which reading it will tell."""
    try:
        return Path(place, name).is_file()
    except OSError:
        return True


def no_audio_in(folder: str | os.PathLike[str]) -> InputError:
    """The error that says so."""
    return InputError(
        f"{Path(folder)}: no audio in this folder; vconv looks for wav, flac, ogg, opus, mp3 and aiff files"
    )


def is_audio_name(name: str, suffixes: frozenset[str] = READ_SUFFIXES) -> bool:
    """Whether a file of this name is looked at in a folder."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes
