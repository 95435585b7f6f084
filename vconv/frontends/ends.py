"""What follows the end of sound that breaks off, for networks that were trained on whole clips."""

from __future__ import annotations

import numpy as np

MIRRORED = 6  # frames, 96 ms: as many follow, at most


def mirrored_end(values: np.ndarray, count: int) -> np.ndarray:
    """Values [..., N] and the last ``count`` of them again, mirrored in time: [..., N + count].

    What breaks off is unlike all that the networks were trained on, and so are the zeros with which convolutions go on.
    Mirrored speech is not: with it, the last frames need less lookahead.
    """
    return np.concatenate([values, values[..., ::-1][..., :count]], axis=-1)
