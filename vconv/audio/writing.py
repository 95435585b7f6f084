"""Atomic writing of audio files, and WAV to standard output."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from vconv.audio.reading import libsndfile_reason
from vconv.errors import InputError, VconvError
from vconv.files import TOKEN, publish, sync
from vconv.opening import STANDARD_STREAM, is_folder
from vconv.untrusted import all_finite

# What the suffix of an output file means to libsndfile.
WRITE_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
TEMPORARY_FILES = f".vconv-{TOKEN}.*"  # glob of what an ``AudioWriter`` writes, and leaves where it is killed
_WAV_BYTES, _WAV_HEADER = 2**32 - 1, 44  # a wav file counts its bytes in 32 bits
_WRITE_BLOCK = 1 << 14  # libsndfile's Vorbis encoder overflows its stack on very long writes


def check_writable(path: str | os.PathLike[str]) -> None:
    """See before the work that a file can be written there.

    Raises:
        InputError: unknown suffix, missing or unwritable folder, or the path is a folder.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"{path}: is a folder; name an output file in it")
    if path.suffix.lower() not in WRITE_FORMATS:
        raise InputError(f"{path}: cannot write '{path.suffix}' files; use {', '.join(WRITE_FORMATS)}")
    folder = Path(os.path.realpath(path)).parent  # of a link, that of the file that it stands for
    if not is_folder(folder):
        raise InputError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {folder}; choose another place with -o")


def check_fits(path: str | os.PathLike[str], samples: int, rate: int) -> None:
    """See before the work that a result of so many samples fits into a file of that name, "-" for standard output.

    Raises:
        InputError: it does not.
    """
    piped = Path(path) == STANDARD_STREAM
    if (piped or Path(path).suffix.lower() == ".wav") and 2 * samples + _WAV_HEADER > _WAV_BYTES:
        name, hours = "standard output" if piped else path, samples / rate / 3600
        raise InputError(f"{name}: {hours:.1f} h are more than a wav file holds; write a .flac file instead")


class AudioWriter:
    """Writes a mono file block by block, in the format of its suffix; the file appears whole or not at all.

    A context manager: blocks go to a temporary file in the same folder, which replaces ``path`` when the
    block is left normally and is removed when it is left by an exception. Of a link, the file that it stands
    for is replaced.

    Args:
        path: of the file.
        rate: Hz.
        overwrite: replace a file that exists when the block ends.

    Attributes:
        samples: written so far.

    Raises:
        InputError: unknown suffix, a folder that is missing or not writable, more samples than a wav file holds, or
            without ``overwrite`` a file that another process has written meanwhile.
        VconvError: the disk failed or is full, or a sample is not finite.
    """

    def __init__(self, path: str | os.PathLike[str], rate: int, overwrite: bool = True) -> None:
        check_writable(path)
        self.path, self._overwrite = Path(path), overwrite
        self._rate, self.samples = rate, 0
        suffix = self.path.suffix.lower()
        folder = Path(os.path.realpath(path)).parent
        self._temporary = folder / f".vconv-{secrets.token_hex(6)}{suffix}"
        container, subtype = WRITE_FORMATS[suffix]
        try:
            # Made here, and not by libsndfile, for a clear error and so that the name is surely new.
            os.close(os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot write in {folder} ({error.strerror}); choose another place with -o"
            ) from error
        try:
            self._file = soundfile.SoundFile(os.fsencode(self._temporary), "w", rate, 1, subtype, format=container)
        except soundfile.LibsndfileError as error:
            self._discard()
            raise VconvError(f"{self.path}: cannot be written ({libsndfile_reason(error)})") from error
        except BaseException:  # a signal came just now
            self._discard()
            raise

    def write(self, block: np.ndarray) -> None:
        """Append samples, [n]; beyond full scale they are clipped."""
        check_fits(self.path, self.samples + len(block), self._rate)
        if not all_finite(block):
            raise VconvError(f"{self.path}: samples that are not finite cannot be written; the model may be damaged")
        self.samples += len(block)
        for start in range(0, len(block), _WRITE_BLOCK):
            try:
                self._file.write(block[start : start + _WRITE_BLOCK])
            except (soundfile.LibsndfileError, OSError) as error:
                raise self._failure(error) from error

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None:
                sync(self._temporary)
                publish(self._temporary, self.path, self._overwrite)
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._discard()

    def _failure(self, error: Exception) -> VconvError:
        return VconvError(f"{self.path}: writing failed, is the disk full? ({error})")

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # after publishing it is gone already
            self._temporary.unlink()


def write(path: str | os.PathLike[str], wave: np.ndarray, rate: int) -> None:
    """Write a whole mono wave [N]; see AudioWriter."""
    with AudioWriter(path, rate) as writer:
        writer.write(np.asarray(wave, np.float32))


def write_to_stdout(blocks: Iterable[np.ndarray], rate: int) -> int:
    """A mono wave in blocks [n] as a wav file on standard output; returns its samples.

    It is complete before its first byte is written: the header holds the length.
    """
    if sys.stdout is None:
        raise InputError("standard output: is closed; name a file with -o")
    with tempfile.TemporaryDirectory() as folder:
        path, samples = Path(folder, "result.wav"), 0
        with AudioWriter(path, rate) as writer:
            for block in blocks:
                writer.write(block)
                samples += len(block)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return samples
