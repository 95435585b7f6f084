"""Statistics of instance norms as inputs and outputs of a network, for live conversion."""

from __future__ import annotations

from contextvars import ContextVar, Token

import torch
from torch import Tensor

_active: ContextVar[NormStatistics | None] = ContextVar("norm_statistics", default=None)


class NormStatistics:
    """Inside of this context, instance norms use given statistics and report their own.

    B batch, S channels of all norms together, in the order in which they run.

    Args:
        given: mean and variance of each channel, [B, 2, S]; None leaves every norm its own.
        share: how much of the given ones to use, [B]: 0 is plain instance norm, 1 is frozen statistics.
    """

    def __init__(self, given: Tensor | None = None, share: Tensor | None = None) -> None:
        self._given, self._share = given, share
        self._own: list[Tensor] = []
        self._used = 0

    @property
    def reported(self) -> list[Tensor]:
        """Mean and variance of what went through the norms, [B, 2, S]; nothing where there were none."""
        return [torch.cat(self._own, dim=2)] if self._own else []

    def exchange(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The next norm's own statistics, each [B, C, 1] -> those that it is to use."""
        own = torch.cat([mean, variance], dim=2).transpose(1, 2)
        self._own.append(own)
        if self._given is None or self._share is None:
            return mean, variance
        start, self._used = self._used, self._used + own.shape[2]
        used = own + self._share[:, None, None] * (self._given[:, :, start : self._used] - own)
        mean, variance = used.transpose(1, 2).split(1, dim=2)
        return mean, variance

    def __enter__(self) -> NormStatistics:
        self._token: Token[NormStatistics | None] = _active.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _active.reset(self._token)


def moments(statistics: Tensor) -> Tensor:
    """Mean and variance [..., 2, S] -> mean and mean square, which average."""
    mean, variance = statistics.unbind(-2)
    return torch.stack([mean, variance + mean**2], dim=-2)


def mixed(one: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Statistics of two mixed: [B, 2, S], with a ``share`` [B] of ``other`` [B, 2, S] and the rest of ``one``.

    ``one`` may be [2, S], the same for all.
    """
    return from_moments(torch.lerp(moments(one).expand_as(other), moments(other), share[:, None, None]))


def from_moments(values: Tensor) -> Tensor:
    """What ``moments`` was given."""
    mean, power = values.unbind(-2)
    return torch.stack([mean, (power - mean**2).clamp(min=0)], dim=-2)


def exchanged(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The statistics that an instance norm is to use, given its own, each [B, C, 1]."""
    active = _active.get()
    return (mean, variance) if active is None else active.exchange(mean, variance)
