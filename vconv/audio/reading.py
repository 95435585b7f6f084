"""Reading of any source at any rate, in blocks of bounded memory."""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from vconv.audio.level import ACTIVE_RANGE_DB, SILENCE_DB
from vconv.audio.resampling import fit_length, scaled_length
from vconv.errors import AudioWarning, InputError
from vconv.opening import STANDARD_STREAM, AudioFile, missing_share

LARGEST_SAMPLE = 1e12  # of full scale 1: integers of 32 bits as they are, and yet no overflow in what follows
LOWEST_RATE, HIGHEST_RATE = 1000, 10_000_000  # Hz; below, there is no speech, and above, no recording
Source = str | os.PathLike[str] | tuple[np.ndarray, int]  # a path, or (wave [N] or [N, channels], rate in Hz)
READ_BLOCK = 1 << 17  # sample frames a read: bounded memory, and few enough calls


def source_name(source: Source) -> str:
    """How messages name a source: its path, or "the wave" for samples in memory."""
    if isinstance(source, tuple):
        return "the wave"
    return "standard input" if Path(source) == STANDARD_STREAM else str(source)


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
        tail = fit_length(tail, scaled_length(self.source_samples, self.source_rate, self.rate) - given)
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
                    raise InputError(
                        f"{self.name}: is damaged and cannot be decoded ({libsndfile_reason(error)})"
                    ) from error
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
        """Sample frames a read: what is read, and what resampling makes of it, stays within ``READ_BLOCK`` samples."""
        return max(1, int(READ_BLOCK / max(channels, self.rate / self.source_rate)))


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


def libsndfile_reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.rstrip(".")
