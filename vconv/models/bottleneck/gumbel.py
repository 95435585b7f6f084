"""Codes chosen by chance, so that the choice can be learned by gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.interface import Bottleneck, Code, entropy, progress


class Gumbel(Bottleneck):
    """In each group one of K entries, one-hot by Gumbel-softmax: G = groups.

    Jang et al. 2017, "Categorical Reparameterization with Gumbel-Softmax", eq. 2: with logits l and Gumbel noise n,
    y = softmax((l + n) / tau). Forwards the largest is taken alone, backwards the gradient is y's (its
    section 2.2, straight-through), so that the decoder never sees a mixture of entries. The temperature tau falls
    exponentially over ``warmup`` steps (its section 2.2 as well). Without noise, the code in use is the entry
    with the largest logit. The loss, ``entropy`` times log K - H(mean softmax(l)), keeps all entries in use: the
    diversity loss of Baevski et al. 2020, "wav2vec 2.0", eq. 4, whose quantizer this is.
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__(channels, config)
        self.groups, self.entropy = config.groups, config.entropy
        self.temperatures, self.warmup = config.temperature, config.warmup
        self.logits = nn.Conv1d(channels, config.groups * config.codes, 1)
        nn.init.normal_(self.logits.weight)  # choices as decided as the noise is, from the first step on
        nn.init.zeros_(self.logits.bias)
        self.codebooks = nn.Parameter(torch.randn(config.groups, config.codes, channels // config.groups))
        self.anneal(config.warmup)

    def anneal(self, step: int) -> None:
        first, last = self.temperatures
        self.temperature = first * (last / first) ** progress(step, self.warmup)

    def _learn(self, z: Tensor) -> Code:
        logits = self._logits(z)
        chosen = F.gumbel_softmax(logits, self.temperature, hard=True, dim=3)
        parts = torch.einsum("bgtk,gkc->bgct", chosen, self.codebooks)
        missing = math.log(logits.shape[3]) - entropy(logits.softmax(dim=3).mean(dim=(0, 2)))  # [G]
        return Code(parts.flatten(1, 2), self.entropy * missing.mean(), chosen.argmax(dim=3))

    def _encode(self, z: Tensor) -> Code:
        codes = self._logits(z).argmax(dim=3)
        return Code(self.decode(codes), z.new_zeros(()), codes)

    def decode(self, codes: Tensor) -> Tensor:
        parts = [F.embedding(codes[:, g], book) for g, book in enumerate(self.codebooks)]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def _logits(self, z: Tensor) -> Tensor:
        """[B, C, T] -> [B, G, T, K]"""
        return self.logits(z).unflatten(1, (self.groups, -1)).transpose(2, 3)
