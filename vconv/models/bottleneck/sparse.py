"""A code of which most is zero."""

from __future__ import annotations

import torch
from torch import Tensor

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.interface import Bottleneck, Code


class Sparse(Bottleneck):
    """Few channels of a frame are active: by an L1 penalty, or the ``active`` largest only.

    With ``active`` = k, the k-sparse code of Makhzani and Frey 2013, "k-Sparse Autoencoders", algorithm 1: in each
    frame z_q = z on the support of the k largest channels, 0 elsewhere; the gradient passes where z does, and there
    is no loss. Without, z_q = max(z, 0), and the loss is ``penalty`` times the L1 norm. That norm alone could be
    had for nothing, by a small z that the decoder's norms blow up again: it is taken relative to the L2 norm, as in
    Hoyer 2004, "Non-negative Matrix Factorization with Sparseness Constraints", section 3.1, and in
    units in which equal channels give 1: mean |z_q| / sqrt(mean z_q^2).
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__(channels, config)
        self.active, self.penalty = config.active, config.penalty

    def _learn(self, z: Tensor) -> Code:
        z_q = self._encode(z).z_q
        if self.active:
            return Code(z_q, z.new_zeros(()), None)
        relative = z_q.mean() / (z_q.square().mean() + 1e-8).sqrt()
        return Code(z_q, self.penalty * relative, None)

    def _encode(self, z: Tensor) -> Code:
        if not self.active:
            return Code(z.relu(), z.new_zeros(()), None)
        values, places = z.topk(self.active, dim=1)
        return Code(torch.zeros_like(z).scatter(1, places, values), z.new_zeros(()), None)
