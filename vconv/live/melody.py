"""The melody as it comes: moved into the target's register, its phase carried over."""

from __future__ import annotations

import numpy as np

from vconv.excitation import PulseTrain
from vconv.features import F0_REFERENCE
from vconv.inference.register import LOG_F0_RANGE, SPREAD_RATIO_RANGE, SPREAD_SHARE
from vconv.live.statistics import Register
from vconv.voice import Voice


def into_register(curve: np.ndarray, source: Register, voice: Voice, octaves: float, keep_pitch: bool) -> np.ndarray:
    """log2 F0 [T] of a source in a voice's register: the same move as a file's, by statistics known before.

    Octaves above ``F0_REFERENCE``, of both.
    """
    if not keep_pitch and source.log_f0 is not None and voice.log_f0 is not None:
        ratio = 1.0
        if source.spread and voice.log_f0_spread:
            ratio = float(np.clip(voice.log_f0_spread / source.spread, *SPREAD_RATIO_RANGE)) ** SPREAD_SHARE
        curve = (curve - source.log_f0) * ratio + voice.log_f0
    return np.clip(curve + octaves, *LOG_F0_RANGE).astype(np.float32)


def bridged(f0: np.ndarray, before: float) -> tuple[np.ndarray, np.ndarray]:
    """log2 F0 [T] bridged over unvoiced frames, and the voiced flag [T]; ``before`` is the curve's last value so far.

    Before the next voiced frame is known, the last value holds.
    """
    voiced = f0 > 0
    at = np.flatnonzero(voiced)
    known = np.log2(f0[at] / F0_REFERENCE)
    curve = np.interp(np.arange(len(f0)), np.append(-1, at), np.append(before, known))
    return curve.astype(np.float32), voiced.astype(np.float32)


class Melody:
    """The networks' pitch input of the latest frames, and the harmonic source for them.

    Frames that are final do not change any more, so the phase at the end of them is known.
    """

    def __init__(self, past: int) -> None:
        """``past``: final frames to keep."""
        self._past = past
        self.final = np.zeros((2, 0), np.float32)
        self._phase = 0.0  # at the first of them

    def samples(self, ahead: np.ndarray, past: int) -> np.ndarray:
        """Pulse train of the last ``past`` final frames and of the provisional ones that follow, ``ahead`` [2, n]."""
        curve = np.concatenate([self.final[0], ahead[0]])
        start = self.final.shape[1] - past
        return PulseTrain(curve, self._phase).samples(start, len(curve))

    def add(self, pitch: np.ndarray) -> None:
        """The next frames [2, n] are final."""
        final = np.concatenate([self.final, pitch], axis=1)
        drop = max(0, final.shape[1] - self._past)
        if drop:
            self._phase = PulseTrain(final[0], self._phase).phase_at(drop)
        self.final = final[:, drop:]
