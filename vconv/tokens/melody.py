"""F0 at a low rate, for tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vconv.features import F0_MIN

KNOT_FRAMES = 2  # a knot of the melody for each code
STEPS = 64  # an octave, of 19 cents each; 256 of them reach F0_MAX


@dataclass(frozen=True)
class Melody:
    """F0 at a low rate: which frames are voiced [T] bool, and the knots between which log F0 is a line, u8."""

    voiced: np.ndarray
    knots: np.ndarray

    @classmethod
    def of(cls, f0: np.ndarray) -> Melody:
        """From F0 [T] in Hz, 0 where unvoiced."""
        voiced = f0 > 0
        octaves = np.log2(np.where(voiced, f0, F0_MIN) / F0_MIN)
        # Where a knot's own frame is unvoiced, the mean of the voiced ones that lean on it.
        near = [np.convolve(x, np.ones(2 * KNOT_FRAMES - 1)) for x in (octaves, voiced)]
        own = [np.pad(x, KNOT_FRAMES - 1) for x in (octaves, voiced)]
        at = knot_frames(voiced) + KNOT_FRAMES - 1
        value = np.where(own[1][at], own[0][at], near[0][at] / near[1][at])
        return cls(voiced, np.clip(np.round(value * STEPS), 0, 255).astype(np.uint8))

    @property
    def f0(self) -> np.ndarray:
        """[T] Hz float32, 0 where unvoiced"""
        if not self.voiced.any():
            return np.zeros(len(self.voiced), np.float32)
        octaves = np.interp(np.arange(len(self.voiced)), knot_frames(self.voiced), self.knots / STEPS)
        return np.where(self.voiced, F0_MIN * 2**octaves, 0).astype(np.float32)

    def stretched(self, frames: int) -> Melody:
        """The same over another length."""
        if frames == len(self.voiced):
            return self
        return Melody.of(self.f0[np.arange(frames) * len(self.voiced) // frames])


def knot_frames(voiced: np.ndarray) -> np.ndarray:
    """Where the knots are that voiced frames lean on: the one at or before each, and the one at or after."""
    at = np.flatnonzero(voiced)
    return np.union1d(at // KNOT_FRAMES, -(-at // KNOT_FRAMES)) * KNOT_FRAMES
