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
    total = _accumulate(np.asarray(costs, float))
    row, column = total.shape[0] - 1, total.shape[1] - 1
    path = [(row, column)]
    while row or column:
        before = [(row - 1, column - 1), (row - 1, column), (row, column - 1)]
        row, column = min((step for step in before if min(step) >= 0), key=lambda step: total[step])
        path.append((row, column))
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def _accumulate(costs: np.ndarray) -> np.ndarray:
    """Cost of the cheapest way to every cell. Cells of one antidiagonal do not depend on one another."""
    height, width = costs.shape
    total = np.full((height + 1, width + 1), np.inf)  # with a border, so that edges need no case of their own
    total[0, 0] = 0
    for diagonal in range(height + width - 1):
        rows = np.arange(max(0, diagonal - width + 1), min(diagonal, height - 1) + 1)
        columns = diagonal - rows
        cheapest = np.minimum(np.minimum(total[rows, columns], total[rows, columns + 1]), total[rows + 1, columns])
        total[rows + 1, columns + 1] = costs[rows, columns] + cheapest
    return total[1:, 1:]
