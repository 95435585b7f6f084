"""Joins of consecutive stretches: cross-fades that cost no delay."""

from __future__ import annotations

import numpy as np


class OverlapAdd:
    """Joins stretches along the last axis, each of which runs a little beyond its end.

    That provisional end fades into the beginning of the next stretch. Harmonics have the same phase in both, as the
    harmonic source's is carried over, so no alignment (SOLA) is needed.
    """

    def __init__(self, length: int) -> None:
        """``length`` of a fade, in samples or frames."""
        self._fade = ((np.arange(length) + 0.5) / length).astype(np.float32)
        self._tail: np.ndarray | None = None

    def reset(self) -> None:
        self._tail = None

    def join(self, stretch: np.ndarray, length: int) -> np.ndarray:
        """The next ``length`` samples, of a stretch [..., length or more]; what it has beyond them is its tail."""
        out = np.array(stretch[..., :length], np.float32)
        if self._tail is not None:
            common = min(self._tail.shape[-1], length)
            fade = self._fade[:common]
            out[..., :common] = self._tail[..., :common] * (1 - fade) + out[..., :common] * fade
        self._tail = np.array(stretch[..., length : length + len(self._fade)], np.float32)
        return out


class Ramp:
    """A mixing coefficient that moves between 0 and 1 at a fixed speed, never jumping."""

    def __init__(self, samples: int) -> None:
        """``samples`` from 0 to 1."""
        self._step, self._value = 1.0 / max(samples, 1), 0.0

    def settled(self, goal: bool) -> bool:
        """Whether it has arrived."""
        return self._value == float(goal)

    def next(self, samples: int, goal: bool) -> np.ndarray:
        """Coefficients of the next samples on the way to 1 or to 0: [samples] float32"""
        step = self._step if goal else -self._step
        values = np.clip(self._value + step * np.arange(1, samples + 1), 0.0, 1.0)
        if samples:
            self._value = float(values[-1])
        return values.astype(np.float32)
