"""Opening audio files of any kind: plain files, pipes and standard input, and what their headers promise."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import soundfile

from vconv.errors import InputError, VconvError

STANDARD_STREAM = Path("-")  # as a source standard input, as an output standard output

_MEMORY_BYTES = 32 << 20  # a pipe's content longer than this moves to disk
_MP3_DELAY = 3 * 1152  # sample frames that an encoder's padding may make a header promise too much
_UNKNOWN_SIZE = 0x7FFFF000  # and above: what programs write into a header before the size is known
_PROMISED = re.compile(r"(?:data|SSND|Data Size|[Rr]iff size|riff)\s*:\s*(\d+) \(should be (\d+)\)")


class AudioFile:
    """A file that libsndfile reads; a pipe or standard input is read once, into memory or an unnamed file.

    Attributes:
        name: how messages name it.

    Raises:
        InputError: it is missing, a folder, empty or not audio.
        VconvError: a pipe's content does not fit in the folder for temporary files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = "standard input" if path == STANDARD_STREAM else str(path)
        self._held = self._hold()

    def open(self) -> soundfile.SoundFile:
        """The file from its beginning."""
        try:
            if self._held is None:
                # Bytes, since a name may be none in the locale's encoding.
                return soundfile.SoundFile(os.fsencode(self.path))
            self._held.seek(0)
            return soundfile.SoundFile(self._held)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:  # TypeError: headerless, by the suffix .raw
            raise InputError(
                f"{self.name}: is not audio that vconv can read; convert it to wav, flac, ogg or mp3"
            ) from (error)

    def _hold(self) -> IO[bytes] | None:
        """The content of what can be read only once; None for a plain file. Raises InputError as the constructor."""
        if self.path == STANDARD_STREAM:
            if sys.stdin is None:
                raise InputError("standard input: is closed; give a file in place of -")
            return self._checked(_copy(sys.stdin.buffer))
        try:
            if self.path.is_dir():
                raise InputError(f"{self.name}: is a folder; name an audio file")
            size = self.path.stat().st_size
            with self.path.open("rb") as file:  # libsndfile's own message for an unreadable file is "System error"
                if not self.path.is_file():
                    return self._checked(_copy(file))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"{self.name}: no such file; check the path") from error
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror})") from error
        except ValueError as error:  # a NUL in the name
            raise InputError(f"{self.name!r}: is no name of a file ({error}); check the path") from error
        if not size:
            raise InputError(f"{self.name}: is an empty file; give a recording of speech")
        return None

    def _checked(self, held: IO[bytes]) -> IO[bytes]:
        if not held.tell():
            raise InputError(f"{self.name}: is empty; give a recording of speech")
        return held


def is_folder(path: Path) -> bool:
    """Whether it is a folder; what cannot be looked at is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no permission to look; a NUL in the name
        return False


def check_streams(sources: Sequence[Path], output: Path | None) -> None:
    """Raise InputError where standard input is named twice, or standard output is to hold several results."""
    if sources.count(STANDARD_STREAM) > 1:
        raise InputError("standard input: is given twice, and can be read once")
    if output == STANDARD_STREAM and (len(sources) > 1 or is_folder(sources[0])):
        raise InputError("standard output: holds one result, but there are several sources; name a folder with -o")


def _copy(file: IO[bytes]) -> IO[bytes]:
    held = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 (it lives as long as its owner)
    try:
        shutil.copyfileobj(file, held, 1 << 20)
    except OSError as error:
        raise VconvError(temporary_space(error)) from error
    return held


def temporary_space(error: OSError) -> str:
    """What to do where the folder for temporary files has failed."""
    return f"{tempfile.gettempdir()}: temporary files do not fit ({error.strerror}); set TMPDIR to a folder with space"


def missing_share(file: soundfile.SoundFile, read: int) -> float:
    """How much of the recording that the header promises is not in the file: 0 to 1.

    Args:
        read: sample frames that were read, to the end.
    """
    if file.format == "MP3":  # the frame count comes from the first frame's header; elsewhere from what is there
        missing = file.frames - read
        return missing / file.frames if missing > _MP3_DELAY else 0.0
    found = _PROMISED.search(file.extra_info)
    if not found:
        return 0.0
    promised, there = map(int, found.groups())
    return 1 - there / promised if there < promised < _UNKNOWN_SIZE else 0.0
