"""Short-time Fourier transform and its inverse, in numpy: Hann windows of four hops."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

OVERLAP = 4  # hops to a window: Hann squared then adds up to a constant
_LEAST_WEIGHT = 1e-3  # of the windows over a sample; less is beyond the last frame


def stft(wave: np.ndarray, hop: int) -> np.ndarray:
    """[K * hop] -> complex64 [K, 2 * hop + 1]. Frame k is centred on sample k * hop; beyond the ends is silence."""
    size = OVERLAP * hop
    padded = np.pad(np.asarray(wave, np.float32), (size // 2, size // 2 - hop))
    return np.fft.rfft(sliding_window_view(padded, size)[::hop] * window(size)).astype(np.complex64, copy=False)


def istft(spectrum: np.ndarray, hop: int) -> np.ndarray:
    """The wave [K * hop] float32 whose STFT is nearest to a given one [K, 2 * hop + 1] (Griffin, Lim 1984, eq. 6)."""
    size, count = OVERLAP * hop, len(spectrum)
    frames = np.fft.irfft(spectrum, size).astype(np.float32, copy=False) * window(size)
    weight = np.broadcast_to(window(size) ** 2, (count, size))
    wave = _overlap_add(frames, hop) / np.maximum(_overlap_add(weight, hop), _LEAST_WEIGHT)
    return wave[size // 2 : size // 2 + count * hop]


def _overlap_add(frames: np.ndarray, hop: int) -> np.ndarray:
    """[K, OVERLAP * hop] -> [(K + OVERLAP - 1) * hop]"""
    count = len(frames)
    total = np.zeros((count + OVERLAP - 1, hop), np.float32)
    for part in range(OVERLAP):
        total[part : part + count] += frames[:, part * hop : (part + 1) * hop]
    return total.reshape(-1)


@cache
def window(size: int) -> np.ndarray:
    """Periodic Hann window [size] float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
