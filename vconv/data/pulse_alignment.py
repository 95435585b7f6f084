"""Pulse trains in time with a recording: a pulse soon after each closure of the glottis, and one polarity for all.

Pulses at another place in the period, or at one that drifts as F0 is never quite exact, leave a vocoder no way to
predict the recording's phase: its losses then reward noise in place of harmonics.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vconv.excitation import PulseTrain
from vconv.features import OUTPUT_HOP, OUTPUT_RATE

CLOSURE_BAND = (1200.0, 6000.0)  # Hz; there a period has most of its energy soon after the glottis closes
# Where in the fundamental's period that is, in cycles after its maximum, with the more common polarity of microphones:
# 0.08 to 0.20 in 14 clips of VCTK; in 14 of AN4, all inverted, 0.16 to 0.28 before it, nearer to half a cycle away.
CLOSURE_PHASE = 0.17
SMOOTHING_SECONDS = 0.012  # standard deviation of the window over which the fundamental's phase is averaged
_STEPS = 8  # a frame, for that window
_LEAST_FRAMES = 8  # voiced, else there is nothing to go by


class Alignment(NamedTuple):
    """How the pulse train of an F0 curve [T] is brought in time with a recording."""

    correction: np.ndarray  # [T + 1] cycles, for ``PulseTrain``
    inverted: bool  # whether the recording has the other polarity


def alignment(wave: np.ndarray, curve: np.ndarray, voiced: np.ndarray) -> Alignment:
    """Of a recording [T * OUTPUT_HOP] at 24 kHz with log2 F0 and voicing [T], as ``continuous_log_f0`` makes them.

    The fundamental gives the phase from moment to moment, and the envelope of ``CLOSURE_BAND``, over the whole
    recording, where in its period the pulses are.
    """
    known = np.flatnonzero(np.append(voiced, voiced[-1:]) > 0)
    if len(known) < _LEAST_FRAMES:
        return Alignment(np.zeros(len(curve) + 1, np.float32), False)
    fundamental = _averaged(wave * _turned(PulseTrain(curve).phases(0, len(curve))))
    drift = np.unwrap(np.angle(fundamental[known]) / (2 * np.pi), period=1.0)
    correction = np.interp(np.arange(len(curve) + 1), known, drift)
    phases = PulseTrain(curve, correction=correction).phases(0, len(curve))
    energy = np.abs(_closure_band(wave)) * np.repeat(voiced, OUTPUT_HOP)
    closure = -np.angle((energy * _turned(phases)).sum()) / (2 * np.pi)
    beside = (closure - CLOSURE_PHASE + 0.5) % 1.0 - 0.5
    return Alignment((correction - closure).astype(np.float32), abs(beside) > 0.25)


def _turned(phases: np.ndarray) -> np.ndarray:
    return np.exp(-2j * np.pi * phases.reshape(-1))


def _averaged(values: np.ndarray) -> np.ndarray:
    """Values [T * OUTPUT_HOP], smoothed, where frames begin and end: [T + 1]"""
    steps = values.reshape(-1, OUTPUT_HOP // _STEPS).sum(axis=1)
    spread = SMOOTHING_SECONDS * OUTPUT_RATE / (OUTPUT_HOP // _STEPS)
    reach = round(4 * spread)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    return np.convolve(np.pad(steps, (reach, reach + 1)), window, "valid")[::_STEPS]


def _closure_band(wave: np.ndarray) -> np.ndarray:
    spectrum, frequency = np.fft.rfft(wave), np.fft.rfftfreq(len(wave), 1 / OUTPUT_RATE)
    low, high = CLOSURE_BAND
    return np.fft.irfft(spectrum * ((frequency > low) & (frequency < high)), len(wave))
