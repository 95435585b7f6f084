"""How much mels change from frame to frame and from band to band: what tuning on minutes of speech wears down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vconv.features import PAUSE_DEPTH

CROP_FRAMES = 168  # of the code, 5.4 s

_FLOOR = 1e-3  # of the mean squares, so that silence has a logarithm


@dataclass(frozen=True)
class Foreign:
    """Speech of people other than the tuned voice's: content code [C, K], and pitch in its register [2, 2K]."""

    content: np.ndarray
    pitch: np.ndarray

    def crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Content [1, C, J] and pitch [1, 2, 2J] of a random ``CROP_FRAMES``, or of all if there are fewer."""
        start = int(rng.integers(max(1, self.content.shape[1] - CROP_FRAMES + 1)))
        end = start + CROP_FRAMES
        parts = self.content[None, :, start:end], self.pitch[None, :, 2 * start : 2 * end]
        content, pitch = (torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts)
        return content, pitch


def texture_distance(mel: Tensor, reference: Tensor) -> Tensor:
    """Mean difference, in log, of the mels' mean squared differences in each band: [B, N_MELS, T] twice -> []

    They are the first and second ones in time and the second ones over bands, in frames where ``reference`` has speech.
    """
    speaks = speaking(reference)
    pairs = zip(_mean_squares(mel, speaks), _mean_squares(reference, speaks))
    return torch.stack([((one + _FLOOR).log() - (two + _FLOOR).log()).abs().mean() for one, two in pairs]).mean()


def speaking(mel: Tensor) -> Tensor:
    """1 for the frames of a mel [B, N_MELS, T] that have speech, 0 for pauses: [B, 1, T]"""
    level = mel.mean(dim=1, keepdim=True)
    return (level > level.mean(dim=2, keepdim=True) - PAUSE_DEPTH).float()


def _mean_squares(mel: Tensor, speaks: Tensor) -> list[Tensor]:
    """Of each kind of difference by band, over items and frames that count: [C] each."""
    found = []
    for difference, counts in (
        (mel.diff(dim=2), speaks[..., 1:] * speaks[..., :-1]),
        (mel.diff(n=2, dim=2), speaks[..., 1:-1]),
        (mel.diff(n=2, dim=1), speaks),
    ):
        found.append((difference.square() * counts).sum(dim=(0, 2)) / counts.sum().clamp(min=1))
    return found
