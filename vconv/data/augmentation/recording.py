"""Augmentation of whole recordings: another voice, a room, noise or other talkers, a line.

``augmentation.mel`` works on log-mels in training. ASR features need the wave: they are computed once for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vconv import audio
from vconv.data.augmentation.wave import band_limited, clipped, colored, crowd, mix, reverberant
from vconv.features import SAMPLE_RATE

VOICE_OCTAVES = 0.25  # by which formants, pitch and tempo together are higher or lower at most
BABBLE_VOICES = 6  # at most
SNR_DB = (4.0, 25.0)
REVERB_SECONDS = (0.2, 0.8)  # to -60 dB
DIRECT_DB = (0.0, 8.0)  # above the room


@dataclass(frozen=True)
class DisturbConfig:
    """Shares of the clips."""

    clean: float = 0.25  # whose voice alone is moved; the following are shares of the others
    reverb: float = 0.2
    babble: float = 0.5
    noise: float = 0.35
    clipping: float = 0.12
    band_limit: float = 0.15


def voice_rate(rng: np.random.Generator) -> float:
    """By how much the clip is to be played faster: 2 ** (-VOICE_OCTAVES to VOICE_OCTAVES)."""
    return float(2 ** rng.uniform(-VOICE_OCTAVES, VOICE_OCTAVES))


def faster(wave: np.ndarray, rate: float) -> np.ndarray:
    """A wave [N] at 16 kHz played that much faster: [N / rate], pitch and formants that much higher."""
    return audio.resample(wave, round(SAMPLE_RATE * rate), SAMPLE_RATE)


def surround(
    wave: np.ndarray,
    rng: np.random.Generator,
    others: Sequence[np.ndarray],
    shares: DisturbConfig = DisturbConfig(),
) -> np.ndarray:
    """A wave [N] at 16 kHz in a random room, noise or crowd, over a random line; ``others`` are the crowd's voices."""
    if rng.random() < shares.clean:
        return wave
    if rng.random() < shares.reverb:
        wave = reverberant(wave, rng.uniform(*REVERB_SECONDS), rng.uniform(*DIRECT_DB), rng)
    if others and rng.random() < shares.babble:
        behind = crowd(others[: rng.integers(1, BABBLE_VOICES + 1)], len(wave), rng)
        wave = mix(wave, behind, rng.uniform(*SNR_DB))
    if rng.random() < shares.noise:
        wave = mix(wave, colored(len(wave), rng.uniform(-0.5, 1.0), rng), rng.uniform(*SNR_DB))
    if rng.random() < shares.clipping:
        wave = clipped(wave, rng.uniform(0.1, 0.5))
    if rng.random() < shares.band_limit:
        wave = band_limited(wave, rng.uniform(100, 400), rng.uniform(3000, 4500))
    return wave.astype(np.float32)
