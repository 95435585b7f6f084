"""A gate that skips the networks where nobody speaks."""

from __future__ import annotations

import numpy as np

HOLD_FRAMES = 20  # 320 ms that the gate stays open after the last loud frame


class Gate:
    """Open while a frame of the latest ones, or of the few to come that are known, is loud enough."""

    def __init__(self, threshold: float | None) -> None:
        """``threshold``: dBFS of a frame's RMS, with speech at the reference loudness; None is always open."""
        self._threshold = threshold
        self._quiet = HOLD_FRAMES

    def reset(self) -> None:
        self._quiet = HOLD_FRAMES

    def is_open(self, powers: np.ndarray, fresh: int) -> bool:
        """Whether to convert, given mean squares of the frames known so far [n], the first ``fresh`` of which are due.

        To be asked once for each step; the rest of the frames are seen again by the next.
        """
        if self._threshold is None:
            return True
        loud = powers > 10 ** (self._threshold / 10)
        opened = bool(loud.any()) or self._quiet < HOLD_FRAMES
        due = np.flatnonzero(loud[:fresh])
        self._quiet = min(HOLD_FRAMES, fresh - 1 - due[-1] if len(due) else self._quiet + fresh)
        return opened
