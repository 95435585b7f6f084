"""Spectral correction: what the decoder's mel lacks of the target's recordings.

The decoder reconstructs the target's own speech, and both log-mels are compared: their means by band, and by ridge
regression (Hoerl and Kennard 1970) what is missing from a frame, given how it differs from the mean. The frames of a
conversion that hold speech then get a part of it.
"""

from __future__ import annotations

import numpy as np

from vconv.features import PAUSE_DEPTH
from vconv.voice import Correction, Voice, rounded

# From what one clip says of another of its speaker: recipes/base/history/RUNS.md, run 20.
SHARE = 0.7  # of the difference of the means, and of what the regression predicts, in the limit of many frames
HALF_FRAMES = 35  # as many frames have half of that share of the means
RIDGE = 300.0  # nepers squared, summed over frames: penalty on the regression's weights
RIDGE_FRAMES = 350  # the most that the penalty was chosen on; for more frames it grows with them
GATE, SLOPE = 1.0, 0.3  # nepers: a conversion's frames so far under the level of speech get half, and how soft that is


def measured(recorded: np.ndarray, decoded: np.ndarray, tuned: bool = False) -> Correction | None:
    """From the log-mel [N_MELS, T] of a target's speech, and what the decoder reconstructs of it.

    With the adapter of a ``tuned`` voice it is the difference of the means alone: the adapter has learned from the same
    frames, and what it still misses there, it does not miss in others. None where no frame has speech.
    """
    level = recorded.mean(axis=0)
    speaks = level > level.mean() - PAUSE_DEPTH
    count = int(np.count_nonzero(speaks))
    if not count:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # a network that diverged; the voice is checked as a whole
        wanted, found = recorded[:, speaks].astype(np.float64), decoded[:, speaks].astype(np.float64)
        center = found.mean(axis=1, keepdims=True)
        difference = wanted.mean(axis=1, keepdims=True) - center
        apart = found - center
        missing = wanted - found - difference
        matrix = np.zeros((len(apart), len(apart)))
        if not tuned:
            penalty = RIDGE * max(count / RIDGE_FRAMES, 1.0) * np.eye(len(apart))
            matrix = SHARE * np.linalg.solve(apart @ apart.T + penalty, apart @ missing.T).T
        shift = SHARE * count / (count + HALF_FRAMES) * difference
        parts = [rounded(x) for x in (center[:, 0], shift[:, 0], matrix)]  # as a saved voice has them
    return Correction(*(part.astype(np.float32) for part in parts))


def corrected(mel: np.ndarray, voice: Voice) -> np.ndarray:
    """A decoder's mel [N_MELS, T] in a voice, nearer to the voice's average spectrum where there is speech."""
    correction = voice.correction
    if correction is None:
        return mel
    center, shift = correction.center[:, None], correction.shift[:, None]
    speaks = _above(mel.mean(axis=0) - center.mean() + GATE)
    missing = correction.matrix @ (mel - center)
    # What lies in the valleys of a recording is its noise and its room: they are not filled.
    missing = np.minimum(missing, missing * _above(mel - center))
    return (mel + speaks * (shift + missing)).astype(np.float32)


def _above(level: np.ndarray) -> np.ndarray:
    """0 for levels in nepers far below zero, 1 for those far above."""
    return 1 / (1 + np.exp(np.clip(-level / SLOPE, -30, 30)))
