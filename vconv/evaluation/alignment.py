"""Dynamic time warping: which frames of two readings of one sentence belong together."""

from __future__ import annotations

import numpy as np


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Euclidean distance of every two frames: [C, T1], [C, T2] -> [T1, T2]."""
    squares = np.square(first).sum(axis=0)[:, None] + np.square(second).sum(axis=0) - 2 * first.T @ second
    return np.sqrt(np.maximum(squares, 0))


def warp(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way through costs [T1, T2] from corner to corner, one frame on in either or both at a step.

    Returns the two frame numbers of every step, in order of time.
    """
    from librosa.sequence import dtw

    return tuple(dtw(C=np.asarray(costs, float))[1][::-1].T)
