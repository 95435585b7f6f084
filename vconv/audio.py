"""Audio in and out: reading, resampling, loudness, trimming and atomic writing. Nothing here needs torch.

Waves are mono float32 arrays [N] with full scale at 1.0.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import soxr

from vconv.errors import InputError, VconvError
from vconv.files import sync

MIN_SECONDS = 0.3  # a shorter clip holds no syllable to convert or to know a voice by
REFERENCE_LOUDNESS_DB = -27.0  # every wave is brought here before its features are taken
SILENCE_DB = -70.0  # dBFS; a wave whose loud frames stay below this has nothing in it
ACTIVE_RANGE_DB = 30.0  # a frame this far below the loud frames no longer counts as active
TRIM_MARGIN = 0.1  # seconds kept on each side: weak onsets and endings lie below the activity threshold

# What the suffix of an output file means to libsndfile.
WRITE_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
# What find_audio() picks up in a folder; a file named by hand may have any suffix.
READ_SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64")
)

Source = str | os.PathLike[str] | tuple[np.ndarray, int]  # a path, or (wave [N] or [N, channels], rate in Hz)

_FRAME_SECONDS = 0.025  # one loudness frame
_READ_BLOCK = 1 << 17  # sample frames a read: bounded memory, and few enough calls
_WRITE_BLOCK = 1 << 14  # libsndfile's Vorbis encoder overflows its stack on very long writes


def source_name(source: Source) -> str:
    """How messages name a source: its path, or "the wave" for samples in memory."""
    return "the wave" if isinstance(source, tuple) else str(source)


# ---------------------------------------------------------------- reading


class BlockReader:
    """Mono blocks of any source at any rate, in bounded memory; each iteration starts from the beginning.

    Args:
        source: a path to anything libsndfile reads, or (wave [N] or [N, channels], rate).
        rate: Hz to resample to; None keeps the source's own.

    Attributes:
        source_rate: the source's own rate in Hz.
        source_samples: sample frames of the source read by the latest iteration.
        rate: Hz of the blocks.

    Raises:
        InputError: the source is missing, not audio, empty, or holds NaN or infinite samples. What can
            be seen without decoding is raised by the constructor, the rest by the iteration.
    """

    def __init__(self, source: Source, rate: int | None = None) -> None:
        self.name = source_name(source)
        self.source_samples = 0
        if isinstance(source, tuple):
            self._path = None
            self._wave = _checked_wave(source[0])
            self.source_rate = int(source[1])
            if self.source_rate <= 0:
                raise InputError(
                    f"{self.name}: a sample rate of {self.source_rate} Hz is impossible; pass (wave, rate)"
                )
        else:
            self._path = Path(source)
            with _open_audio(self._path) as file:
                self.source_rate = file.samplerate
        self.rate = rate or self.source_rate

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks [n] float32, together exactly ``round(source_samples * rate / source_rate)`` samples."""
        self.source_samples = 0
        if self.rate == self.source_rate:
            yield from self._source_blocks()
            return
        resampler = soxr.ResampleStream(self.source_rate, self.rate, 1, dtype="float32", quality="HQ")
        given = 0
        for block in self._source_blocks():
            out = resampler.resample_chunk(block)
            given += len(out)
            if len(out):
                yield out
        tail = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        tail = _fit(tail, scaled_length(self.source_samples, self.source_rate, self.rate) - given)
        if len(tail):
            yield tail

    def _source_blocks(self) -> Iterator[np.ndarray]:
        """Checked mono blocks at the source's own rate."""
        for block in self._raw_blocks():
            self.source_samples += len(block)
            mono = block.mean(axis=1, dtype=np.float32) if block.ndim == 2 else block
            if not np.isfinite(mono).all():
                raise InputError(f"{self.name}: contains NaN or infinite samples; export the file again without them")
            yield mono
        if not self.source_samples:
            raise InputError(f"{self.name}: contains no samples; give a recording of speech")

    def _raw_blocks(self) -> Iterator[np.ndarray]:
        if self._path is None:
            for start in range(0, len(self._wave), _READ_BLOCK):
                yield _as_float(self._wave[start : start + _READ_BLOCK])
            return
        with _open_audio(self._path) as file:
            while True:
                try:
                    block = file.read(_READ_BLOCK, dtype="float32")
                except soundfile.LibsndfileError as error:
                    raise InputError(f"{self.name}: is damaged and cannot be decoded ({_reason(error)})") from error
                if not len(block):
                    return
                yield block


def read(source: Source, rate: int | None = None) -> tuple[np.ndarray, int]:
    """A whole source as (mono wave [N] float32, rate in Hz), resampled if ``rate`` is given.

    Raises:
        InputError: the source is missing, not audio, empty, or holds NaN or infinite samples.
    """
    reader = BlockReader(source, rate)
    return join(reader), reader.rate


