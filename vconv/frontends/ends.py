"""What follows the end of sound that breaks off, for networks that were trained on whole clips."""

from __future__ import annotations

import numpy as np

from vconv.features import HOP_LENGTH

MIRRORED = 6  # frames, 96 ms: as many follow, at most
MIRRORED_SAMPLES = 2 * HOP_LENGTH  # 32 ms, of the live ASR encoder: with them the last frame has its middle


def mirrored_end(values: np.ndarray, count: int) -> np.ndarray:
    """Values [..., N] and the last ``count`` of them again, mirrored in time: [..., N + count].

    What breaks off is unlike all that the networks were trained on, and so are the zeros with which convolutions go on.
    Mirrored speech is not: with it, the last frames need less lookahead.
    """
    return np.concatenate([values, values[..., ::-1][..., :count]], axis=-1)
