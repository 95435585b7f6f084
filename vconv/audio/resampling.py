"""Resampling to exact lengths."""

from __future__ import annotations

import numpy as np
import soxr


def scaled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that ``samples`` at one rate become at another, rounded half up (exact integers)."""
    return (2 * samples * to_rate + from_rate) // (2 * from_rate)


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """[N] -> [scaled_length(N, from_rate, to_rate)] float32."""
    wave = np.asarray(wave, np.float32)
    if from_rate == to_rate or not len(wave):
        return wave
    return fit_length(
        soxr.resample(wave, from_rate, to_rate, quality="HQ"), scaled_length(len(wave), from_rate, to_rate)
    )


def fit_length(wave: np.ndarray, length: int) -> np.ndarray:
    """Cut or zero-pad at the end: the resampler's own length is off by a sample now and then."""
    if len(wave) >= length:
        return wave[: max(length, 0)]
    return np.concatenate([wave, np.zeros(length - len(wave), np.float32)])
