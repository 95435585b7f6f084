"""Audio in and out: reading, resampling, loudness, trimming and atomic writing. Nothing here needs torch.

Waves are mono float32 arrays [N] with full scale at 1.0.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import secrets
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import soxr

from vconv.errors import AudioWarning, InputError, VconvError
from vconv.files import publish, sync
from vconv.opening import STANDARD_STREAM, AudioFile, is_folder, missing_share

MIN_SECONDS = 0.3  # a shorter clip holds no syllable to convert or to know a voice by
REFERENCE_LOUDNESS_DB = -27.0  # every wave is brought here before its features are taken
SILENCE_DB = -70.0  # dBFS; a wave whose loud frames stay below this has nothing in it
ACTIVE_RANGE_DB = 30.0  # a frame this far below the loud frames no longer counts as active
LARGEST_SAMPLE = 1e12  # of full scale 1: integers of 32 bits as they are, and yet no overflow in what follows
LOWEST_RATE, HIGHEST_RATE = 1000, 10_000_000  # Hz; below, there is no speech, and above, no recording
SMALLEST_OFFSET = 1e-3  # power of the constant in a wave, to that of the whole wave; less is left in it
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
    if isinstance(source, tuple):
        return "the wave"
    return "standard input" if Path(source) == STANDARD_STREAM else str(source)


# ---------------------------------------------------------------- reading


class BlockReader:
    """Mono blocks of any source at any rate, in bounded memory; each iteration starts from the beginning.

    A file that is shorter than its header says is read as far as it goes, with an ``AudioWarning``.

    Args:
        source: a path to anything libsndfile reads, "-" for standard input, or (wave [N] or [N, channels], rate).
        rate: Hz to resample to; None keeps the source's own.

    Attributes:
        source_rate: the source's own rate in Hz.
        source_samples: sample frames of the source read by the latest iteration.
        rate: Hz of the blocks.

    Raises:
        InputError: the source is missing, not audio, empty, of an impossible rate, or holds NaN or infinite
            samples. What can be seen without decoding is raised by the constructor, the rest by the iteration.
    """

    def __init__(self, source: Source, rate: int | None = None) -> None:
        self.name = source_name(source)
        self.source_samples = 0
        self._power = 0.0  # of all channels, summed over the samples
        self._file = None
        if isinstance(source, tuple):
            self._wave = _checked_wave(source[0])
            self.source_rate = _checked_rate(self.name, source[1])
        else:
            self._file = AudioFile(Path(source))
            with self._file.open() as file:
                self.source_rate = _checked_rate(self.name, file.samplerate)
        self.rate = rate or self.source_rate

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks [n] float32, together exactly ``round(source_samples * rate / source_rate)`` samples."""
        self.source_samples, self._power = 0, 0.0
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

    def why_silent(self, loudness_db: float) -> str:
        """What is wrong with a source whose latest iteration was as loud as this, which ``is_silent``."""
        channels = 10 * math.log10(self._power / max(self.source_samples, 1) + 1e-30)
        if channels > SILENCE_DB and channels > loudness_db + ACTIVE_RANGE_DB:
            return "its channels cancel each other out when they are mixed; invert one of them, or keep only one"
        if loudness_db == -np.inf:
            return "only silence; give a recording of speech"
        return f"too quiet to hold speech ({loudness_db:.0f} dBFS); make it louder, or give another recording"

    def _source_blocks(self) -> Iterator[np.ndarray]:
        """Checked mono blocks at the source's own rate."""
        for block in self._raw_blocks():
            self.source_samples += len(block)
            mono = block
            if block.ndim == 2:
                mono = block.mean(axis=1, dtype=np.float32)
                self._power += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
            if not np.abs(mono).max(initial=0.0) <= LARGEST_SAMPLE:  # also NaN
                raise InputError(
                    f"{self.name}: contains NaN or infinite samples, or gigantic ones; export the file again"
                )
            yield mono
        if not self.source_samples:
            raise InputError(f"{self.name}: contains no samples; give a recording of speech")

    def _raw_blocks(self) -> Iterator[np.ndarray]:
        if self._file is None:
            size = self._block_size(1 if self._wave.ndim == 1 else self._wave.shape[1])
            for start in range(0, len(self._wave), size):
                yield _as_float(self._wave[start : start + size])
            return
        with self._file.open() as file:
            size = self._block_size(file.channels)
            while True:
                try:
                    block = file.read(size, dtype="float32")
                except soundfile.LibsndfileError as error:
                    raise InputError(f"{self.name}: is damaged and cannot be decoded ({_reason(error)})") from error
                if not len(block):
                    break
                yield block
            if missing := missing_share(file, self.source_samples):
                warnings.warn(
                    f"{self.name}: is cut off: {missing:.0%} of what its header promises is missing; "
                    f"used the {self.source_samples / self.source_rate:.1f} s that are there",
                    AudioWarning,
                    stacklevel=2,
                )

    def _block_size(self, channels: int) -> int:
        """Sample frames a read: what is read, and what resampling makes of it, stays within ``_READ_BLOCK`` samples."""
        return max(1, int(_READ_BLOCK / max(channels, self.rate / self.source_rate)))


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


