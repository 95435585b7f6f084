"""Oracles: a vocoder's copy with one of its faults taken from the recording, to see what that fault costs.

Recording and copy are aligned sample by sample and analysed with an STFT of 512 samples at 24 kHz.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

SIZE, HOP = 512, 128  # samples at 24 kHz
CEPSTRUM = 24  # coefficients of the smooth envelope: no ripple finer than 1 kHz
FLOOR = 1e-5  # magnitude, below any recording's noise
MAX_GAIN = 100.0  # 40 dB either way: where one of the two is silent there is no envelope to correct


def with_magnitudes(phases: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """Waves [N], [N] -> the phases of the first with the magnitudes of the second, [N]."""
    spectrum = stft(phases)
    return istft(spectrum / np.maximum(np.abs(spectrum), 1e-12) * np.abs(stft(magnitudes)), len(phases))


def with_envelope(copy: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """The copy [N] with its smooth spectral envelope, frame by frame, corrected to the recording's [N]."""
    spectrum = stft(copy)
    gain = np.exp(_log_envelope(stft(recording)) - _log_envelope(spectrum))
    return istft(spectrum * np.clip(gain, 1 / MAX_GAIN, MAX_GAIN), len(copy))


def stft(wave: np.ndarray) -> np.ndarray:
    """[N] -> [frames, SIZE // 2 + 1] complex."""
    padded = np.pad(np.asarray(wave, float), (SIZE, 2 * SIZE))
    return np.fft.rfft(sliding_window_view(padded, SIZE)[::HOP] * _window())


def istft(spectrum: np.ndarray, samples: int) -> np.ndarray:
    """The wave [samples] float32 whose STFT is nearest to ``spectrum`` (Griffin and Lim 1984, equation 6)."""
    frames = np.fft.irfft(spectrum, SIZE) * _window()
    total = np.zeros((len(frames) - 1) * HOP + SIZE)
    weight = np.zeros_like(total)
    for number, frame in enumerate(frames):
        at = slice(number * HOP, number * HOP + SIZE)
        total[at] += frame
        weight[at] += _window() ** 2
    return (total / np.maximum(weight, 1e-8))[SIZE : SIZE + samples].astype(np.float32)


def _window() -> np.ndarray:
    return np.hanning(SIZE + 1)[:-1]


def _log_envelope(spectrum: np.ndarray) -> np.ndarray:
    """Log magnitudes smoothed over frequency by their low-order cepstrum: [frames, bins]."""
    cepstrum = np.fft.irfft(np.log(np.maximum(np.abs(spectrum), FLOOR)), SIZE)
    cepstrum[:, CEPSTRUM : SIZE - CEPSTRUM + 1] = 0
    return np.fft.rfft(cepstrum).real
