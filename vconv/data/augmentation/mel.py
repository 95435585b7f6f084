"""Disturbances of log-mels that leave the words: what the content encoder must learn to look through.

All work on a batch [B, T, N_MELS] of natural-log mels in numpy, so that they cost next to nothing
beside a training step; each item gets its own random strength from ``rng``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vconv.features import DB_PER_NEPER, FRAME_RATE, LOG_MEL_MIN, N_MELS, mel_filterbank

Others = Callable[[np.random.Generator, int], np.ndarray]

# Centre frequency of each mel band, Hz.
CENTRES = (mel_filterbank() @ np.linspace(0, 8000, mel_filterbank().shape[1])) / mel_filterbank().sum(1)


@dataclass(frozen=True)
class PerturbConfig:
    """Probabilities, and the largest strength of each."""

    warp: float = 0.8
    warp_octaves: float = 0.3  # formants and harmonics together, up or down
    bend_octaves: float = 0.0  # the same, the opposite way at the lowest and the highest band
    equalizer: float = 0.5
    equalizer_db: float = 8.0
    blur: float = 0.15  # over frequency: takes the harmonics away
    noise: float = 0.15
    noise_snr_db: tuple[float, float] = (8.0, 30.0)
    babble: float = 0.0  # other clips of the corpus behind it
    babble_voices: tuple[int, int] = (1, 6)
    babble_snr_db: tuple[float, float] = (5.0, 25.0)
    reverb: float = 0.07
    band_limit: float = 0.05  # to a telephone's 300 to 3400 Hz
    mask: float = 0.0  # spans of time are masked: their content has to be predicted from the context
    mask_spans: tuple[int, int] = (1, 3)
    mask_frames: tuple[int, int] = (6, 20)  # of a span: 0.1 to 0.3 s
    mask_band: float = 0.0  # a span of frequencies goes
    mask_band_mels: tuple[int, int] = (4, 16)


def warp(mel: np.ndarray, factor: float | np.ndarray) -> np.ndarray:
    """Stretch the frequency axis: what was at f Hz comes to f * factor. [T, N_MELS]

    One factor for all, or one for each band.
    """
    place = np.interp(CENTRES / factor, CENTRES, np.arange(N_MELS))
    low = np.minimum(place.astype(int), N_MELS - 2)
    share = (place - low).astype(np.float32)
    return mel[:, low] * (1 - share) + mel[:, low + 1] * share


def equalizer_curve(rng: np.random.Generator, largest_db: float) -> np.ndarray:
    """A smooth random curve over the mel bands, nepers: [N_MELS]"""
    place = np.linspace(0, 1, N_MELS)
    curve = sum(rng.normal() * np.cos(np.pi * k * place + rng.uniform(0, 2 * np.pi)) for k in range(1, 4))
    return (curve / 2 * rng.uniform(0, largest_db) / DB_PER_NEPER).astype(np.float32)


def _level(mel: np.ndarray) -> float:
    """Of the mean power, nepers."""
    return float(np.log(np.exp(2 * mel).mean() + 1e-10) / 2)


def _noise(rng: np.random.Generator, mel: np.ndarray, snr_db: float) -> np.ndarray:
    """The mel with noise of a random colour added in power: [T, N_MELS]"""
    level = _level(mel) - snr_db / DB_PER_NEPER
    colour = equalizer_curve(rng, 12.0) - rng.uniform(-0.5, 1.5) * np.linspace(-1, 1, N_MELS)
    # Rayleigh magnitudes, as a periodogram of Gaussian noise has; a band averages a few bins.
    grain = 0.25 * np.log(rng.gamma(3.0, 1 / 3.0, mel.shape) + 1e-3)
    return np.logaddexp(2 * mel, 2 * (level + colour + grain)) / 2


def _reverb(rng: np.random.Generator, mel: np.ndarray) -> np.ndarray:
    """Energy that decays exponentially after each frame, mixed in: [T, N_MELS]"""
    seconds = rng.uniform(0.15, 0.6)  # to -60 dB
    decay = 10 ** (-6 / FRAME_RATE / seconds)
    kernel = decay ** np.arange(24) * 10 ** (-rng.uniform(0.3, 1.2))
    kernel[0] = 1.0
    power = np.exp(2 * mel)
    wet = sum(k * np.pad(power, ((i, 0), (0, 0)))[: len(power)] for i, k in enumerate(kernel))
    return np.log(np.maximum(wet, 1e-10)) / 2


def _babble(
    rng: np.random.Generator, mel: np.ndarray, others: Others, voices: tuple[int, int], snr_db: float
) -> np.ndarray:
    """The mel with several people talking behind it, added in power: [T, N_MELS]"""
    behind = [others(rng, len(mel)) for _ in range(rng.integers(*voices, endpoint=True))]
    # Nobody is nearer than another: each voice at the same level.
    together = np.logaddexp.reduce([2 * (voice - _level(voice)) for voice in behind], axis=0) / 2
    return np.logaddexp(2 * mel, 2 * (together + _level(mel) - _level(together) - snr_db / DB_PER_NEPER)) / 2


def _span(rng: np.random.Generator, total: int, lengths: tuple[int, int]) -> slice:
    """A random stretch of so many of ``total`` places, of half of them at most."""
    length = min(int(rng.integers(*lengths, endpoint=True)), total // 2)
    start = int(rng.integers(total - length + 1))
    return slice(start, start + length)


def _mask(rng: np.random.Generator, mel: np.ndarray, config: PerturbConfig) -> np.ndarray:
    """The mel with spans of frames, of bands, or of both set to each band's mean over the clip: [T, N_MELS]

    Park et al. 2019, "SpecAugment", section 2, whose inputs have mean zero and are masked by zero. The mean and
    not the floor: that is what a pause looks like, in which there is no word to be guessed. And it hardly moves
    the statistics that instance norm takes out.
    """
    # In float64, so that the order in which memory holds it makes no difference.
    mean = mel.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.where(mask_places(rng, len(mel), config), mean, mel)


def mask_places(rng: np.random.Generator, frames: int, config: PerturbConfig) -> np.ndarray:
    """What is masked of a clip: [frames, N_MELS] bool"""
    places = np.zeros((frames, N_MELS), bool)
    if config.mask and rng.random() < config.mask:
        for _ in range(rng.integers(*config.mask_spans, endpoint=True)):
            places[_span(rng, frames, config.mask_frames)] = True
    if config.mask_band and rng.random() < config.mask_band:
        places[:, _span(rng, N_MELS, config.mask_band_mels)] = True
    return places


def perturb(
    mel: np.ndarray, rng: np.random.Generator, config: PerturbConfig, others: Others | None = None
) -> np.ndarray:
    """One clip's log-mel, disturbed: [T, N_MELS] -> [T, N_MELS] float32

    ``others(rng, T)`` gives the log-mel of another talker [T, N_MELS], for babble; without it there is none.
    """
    mel = mel.astype(np.float32)
    if rng.random() < config.reverb:
        mel = _reverb(rng, mel)
    if rng.random() < config.warp:
        # Not only longer and shorter vocal tracts: the formants' distances from each other differ, too.
        bend = rng.uniform(-config.bend_octaves, config.bend_octaves) * np.linspace(-1, 1, N_MELS)
        mel = warp(mel, 2 ** (rng.uniform(-config.warp_octaves, config.warp_octaves) + bend))
    if rng.random() < config.blur:
        width = int(rng.integers(3, 8))
        padded = np.pad(mel, ((0, 0), (width // 2, width - 1 - width // 2)), mode="edge")
        mel = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1).mean(axis=2)
    if rng.random() < config.equalizer:
        mel = mel + equalizer_curve(rng, config.equalizer_db)
    if rng.random() < config.noise:
        mel = _noise(rng, mel, rng.uniform(*config.noise_snr_db))
    if others is not None and config.babble and rng.random() < config.babble:
        mel = _babble(rng, mel, others, config.babble_voices, rng.uniform(*config.babble_snr_db))
    if rng.random() < config.band_limit:
        mel = mel - 4.0 * ((CENTRES < 300) | (CENTRES > 3400))
    if config.mask or config.mask_band:
        mel = _mask(rng, mel, config)
    return np.maximum(mel, LOG_MEL_MIN).astype(np.float32)
