"""The source's melody in the target's register."""

from __future__ import annotations

import math

import numpy as np

from vconv import features
from vconv.errors import InputError
from vconv.features import F0_MAX, F0_MIN, F0_REFERENCE
from vconv.voice import Voice

# Of the way, in log, to the target's spread of F0, where 1 would be Gaussian normalization: on sentences that two
# people both read, the melody is then nearest to what the target made of it (recipes/base/history/RUNS.md).
SPREAD_SHARE = 0.75
SPREAD_RATIO_RANGE = (0.5, 2.0)
MAX_PITCH = 24.0  # semitones either way
# Where a shifted melody ends: an octave beyond what voices do, and well within the harmonic source's reach.
LOG_F0_RANGE = (math.log2(F0_MIN / 2 / F0_REFERENCE), math.log2(F0_MAX * 2 / F0_REFERENCE))


def check_pitch(pitch: float) -> None:
    if not abs(pitch) <= MAX_PITCH:  # also NaN
        raise InputError(f"a pitch shift of {pitch} semitones is out of range; use {-MAX_PITCH:g} to {MAX_PITCH:g}")


def _spread_ratio(f0: np.ndarray, voice: Voice) -> float:
    """How much wider the melody is to swing."""
    spread = features.log_f0_spread(f0)
    if not spread or not voice.log_f0_spread:
        return 1.0
    return float(np.clip(voice.log_f0_spread / spread, *SPREAD_RATIO_RANGE)) ** SPREAD_SHARE


def moved_pitch(f0: np.ndarray, frames: int, voice: Voice | None = None, octaves: float = 0.0) -> np.ndarray:
    """The source's melody in the target's register: F0 [T'] Hz -> pitch input of the networks [2, frames].

    Log F0 gets the median of the voice, if one is given, and most of the way to its spread, as far as the two are
    known, and ``octaves`` are added.
    """
    curve, voiced = features.continuous_log_f0(f0)
    median = features.median_log_f0(f0)
    if voice is not None and median is not None and voice.log_f0 is not None:
        curve = (curve - median) * _spread_ratio(f0, voice) + voice.log_f0
    padding = (0, frames - len(f0))
    return np.stack(
        [
            np.pad(np.clip(curve + octaves, *LOG_F0_RANGE), padding, mode="edge"),
            np.pad(voiced, padding),
        ]
    ).astype(np.float32)
