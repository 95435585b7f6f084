"""Log-mel spectrogram and F0 on one 62.5 Hz grid: the only definition, for training and inference.

Frame ``t`` is centred on sample ``t * HOP_LENGTH`` of the 16 kHz wave. A wave of ``N`` samples has
``ceil(N / HOP_LENGTH)`` frames. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vconv.stft import window

SAMPLE_RATE = 16000  # Hz, analysis
N_FFT = 1024  # samples, also the window length
HOP_LENGTH = 256  # samples
N_MELS = 80
FRAME_RATE = SAMPLE_RATE / HOP_LENGTH  # frames a second
OUTPUT_RATE = 24000  # Hz, synthesis
OUTPUT_HOP = HOP_LENGTH * OUTPUT_RATE // SAMPLE_RATE  # samples of output a frame

DB_PER_NEPER = float(20 / np.log(10))
LOG_FLOOR = 1e-4  # magnitudes below this are clipped before the logarithm: 65 dB under a loud vowel's
LOG_MEL_MIN = float(np.log(LOG_FLOOR))
LOG_MEL_MIDDLE, LOG_MEL_SPREAD = -6.0, 3.0  # nepers: roughly the mean and deviation of any speech
PAUSE_DEPTH = 0.3  # nepers under a clip's mean level: frames below that are pauses
F0_MIN, F0_MAX = 50.0, 800.0  # Hz, human voices
PITCH_BINS = 160  # of the spectrum, 15.6 Hz apart, from which F0 is predicted
PITCH_STEPS, STEPS_PER_OCTAVE = 200, 48  # of predicted F0, the third of them at F0_MIN
F0_REFERENCE = 200.0  # Hz, where the log2-F0 feature is zero


def frame_count(samples: int) -> int:
    """Frames of a 16 kHz wave of ``samples`` samples."""
    return -(-samples // HOP_LENGTH)


def code_frames(frames: int) -> int:
    """Frames of the content code, each of which spans two, that so many frames begin."""
    return (frames + 1) // 2


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    linear, log_step, knee = hz / (200.0 / 3), np.log(6.4) / 27.0, 1000.0
    return np.where(hz < knee, linear, 15.0 + np.log(np.maximum(hz, knee) / knee) / log_step)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * (200.0 / 3), 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0)))


@cache
def mel_filterbank() -> np.ndarray:
    """Slaney's area-normalized triangular filters, 0 to 8 kHz: [N_MELS, N_FFT // 2 + 1].

    The same numbers as ``librosa.filters.mel(sr=16000, n_fft=1024, n_mels=80)``, which a test checks;
    written out because inference does without librosa and its start-up time.
    """
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(np.array(SAMPLE_RATE / 2)), N_MELS + 2))
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rise, fall))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@cache
def band_interpolation(n_fft: int) -> np.ndarray:
    """How to read values of the mel's bands at the bins of an STFT of 24 kHz waves: [N_MELS, n_fft // 2 + 1].

    Linear between the band centres; below the first and above the last, the value of that band goes on.
    """
    filters = mel_filterbank()
    centres = filters @ np.linspace(0, SAMPLE_RATE / 2, filters.shape[1]) / filters.sum(axis=1)
    place = np.interp(np.linspace(0, OUTPUT_RATE / 2, n_fft // 2 + 1), centres, np.arange(N_MELS))
    low = np.minimum(place.astype(int), N_MELS - 2)
    bins = np.arange(len(place))
    matrix = np.zeros((N_MELS, len(place)), np.float32)
    matrix[low, bins] = 1 - (place - low)
    matrix[low + 1, bins] = place - low
    return matrix


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Natural-log mel magnitudes of a 16 kHz mono wave: [N] -> [N_MELS, T] float32."""
    return _log(mel_filterbank() @ spectrum.T for spectrum in _spectra(wave))


