"""Equalizer: a filter that brings the log-mel of a vocoder's wave nearer to the one it was made from.

The wave's own mel is measured, and the wave's spectrum is multiplied by part of the difference: one step of a
projection onto the waves that have the given mel.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from vconv.features import OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE, band_interpolation, output_log_mel
from vconv.stft import OVERLAP, istft, stft

# Chosen on held-out copies and conversions: recipes/base/history/RUNS.md, run 21. Copies gain with every frame that is
# followed. A decoder's mel is smoother than a recording's, and conversions lose more by its frames than by its course.
REACH = 7  # frames on each side over which the course of the difference is averaged
FINE = 0.3  # share of what remains of the difference
LIMIT = 2.0  # nepers, the largest change
EQUALIZER_CONTEXT = REACH + 5  # frames on each side that change a frame of the result: two windows, and interpolation

_WEIGHTS = np.hanning(2 * REACH + 3)[1:-1].astype(np.float32)  # of the average, [2 * REACH + 1]
_WEIGHTS /= _WEIGHTS.sum()
_HOP = OUTPUT_HOP // 2  # of the STFT that is filtered
_WINDOW = OVERLAP * _HOP
_FADE = 400.0  # Hz around the end of the mel's band, over which the change of the last band ends


def equalized(wave: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """A 24 kHz wave [T * OUTPUT_HOP], nearer to the log-mel [N_MELS, T]."""
    difference = mel - output_log_mel(wave)
    course = _averaged(difference)
    change = np.clip(course + FINE * (difference - course), -LIMIT, LIMIT)
    following = np.concatenate([change[:, 1:], change[:, -1:]], axis=1)
    frames = np.stack([change, (change + following) / 2], axis=2).reshape(len(change), -1)  # two STFT frames for one
    return istft(stft(wave, _HOP) * np.exp(frames.T @ _bins_of_bands()), _HOP)


def _averaged(rows: np.ndarray) -> np.ndarray:
    """Means [C, T] of rows [C, T] over ``REACH`` frames on each side; the ends go on."""
    padded, frames = np.pad(rows, ((0, 0), (REACH, REACH)), mode="edge"), rows.shape[1]
    return sum(weight * padded[:, start : start + frames] for start, weight in enumerate(_WEIGHTS))


@cache
def _bins_of_bands() -> np.ndarray:
    """From changes by mel band to changes by STFT bin, none above the mel's band: [N_MELS, _WINDOW // 2 + 1]."""
    frequency = np.linspace(0, OUTPUT_RATE / 2, _WINDOW // 2 + 1)
    inside = np.clip((SAMPLE_RATE / 2 - frequency) / _FADE + 0.5, 0, 1)
    return (band_interpolation(_WINDOW) * inside).astype(np.float32)
