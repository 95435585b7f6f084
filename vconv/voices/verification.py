"""Speaker verification: where as many genuine pairs are rejected as impostors are accepted."""

from __future__ import annotations

import numpy as np


def equal_error_point(genuine: np.ndarray, impostor: np.ndarray) -> tuple[float, float]:
    """The equal error rate, and the threshold from which on a score counts as genuine there.

    The threshold lies in the middle between two scores.
    """
    genuine, impostor = np.sort(genuine), np.sort(impostor)
    thresholds = np.concatenate([genuine, impostor, [np.inf]])
    rejected = np.searchsorted(genuine, thresholds, side="left") / len(genuine)
    accepted = 1 - np.searchsorted(impostor, thresholds, side="left") / len(impostor)
    closest = np.argmin(np.abs(rejected - accepted))
    above = min(thresholds[closest], thresholds[:-1].max())
    below = np.max(thresholds[thresholds < above], initial=-np.inf)
    threshold = (above + below) / 2 if np.isfinite(below) else above
    return float((rejected[closest] + accepted[closest]) / 2), float(threshold)