def output_log_mel(wave: np.ndarray) -> np.ndarray:
    """As ``log_mel``, of a 24 kHz wave [N * OUTPUT_HOP]: [N_MELS, N] float32. The lower bins of as long a window."""
    scale = np.float32(SAMPLE_RATE / OUTPUT_RATE)
    spectra = _spectra(wave, N_FFT * OUTPUT_RATE // SAMPLE_RATE, OUTPUT_HOP)
    return _log(mel_filterbank() @ (scale * spectrum[:, : N_FFT // 2 + 1]).T for spectrum in spectra)


def low_spectrum(wave: np.ndarray) -> np.ndarray:
    """Natural-log magnitudes of a 16 kHz mono wave above 0 Hz: [N] -> [PITCH_BINS, T] float32."""
    return _log(map(_low, _spectra(wave)))


def log_mel_and_low_spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with one Fourier transform for each frame: [N] -> [N_MELS, T] and [PITCH_BINS, T]."""
    mels, lows = zip(*((mel_filterbank() @ spectrum.T, _low(spectrum)) for spectrum in _spectra(wave)))
    return _log(mels), _log(lows)


def _low(spectrum: np.ndarray) -> np.ndarray:
    """The ``PITCH_BINS`` after 0 Hz: [n, N_FFT // 2 + 1] -> [PITCH_BINS, n]"""
    return spectrum[:, 1 : PITCH_BINS + 1].T


def _log(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Natural logarithm of consecutive blocks of magnitudes [C, n]: [C, T]"""
    return np.log(np.maximum(np.concatenate(list(blocks), axis=1), LOG_FLOOR))


def _spectra(wave: np.ndarray, size: int = N_FFT, hop: int = HOP_LENGTH) -> Iterator[np.ndarray]:
    """Magnitudes [n, size // 2 + 1] of a wave [N], at most 512 frames at a time: memory stays bounded."""
    frames = -(-len(wave) // hop)
    padded = np.zeros((max(frames, 1) - 1) * hop + size, np.float32)
    padded[size // 2 : size // 2 + len(wave)] = wave
    windows = sliding_window_view(padded, size)[::hop][:frames]
    for start in range(0, max(frames, 1), 512):
        yield np.abs(np.fft.rfft(windows[start : start + 512] * window(size))).astype(np.float32)


def pitch_step(f0: np.ndarray) -> np.ndarray:
    """F0 in Hz as a step, 0 to ``PITCH_STEPS`` - 1, in fractions."""
    return np.log2(f0 / F0_MIN) * STEPS_PER_OCTAVE + 2


def f0_of_step(step: np.ndarray) -> np.ndarray:
    """Inverse of ``pitch_step``."""
    return F0_MIN * np.exp2((step - 2) / STEPS_PER_OCTAVE)


def continuous_log_f0(f0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log2 F0 relative to ``F0_REFERENCE``, bridged linearly over unvoiced frames, and the voiced flag.

    [T] Hz -> ([T] octaves, [T] 0 or 1), both float32. Without any voiced frame the curve is zero.
    """
    voiced = f0 > 0
    if not voiced.any():
        return np.zeros(len(f0), np.float32), np.zeros(len(f0), np.float32)
    at = np.flatnonzero(voiced)
    curve = np.interp(np.arange(len(f0)), at, np.log2(f0[at] / F0_REFERENCE))
    return curve.astype(np.float32), voiced.astype(np.float32)


def median_log_f0(f0: np.ndarray) -> float | None:
    """Median log2 F0 (octaves above ``F0_REFERENCE``) of the voiced frames; None without any."""
    voiced = f0[f0 > 0]
    return float(np.median(np.log2(voiced / F0_REFERENCE))) if len(voiced) else None


def log_f0_spread(f0: np.ndarray) -> float | None:
    """Standard deviation of log2 F0 (octaves) over the voiced frames; None where they are too few to say."""
    voiced = f0[f0 > 0]
    return float(np.std(np.log2(voiced))) if len(voiced) >= FRAME_RATE / 2 else None
