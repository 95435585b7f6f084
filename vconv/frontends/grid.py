"""Where the frames of an ASR encoder lie on the grid of the content code."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vconv.features import HOP_LENGTH

if TYPE_CHECKING:
    import torch

CODE_HOP = 2 * HOP_LENGTH  # samples from one frame of the content code to the next

# Keys of the ONNX file's metadata: samples from one of its frames to the next, and to the middle of its first one.
STRIDE, CENTRE = "stride", "centre"
Frames = TypeVar("Frames", np.ndarray, "torch.Tensor")


def places(frames: Frames, stride: float, centre: float) -> Frames:
    """Where frames [F] of the code lie among an ASR encoder's own frames: [F], of an array or a tensor.

    That is the middle of the two mel frames that a frame of the code spans.
    """
    return (frames * CODE_HOP + HOP_LENGTH / 2 - centre) / stride


def at_places(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Rows [F, C] at places [K] between them, linearly, the ends held: [K, C] float32"""
    place = np.clip(place, 0, len(rows) - 1)
    low = np.minimum(place.astype(int), max(0, len(rows) - 2))
    share = (place - low).astype(np.float32)[:, None]
    return rows[low] * (1 - share) + rows[np.minimum(low + 1, len(rows) - 1)] * share