def join(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks [n] as one wave [N]; empty for no block, as of a sample that resampling rounds away."""
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Audio files under a folder, by suffix, in sorted order; hidden ones are left out.

    Raises:
        InputError: no such folder, or no audio in it.
    """
    found = sorted(place / name for place, names in walk_audio(folder) for name in names)
    if not found:
        raise no_audio_in(folder)
    return found


def walk_audio(
    folder: str | os.PathLike[str], suffixes: frozenset[str] = READ_SUFFIXES
) -> Iterator[tuple[Path, list[str]]]:
    """What ``find_audio`` finds, one folder's sorted file names at a time: memory stays that of one folder.

    With other ``suffixes`` it finds those files.

    Raises:
        InputError: no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))  # what os.walk goes into
        if found := [name for name in sorted(names) if is_audio_name(name, suffixes) and Path(place, name).is_file()]:
            yield Path(place), found


def no_audio_in(folder: str | os.PathLike[str]) -> InputError:
    """The error that says so."""
    return InputError(
        f"{Path(folder)}: no audio in this folder; vconv looks for wav, flac, ogg, opus, mp3 and aiff files"
    )


def is_audio_name(name: str, suffixes: frozenset[str] = READ_SUFFIXES) -> bool:
    """Whether a file of this name is looked at in a folder."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _open_audio(path: Path) -> soundfile.SoundFile:
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name an audio file")
    try:
        size = path.stat().st_size
        with path.open("rb"):  # libsndfile's own message for an unreadable file is "System error"
            pass
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if path.is_file() and not size:
        raise InputError(f"{path}: is an empty file; give a recording of speech")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless data, by the suffix .raw
        raise InputError(f"{path}: is not audio that vconv can read; convert it to wav, flac, ogg or mp3") from error


def _checked_wave(wave: np.ndarray) -> np.ndarray:
    wave = np.asarray(wave)
    if wave.ndim not in (1, 2) or not (np.issubdtype(wave.dtype, np.number) and not np.iscomplexobj(wave)):
        raise InputError(f"the wave: shape {wave.shape} of {wave.dtype} is no audio; pass [N] or [N, channels] numbers")
    if wave.ndim == 2 and 0 < wave.shape[0] < wave.shape[1]:
        raise InputError(f"the wave: shape {wave.shape} has more channels than samples; pass [N, channels]")
    return wave


def _as_float(wave: np.ndarray) -> np.ndarray:
    """Integer samples to full scale 1.0; floats as they are."""
    if np.issubdtype(wave.dtype, np.integer):
        limits = np.iinfo(wave.dtype)
        middle = (limits.max + 1) // 2 if limits.min == 0 else 0  # unsigned samples rest at half their range
        return ((wave.astype(np.float64) - middle) / (limits.max + 1 - middle)).astype(np.float32)
    return wave.astype(np.float32, copy=False)


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.rstrip(".")


# ---------------------------------------------------------------- resampling


def scaled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that ``samples`` at one rate become at another, rounded half up (exact integers)."""
    return (2 * samples * to_rate + from_rate) // (2 * from_rate)


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """[N] -> [scaled_length(N, from_rate, to_rate)] float32."""
    wave = np.asarray(wave, np.float32)
    if from_rate == to_rate or not len(wave):
        return wave
    return _fit(soxr.resample(wave, from_rate, to_rate, quality="HQ"), scaled_length(len(wave), from_rate, to_rate))


def _fit(wave: np.ndarray, length: int) -> np.ndarray:
    """Cut or zero-pad at the end: the resampler's own length is off by a sample now and then."""
    if len(wave) >= length:
        return wave[: max(length, 0)]
    return np.concatenate([wave, np.zeros(length - len(wave), np.float32)])


# ---------------------------------------------------------------- loudness and silence


class LoudnessMeter:
    """Loudness of a wave that comes in blocks; it keeps one number for every 25 ms."""

    def __init__(self, rate: int) -> None:
        self._frame = max(1, round(rate * _FRAME_SECONDS))
        self._rest = np.zeros(0, np.float32)
        self._powers: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, [n]."""
        block = np.concatenate([self._rest, block])
        whole = len(block) // self._frame * self._frame
        self._rest = block[whole:].copy()
        self._powers.append(_mean_power(block[:whole].reshape(-1, self._frame)))

    def loudness(self) -> float:
        """RMS in dBFS over the active frames so far; -inf for digital silence."""
        powers = np.concatenate([*self._powers, np.zeros(0)])
        if not len(powers) and len(self._rest):  # less than one frame in all
            powers = _mean_power(self._rest[None])
        return _active_loudness(powers)


def loudness(wave: np.ndarray, rate: int) -> float:
    """RMS in dBFS over the active 25 ms frames, those within 30 dB of the 95th percentile frame.

    Pauses do not count, so a sentence is as loud with a second of silence around it as without.
    Returns -inf for digital silence.
    """
    meter = LoudnessMeter(rate)
    meter.add(np.asarray(wave, np.float32))
    return meter.loudness()


def is_silent(loudness_db: float) -> bool:
    """Whether a wave of this loudness has nothing in it that could be speech."""
    return loudness_db < SILENCE_DB


def gain(from_db: float, to_db: float = REFERENCE_LOUDNESS_DB) -> float:
    """Factor that takes a wave of one loudness to another; 1 for a silent wave, which has no level to move."""
    return 1.0 if is_silent(from_db) else 10 ** ((to_db - from_db) / 20)


def normalize(wave: np.ndarray, rate: int) -> np.ndarray:
    """The wave at the reference loudness, [N] float32; a silent one as it is. May exceed full scale."""
    return (np.asarray(wave, np.float32) * gain(loudness(wave, rate))).astype(np.float32)


def trim_silence(wave: np.ndarray, rate: int) -> np.ndarray:
    """The wave without the silence before and after speech, [N] -> [M]. For targets and training clips.

    0.1 s of margin stays on each side. A wave without any active frame comes back empty.
    """
    frame = max(1, round(rate * _FRAME_SECONDS))
    powers = _mean_power(_fit(wave, -(-len(wave) // frame) * frame).reshape(-1, frame))
    active = np.flatnonzero(_is_active(powers))
    if not len(active) or is_silent(_active_loudness(powers)):
        return wave[:0]
    margin = round(rate * TRIM_MARGIN)
    return wave[max(0, active[0] * frame - margin) : (active[-1] + 1) * frame + margin]


def _mean_power(frames: np.ndarray) -> np.ndarray:
    return np.mean(np.square(frames, dtype=np.float64), axis=1)


def _is_active(powers: np.ndarray) -> np.ndarray:
    if not len(powers):
        return np.zeros(0, bool)
    return (powers > 0) & (powers >= np.percentile(powers, 95) * 10 ** (-ACTIVE_RANGE_DB / 10))


def _active_loudness(powers: np.ndarray) -> float:
    active = powers[_is_active(powers)]
    return 10 * float(np.log10(active.mean())) if len(active) else -np.inf


# ---------------------------------------------------------------- writing


def check_writable(path: str | os.PathLike[str]) -> None:
    """See before the work that a file can be written there.

    Raises:
        InputError: unknown suffix, missing or unwritable folder, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name an output file in it")
    if path.suffix.lower() not in WRITE_FORMATS:
        raise InputError(f"{path}: cannot write '{path.suffix}' files; use {', '.join(WRITE_FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {path.parent}; choose another place with -o")


class AudioWriter:
    """Writes a mono file block by block, in the format of its suffix; the file appears whole or not at all.

    A context manager: blocks go to a temporary file in the same folder, which replaces ``path`` when the
    block is left normally and is removed when it is left by an exception.

    Raises:
        InputError: unknown suffix, or a folder that is missing or not writable.
        VconvError: the disk failed or is full.
    """

    def __init__(self, path: str | os.PathLike[str], rate: int) -> None:
        check_writable(path)
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        self._temporary = self.path.parent / f".vconv-{secrets.token_hex(6)}{suffix}"
        container, subtype = WRITE_FORMATS[suffix]
        try:
            # Made here, and not by libsndfile, for a clear error and so that the name is surely new.
            os.close(os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot write in {self.path.parent} ({error.strerror}); choose another place with -o"
            ) from error
        try:
            self._file = soundfile.SoundFile(self._temporary, "w", rate, 1, subtype, format=container)
        except soundfile.LibsndfileError as error:
            self._discard()
            raise VconvError(f"{self.path}: cannot be written ({_reason(error)})") from error
        except BaseException:  # a signal came just now
            self._discard()
            raise

    def write(self, block: np.ndarray) -> None:
        """Append samples, [n]; beyond full scale they are clipped."""
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
                os.replace(self._temporary, self.path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._discard()

    def _failure(self, error: Exception) -> VconvError:
        return VconvError(f"{self.path}: writing failed, is the disk full? ({error})")

    def _discard(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # after os.replace it is gone already
            self._temporary.unlink()


def write(path: str | os.PathLike[str], wave: np.ndarray, rate: int) -> None:
    """Write a whole mono wave [N]; see AudioWriter."""
    with AudioWriter(path, rate) as writer:
        writer.write(np.asarray(wave, np.float32))