def _checked_rate(name: str, rate: object) -> int:
    """Raises InputError for what is no rate of a recording of speech."""
    if not isinstance(rate, numbers.Real) or not math.isfinite(rate) or rate != int(rate):
        raise InputError(f"{name}: a sample rate of {rate!r} is no number of Hz; pass (wave, rate)")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"{name}: {int(rate)} Hz is no sample rate of speech; give a recording at 8000 Hz or more")
    return int(rate)


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
    """Loudness of a wave that comes in blocks, without its offset; it keeps two numbers for every 25 ms."""

    def __init__(self, rate: int) -> None:
        self._frame = max(1, round(rate * _FRAME_SECONDS))
        self._rest = np.zeros(0, np.float32)
        self._powers: list[np.ndarray] = []
        self._means: list[np.ndarray] = []
        self._sum, self._squares, self._samples = 0.0, 0.0, 0

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, [n]."""
        self._sum += float(np.sum(block, dtype=np.float64))
        self._squares += float(np.sum(np.square(block, dtype=np.float64)))
        self._samples += len(block)
        block = np.concatenate([self._rest, block])
        whole = len(block) // self._frame * self._frame
        self._rest = block[whole:].copy()
        frames = block[:whole].reshape(-1, self._frame)
        self._powers.append(_mean_power(frames))
        self._means.append(frames.mean(axis=1, dtype=np.float64))

    def offset(self) -> float:
        """The constant in the samples so far, as many cheap sound cards add one; 0 where it is small."""
        count = max(self._samples, 1)
        return _offset(self._sum / count, self._squares / count)

    def loudness(self) -> float:
        """RMS in dBFS over the active frames so far; -inf for digital silence and for a constant."""
        powers, means = (np.concatenate([*parts, np.zeros(0)]) for parts in (self._powers, self._means))
        if not len(powers) and len(self._rest):  # less than one frame in all
            powers, means = _mean_power(self._rest[None]), self._rest.mean(keepdims=True, dtype=np.float64)
        offset = self.offset()
        if offset:
            # Where a constant begins and ends, resampling rings.
            powers = powers - offset * (2 * means - offset)
            powers = np.where(powers > 1e-9 * offset**2, powers, 0.0)[1:-1]
        return active_loudness(powers)


def loudness(wave: np.ndarray, rate: int) -> float:
    """RMS in dBFS over the active 25 ms frames, those within 30 dB of the 95th percentile frame.

    Pauses do not count, so a sentence is as loud with a second of silence around it as without.
    Returns -inf for digital silence.
    """
    meter = LoudnessMeter(rate)
    meter.add(np.asarray(wave, np.float32))
    return meter.loudness()


def without_offset(wave: np.ndarray) -> np.ndarray:
    """The wave [N] without the constant in it; as it is where that is small."""
    if not len(wave):
        return wave
    offset = _offset(float(np.mean(wave, dtype=np.float64)), float(np.mean(np.square(wave, dtype=np.float64))))
    return wave - np.float32(offset) if offset else wave


def _offset(mean: float, power: float) -> float:
    """A wave's mean where it is large enough to count, else 0."""
    return mean if mean**2 > SMALLEST_OFFSET * power else 0.0


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
    active = np.flatnonzero(is_active(powers))
    if not len(active) or is_silent(active_loudness(powers)):
        return wave[:0]
    margin = round(rate * TRIM_MARGIN)
    return wave[max(0, active[0] * frame - margin) : (active[-1] + 1) * frame + margin]


def _mean_power(frames: np.ndarray) -> np.ndarray:
    return np.mean(np.square(frames, dtype=np.float64), axis=1)


def is_active(powers: np.ndarray) -> np.ndarray:
    """Which frames count as speech, by their mean squares [n]: those within ``ACTIVE_RANGE_DB`` of the loud ones."""
    if not len(powers):
        return np.zeros(0, bool)
    return (powers > 0) & (powers >= np.percentile(powers, 95) * 10 ** (-ACTIVE_RANGE_DB / 10))


def active_loudness(powers: np.ndarray) -> float:
    """RMS in dBFS over the active frames, by the mean squares [n] of all; -inf without any."""
    active = powers[is_active(powers)]
    return 10 * float(np.log10(active.mean())) if len(active) else -np.inf


# ---------------------------------------------------------------- writing


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


class AudioWriter:
    """Writes a mono file block by block, in the format of its suffix; the file appears whole or not at all.

    A context manager: blocks go to a temporary file in the same folder, which replaces ``path`` when the
    block is left normally and is removed when it is left by an exception. Of a link, the file that it stands
    for is replaced.

    Args:
        path: of the file.
        rate: Hz.
        overwrite: replace a file that exists when the block ends.

    Raises:
        InputError: unknown suffix, a folder that is missing or not writable, or without ``overwrite`` a file that
            another process has written meanwhile.
        VconvError: the disk failed or is full, or a sample is not finite.
    """

    def __init__(self, path: str | os.PathLike[str], rate: int, overwrite: bool = True) -> None:
        check_writable(path)
        self.path, self._overwrite = Path(path), overwrite
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

    It is complete before its first byte is written: the header tells the length.
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
