"""Signs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.interface import Bottleneck, Code, entropy


class Binary(Bottleneck):
    """In each group log2 K signs, which are the code: G = groups. There is no codebook to look anything up in.

    Yu et al. 2024, "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation", section 3.1: of a
    projection x of z, the signs sign(x) are projected back to z_q, and the code is sum_i 2^i [x_i > 0] (eq. 3 and 4).
    The gradient passes straight through the signs. The loss is the commitment ||x - sign(x)||^2 and ``entropy``
    times E[H(q(x))] - H(E[q(x)]) (eq. 5): each frame decided, all codes in use, where q(x) is the softmax of
    -||x - c||^2 over the sign vectors c. With ``entropy`` 0, it is the plain sign code of Courbariaux et al. 2016.
    vector-quantize-pytorch's LFQ has the same; its mean over several training processes is not one, however.
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__(channels, config)
        self.groups, self.entropy, bits = config.groups, config.entropy, int(math.log2(config.codes))
        projected = channels != bits * config.groups
        self.project_in = nn.Conv1d(channels, bits * config.groups, 1) if projected else nn.Identity()
        self.project_out = nn.Conv1d(bits * config.groups, channels, 1) if projected else nn.Identity()
        place = 2 ** torch.arange(bits)
        self.register_buffer("place", place, persistent=False)  # value of each bit in a code
        signs = (torch.arange(config.codes)[:, None] // place % 2) * 2.0 - 1
        self.register_buffer("signs", signs, persistent=False)  # of each code, [K, log2 K]

    def _learn(self, z: Tensor) -> Code:
        x = self.project_in(z)
        signs = self._signs(x > 0)
        loss = (x - signs).square().mean()
        if self.entropy:
            loss = loss + self.entropy * self._undecided_and_unused(x)
        return Code(self.project_out(x + (signs - x).detach()), loss, self._codes(x > 0))

    def _undecided_and_unused(self, x: Tensor) -> Tensor:
        """E[H(q(x))] - H(E[q(x)]) in nats, mean over groups: at best -log K"""
        parts = x.unflatten(1, (self.groups, -1)).transpose(2, 3)  # [B, G, T, log2 K]
        probability = (2 * parts @ self.signs.T).softmax(dim=3)  # the squared norms are the same for all signs
        return entropy(probability).mean() - entropy(probability.mean(dim=(0, 2))).mean()

    def _encode(self, z: Tensor) -> Code:
        on = self.project_in(z) > 0
        return Code(self.project_out(self._signs(on)), z.new_zeros(()), self._codes(on))

    def decode(self, codes: Tensor) -> Tensor:
        on = codes.unsqueeze(2) // self.place[:, None] % 2  # [B, G, log2 K, T]
        return self.project_out(self._signs(on.flatten(1, 2) > 0))

    def _codes(self, on: Tensor) -> Tensor:
        """[B, G * log2 K, T] -> [B, G, T]"""
        return (on.unflatten(1, (self.groups, -1)).long() * self.place[:, None]).sum(dim=2)

    @staticmethod
    def _signs(on: Tensor) -> Tensor:
        return on.float() * 2 - 1
