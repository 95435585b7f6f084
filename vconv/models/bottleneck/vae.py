"""A code that is a distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.interface import Bottleneck, Code, progress

LOG_VARIANCE_RANGE = (-12.0, 6.0)  # outside, exp() and its gradient are of no use


class Vae(Bottleneck):
    """A normal distribution in each frame, drawn from in training; its mean is the code in use.

    Kingma and Welling 2014, "Auto-Encoding Variational Bayes": z_q = mu + sigma * epsilon with epsilon from N(0, I)
    (section 2.4), and the divergence from N(0, I) in closed form (appendix B),
    KL = 1/2 sum_C (mu^2 + sigma^2 - log sigma^2 - 1), in nats a frame. The loss is its mean over frames
    times ``beta`` (Higgins et al. 2017, "beta-VAE"), which rises from 0 over the first ``warmup`` steps, so
    that the decoder learns to use the code before it costs anything (Bowman et al. 2016, section 3.1).
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__(channels, config)
        self.statistics = nn.Conv1d(channels, 2 * channels, 1)
        self.beta, self.warmup = config.beta, config.warmup
        self.anneal(config.warmup)

    def anneal(self, step: int) -> None:
        self.weight = self.beta * progress(step, self.warmup)

    def divergence(self, z: Tensor) -> Tensor:
        """[B, C, T] -> KL to N(0, I) of each frame in nats, [B, T]"""
        mean, log_variance = self._distribution(z)
        return (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1) / 2

    def _distribution(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each [B, C, T]"""
        mean, log_variance = self.statistics(z).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def _learn(self, z: Tensor) -> Code:
        mean, log_variance = self._distribution(z)
        z_q = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return Code(z_q, self.weight * self.divergence(z).mean(), None)

    def _encode(self, z: Tensor) -> Code:
        return Code(self._distribution(z)[0], z.new_zeros(()), None)
