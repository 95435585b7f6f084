"""The figures of one conversion, from what was measured on its clips. Numpy alone; no model is needed here."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from vconv import audio, features
from vconv.evaluation.alignment import distances, warp

F0_FRAME_SECONDS = 0.01  # of the judge's F0 curves
SAME_LENGTH = 0.03  # lengths that differ by no more than this share are taken to run at the same pace
MIN_COMMON_FRAMES = 20  # voiced in both curves, to compare melodies
MIN_VOICED_FRAMES = 10  # of each clip, to compare registers
CEPSTRUM_ORDER = 24
CENTS = 1200  # an octave
SPECTRUM_FLOOR = 1e-3  # magnitude, about 85 dB below a loud vowel's: digital silence has no logarithm

Warp = tuple[np.ndarray, np.ndarray]  # frame numbers in two curves that belong together


# ---------------------------------------------------------------- speaker


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Of two embeddings [E]."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


# ---------------------------------------------------------------- melody


def same_length(first: int, second: int) -> bool:
    """Whether two curves of so many frames need no warping."""
    return abs(second / max(first, 1) - 1) <= SAME_LENGTH


def linear_warp(first: int, second: int) -> Warp:
    """Every frame of the first curve and its place in the second, at an even pace."""
    frames = np.arange(first)
    return frames, np.round(frames * (second - 1) / max(first - 1, 1)).astype(int)


def melody(source: np.ndarray, converted: np.ndarray, path: Warp) -> dict[str, float]:
    """How well F0 follows the source's: curves [T1], [T2] in Hz, 0 where unvoiced.

    f0_corr: of log F0 over the frames voiced in both. f0_rmse: cents, registers as they are.
    f0_shape_rmse: cents, after each curve's own mean is taken off. voicing_error: share of all frames that
    are voiced in one and not in the other. What too few voiced frames leave unknown is left out.
    """
    first, second = np.asarray(source, float)[path[0]], np.asarray(converted, float)[path[1]]
    out: dict[str, float] = {}
    if not len(first):
        return out
    out["voicing_error"] = float(np.mean((first > 0) != (second > 0)))
    both = (first > 0) & (second > 0)
    if both.sum() < MIN_COMMON_FRAMES:
        return out
    log_first, log_second = np.log2(first[both]), np.log2(second[both])
    difference = CENTS * (log_second - log_first)
    out["f0_rmse"] = float(np.sqrt(np.mean(np.square(difference))))
    out["f0_shape_rmse"] = float(difference.std())
    if min(log_first.std(), log_second.std()) > 1e-6:
        out["f0_corr"] = float(np.corrcoef(log_first, log_second)[0, 1])
    return out


def register_distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """Semitones between the mean log F0 of two curves in Hz, 0 where unvoiced; None with too few voiced frames."""
    voiced = [np.asarray(f0, float)[np.asarray(f0) > 0] for f0 in (first, second)]
    if min(map(len, voiced)) < MIN_VOICED_FRAMES:
        return None
    return 12 * abs(float(np.log2(voiced[0]).mean() - np.log2(voiced[1]).mean()))


# ---------------------------------------------------------------- spectrum, against a parallel reading


def spectral_distances(converted: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """How far a conversion is from the target speaker's own reading: 16 kHz waves [N1], [N2].

    Both are brought to one loudness and trimmed, and aligned by DTW over their mel-cepstra.
    mcd: mel-cepstral distortion in dB over coefficients 1 to 24 (Kubichek 1993, eq. 1), level left out.
    lsd: log-spectral distance in dB, the root mean square over frequency, averaged over frames.
    """
    waves = [_prepared(wave) for wave in (converted, reference)]
    first, second = (mel_cepstrum(features.log_mel(wave)) for wave in waves)
    path = warp(distances(first, second))
    gap = np.square(first[:, path[0]] - second[:, path[1]]).sum(axis=0)
    mcd = 10 / math.log(10) * np.sqrt(2 * gap).mean()
    spectra = [log_spectrum(wave) for wave in waves]
    gaps = np.square(spectra[0][:, path[0]] - spectra[1][:, path[1]]).mean(axis=0)
    return {"mcd": float(mcd), "lsd": float(np.sqrt(gaps).mean())}


def _prepared(wave: np.ndarray) -> np.ndarray:
    trimmed = audio.trim_silence(wave, features.SAMPLE_RATE)
    return audio.normalize(trimmed if len(trimmed) else wave, features.SAMPLE_RATE)


def mel_cepstrum(log_mel: np.ndarray) -> np.ndarray:
    """Coefficients 1 to 24 of log-mel magnitudes: [N_MELS, T] -> [24, T].

    Scaled so that a log magnitude is c0 + sum of c_k cos(k w) over the mel axis, as the factor of the
    distortion's formula supposes.
    """
    return _cosines() @ log_mel.astype(float)


@cache
def _cosines() -> np.ndarray:
    orders, bands = np.arange(1, CEPSTRUM_ORDER + 1)[:, None], np.arange(features.N_MELS) + 0.5
    return 2 / features.N_MELS * np.cos(np.pi * orders * bands / features.N_MELS)


def log_spectrum(wave: np.ndarray) -> np.ndarray:
    """Magnitudes in dB of a 16 kHz wave, on the mel's frame grid and above its floor: [N] -> [N_FFT // 2 + 1, T]."""
    frames = features.frame_count(len(wave))
    half = features.N_FFT // 2
    padded = np.zeros((frames - 1) * features.HOP_LENGTH + features.N_FFT)
    padded[half : half + len(wave)] = wave
    windows = np.lib.stride_tricks.sliding_window_view(padded, features.N_FFT)[:: features.HOP_LENGTH]
    magnitudes = np.abs(np.fft.rfft(windows * np.hanning(features.N_FFT + 1)[:-1]))
    return 20 * np.log10(np.maximum(magnitudes, SPECTRUM_FLOOR)).T
