"""What every bottleneck is: B batch, C channels, T frames of the code, G codes a frame."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vconv.config import BottleneckConfig


class Code(NamedTuple):
    z_q: Tensor  # [B, C, T]
    loss: Tensor  # scalar
    codes: Tensor | None  # [B, G, T], int64; None for the kinds that have no codes


class Bottleneck(nn.Module):
    """``forward(z [B, C, T]) -> Code``: in training with its loss and side effects, else what ``encode`` gives.

    A kind defines ``_learn`` and ``_encode``, and ``decode`` where it has codes. Always in float32.
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.bits_per_frame = config.bits_per_frame  # infinite where there are no codes

    def forward(self, z: Tensor) -> Code:
        if not self.training:
            return self.encode(z)
        with torch.autocast(z.device.type, enabled=False):
            return self._learn(z.float())

    def encode(self, z: Tensor) -> Code:
        """The code without chance, loss or side effect, in operations that export to ONNX."""
        with torch.autocast(z.device.type, enabled=False):
            return self._encode(z.float())

    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, G, T] -> the z_q [B, C, T] that ``encode`` gave with them, exactly."""
        raise NotImplementedError(f"{type(self).__name__} has no codes")

    def anneal(self, step: int) -> None:
        """Set what changes in the course of a training, as a function of the step alone."""

    def _learn(self, z: Tensor) -> Code:
        raise NotImplementedError

    def _encode(self, z: Tensor) -> Code:
        raise NotImplementedError


def progress(step: int, steps: int) -> float:
    """How far along it is, 0 to 1."""
    return min(1.0, step / steps) if steps else 1.0


def entropy(probability: Tensor) -> Tensor:
    """In nats, of distributions along the last axis; its gradient is finite at zero, too."""
    return -(probability * probability.clamp(min=1e-12).log()).sum(dim=-1)
