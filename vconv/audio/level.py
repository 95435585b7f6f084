"""Loudness of active speech, constant offsets, and silence at the ends."""

from __future__ import annotations

import numpy as np

from vconv.audio.resampling import fit_length

MIN_SECONDS = 0.3  # a shorter clip holds no syllable to convert or to embed a voice from
REFERENCE_LOUDNESS_DB = -27.0  # every wave is brought here before its features are taken
SILENCE_DB = -70.0  # dBFS; a wave whose loud frames stay below this has nothing in it
ACTIVE_RANGE_DB = 30.0  # a frame this far below the loud frames no longer counts as active
SMALLEST_OFFSET = 1e-3  # power of the constant in a wave, to that of the whole wave; less is left in it
TRIM_MARGIN = 0.1  # seconds kept on each side: weak onsets and endings lie below the activity threshold
_FRAME_SECONDS = 0.025  # one loudness frame


class LoudnessMeter:
    """Loudness of a wave that comes in blocks, without its offset; it keeps two numbers for every 25 ms."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
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
        return active_loudness(self._frame_powers())

    def active_seconds(self) -> float:
        """How long the active frames so far are together."""
        return np.count_nonzero(is_active(self._frame_powers())) * self._frame / self._rate

    def _frame_powers(self) -> np.ndarray:
        """Mean squares [n] of the frames so far, without the offset."""
        powers, means = (np.concatenate([*parts, np.zeros(0)]) for parts in (self._powers, self._means))
        if not len(powers) and len(self._rest):  # less than one frame in all
            powers, means = _mean_power(self._rest[None]), self._rest.mean(keepdims=True, dtype=np.float64)
        offset = self.offset()
        if offset:
            # Where a constant begins and ends, resampling rings.
            powers = powers - offset * (2 * means - offset)
            powers = np.where(powers > 1e-9 * offset**2, powers, 0.0)[1:-1]
        return powers


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
    powers = _mean_power(fit_length(wave, -(-len(wave) // frame) * frame).reshape(-1, frame))
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
