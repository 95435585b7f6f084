"""Pulse trains in time with a recording."""

from __future__ import annotations

import numpy as np
import pytest

from vconv.data.pulse_alignment import alignment
from vconv.excitation import PulseTrain
from vconv.features import F0_REFERENCE, FRAME_RATE, OUTPUT_HOP, OUTPUT_RATE

FRAMES = 120


def _closures(f0: np.ndarray, offset: float) -> np.ndarray:
    """Samples at which the glottis closes, for F0 [T] Hz and a phase in cycles where it begins."""
    phases = offset + PulseTrain(np.log2(f0 / F0_REFERENCE)).phases(0, len(f0)).reshape(-1)
    return np.flatnonzero(np.diff(np.floor(phases))) + 1


def _speech(closures: np.ndarray) -> np.ndarray:
    """Three resonances that ring after each closure, [FRAMES * OUTPUT_HOP]"""
    time = np.arange(round(0.02 * OUTPUT_RATE)) / OUTPUT_RATE
    formants = ((550, 60), (1600, 90), (2600, 140))
    ringing = sum(np.exp(-np.pi * width * time) * np.sin(2 * np.pi * centre * time) for centre, width in formants)
    pulses = np.zeros(FRAMES * OUTPUT_HOP)
    pulses[closures] = -1.0
    return np.convolve(pulses, ringing)[: len(pulses)]


def _melody(f0: float) -> np.ndarray:
    return f0 * 2 ** (0.08 * np.sin(np.arange(FRAMES) / FRAME_RATE * 2 * np.pi * 2.5))


@pytest.mark.parametrize("f0", [95.0, 140.0, 220.0])
def test_pulses_follow_the_closures_though_f0_is_a_little_wrong(f0: float) -> None:
    melody, wrong = _melody(f0), 1 + 0.004 * np.sin(np.arange(FRAMES) / 9)
    closures = _closures(melody, 0.37)
    curve = np.log2(melody * wrong / F0_REFERENCE)
    found = alignment(_speech(closures), curve, np.ones(FRAMES))
    phases = PulseTrain(curve, correction=found.correction).phases(0, FRAMES).reshape(-1)[closures]
    beside = (phases + 0.5) % 1.0 - 0.5
    assert -0.25 < np.median(beside) < 0  # the pulse comes after it, in the middle of the ringing
    assert np.percentile(np.abs(beside - np.median(beside)), 90) < 0.05


def test_uncorrected_pulses_drift_away() -> None:
    """So the test above can fail."""
    melody, wrong = _melody(140.0), 1 + 0.004 * np.sin(np.arange(FRAMES) / 9)
    closures = _closures(melody, 0.37)
    phases = PulseTrain(np.log2(melody * wrong / F0_REFERENCE)).phases(0, FRAMES).reshape(-1)[closures]
    beside = (phases - np.median(phases) + 0.5) % 1.0 - 0.5
    assert np.percentile(np.abs(beside), 90) > 0.05


def test_the_polarity_of_the_recording_is_found_and_moves_no_pulse() -> None:
    melody = _melody(120.0)
    curve, wave = np.log2(melody / F0_REFERENCE), _speech(_closures(melody, 0.1))
    one, other = alignment(wave, curve, np.ones(FRAMES)), alignment(-wave, curve, np.ones(FRAMES))
    assert one.inverted != other.inverted
    beside = (one.correction - other.correction + 0.5) % 1.0 - 0.5
    assert np.abs(beside).max() < 1e-3


def test_without_voice_nothing_is_corrected() -> None:
    noise = np.random.default_rng(0).standard_normal(FRAMES * OUTPUT_HOP)
    found = alignment(noise, np.zeros(FRAMES), np.zeros(FRAMES))
    assert not found.correction.any() and not found.inverted
    assert len(found.correction) == FRAMES + 1
