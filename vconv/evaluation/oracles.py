"""Oracles: a vocoder's copy with one of its faults taken from the recording, to see what that fault costs.

Recording and copy are aligned sample by sample and analysed with an STFT of 512 samples at 24 kHz.
"""

from __future__ import annotations

import numpy as np

from vconv.stft import OVERLAP, istft, stft

HOP = 128  # samples at 24 kHz
SIZE = OVERLAP * HOP
CEPSTRUM = 24  # coefficients of the smooth envelope: no ripple finer than 1 kHz
FLOOR = 1e-5  # magnitude, below any recording's noise
MAX_GAIN = 100.0  # 40 dB either way: where one of the two is silent there is no envelope to correct


def with_magnitudes(phases: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """Waves [N], [N] -> the phases of the first with the magnitudes of the second, [N]."""
    spectrum = _spectrum(phases)
    return istft(spectrum / np.maximum(np.abs(spectrum), 1e-12) * np.abs(_spectrum(magnitudes)), HOP)[: len(phases)]


def with_envelope(copy: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """The copy [N] with its smooth spectral envelope, frame by frame, corrected to the recording's [N]."""
    spectrum = _spectrum(copy)
    gain = np.exp(_log_envelope(_spectrum(recording)) - _log_envelope(spectrum))
    return istft(spectrum * np.clip(gain, 1 / MAX_GAIN, MAX_GAIN), HOP)[: len(copy)]


def _spectrum(wave: np.ndarray) -> np.ndarray:
    """[N] -> complex [frames, 2 * HOP + 1], of whole hops and a window of silence more."""
    return stft(np.pad(wave, (0, -len(wave) % HOP + OVERLAP * HOP)), HOP)


def _log_envelope(spectrum: np.ndarray) -> np.ndarray:
    """Log magnitudes smoothed over frequency by their low-order cepstrum: [frames, bins]."""
    cepstrum = np.fft.irfft(np.log(np.maximum(np.abs(spectrum), FLOOR)), SIZE)
    cepstrum[:, CEPSTRUM : SIZE - CEPSTRUM + 1] = 0
    return np.fft.rfft(cepstrum).real
