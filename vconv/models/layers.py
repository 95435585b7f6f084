"""Blocks that the networks are made of. B batch, C channels, T frames, E embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vconv.features import LOG_MEL_MIDDLE, LOG_MEL_SPREAD
from vconv.models.norm_statistics import exchanged


class InstanceNorm(nn.Module):
    """Each channel to zero mean and unit variance over time, without affine: [B, C, T] -> [B, C, T].

    What is constant over the utterance goes, and much of the speaker with it (Chou et al. 2019,
    "One-shot Voice Conversion by Separating Speaker and Content Representations", eq. 3 and 4).
    Always in float32: a variance in bfloat16 has two digits. Inside of a ``NormStatistics`` the mean and the variance
    can be those of other speech.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        mean = x.mean(dim=2, keepdim=True)
        mean, variance = exchanged(mean, (x - mean).square().mean(dim=2, keepdim=True))
        return (x - mean) * torch.rsqrt(variance + 1e-5)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each frame: [B, C, T] -> [B, C, T]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class AdaIN(nn.Module):
    """Instance norm, then a scale and a shift predicted from the speaker embedding.

    Huang and Belongie 2017, "Arbitrary Style Transfer in Real-time with Adaptive Instance
    Normalization", eq. 8, with the style statistics predicted from the embedding, as in Chou et al. 2019.
    """

    def __init__(self, channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.norm = InstanceNorm()
        self.affine = nn.Linear(embedding_channels, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor, adapter: Tensor | None = None) -> Tensor:
        """[B, C, T], [B, E] -> [B, C, T]; the first 2C of an adapter [B, S] are added to the scales and shifts."""
        affine = self.affine(embedding)
        if adapter is not None:
            affine = affine + adapter[:, : affine.shape[1]]
        scale, shift = affine.float().unsqueeze(2).chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


class Concatenation(nn.Module):
    """Layer norm, then the speaker embedding beside each frame, projected back to the channels.

    The plain way to condition a decoder, as in Qian et al. 2019, "AutoVC", section 3.3. ``adapter`` is there to take
    AdaIN's place, and ignored.
    """

    def __init__(self, channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.project = nn.Conv1d(channels + embedding_channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, adapter: Tensor | None = None) -> Tensor:
        """[B, C, T], [B, E] -> [B, C, T]"""
        beside = embedding.unsqueeze(2).expand(-1, -1, x.shape[2])
        return self.project(torch.cat([self.norm(x), beside.to(x.dtype)], dim=1))


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, a norm, a pointwise MLP, a learned residual scale: [B, C, T] -> [B, C, T].

    Liu et al. 2022, "A ConvNet for the 2020s", in one dimension. ``norm`` takes what ``forward`` gets
    after ``x``: nothing, or for ``AdaIN`` and ``Concatenation`` the speaker embedding [B, E] and the adapter [B, S].
    What the norm leaves of the adapter are matrices for the MLP.
    """

    def __init__(self, channels: int, expansion: int, norm: nn.Module, kernel: int = 7, scale: float = 0.2) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = norm
        self.expand = nn.Linear(channels, channels * expansion)
        self.project = nn.Linear(channels * expansion, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor, embedding: Tensor | None = None, adapter: Tensor | None = None) -> Tensor:
        condition = () if embedding is None else (embedding, adapter)
        hidden = self.norm(self.depthwise(x), *condition).transpose(1, 2)
        widen, narrow = self._factors(adapter)
        hidden = adapted(self.project, nn.functional.gelu(adapted(self.expand, hidden, widen)), narrow)
        return x + (self.scale * hidden).transpose(1, 2)

    def _factors(self, adapter: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What an adapter [B, 2C + 2R(C + H)] adds to the MLP's two layers, if there is any: each [B, R(C + H)]"""
        rest = None if adapter is None else adapter[:, 2 * len(self.scale) :]
        return (None, None) if rest is None or not rest.shape[1] else rest.chunk(2, dim=1)


def adapted(layer: nn.Linear, x: Tensor, factors: Tensor | None) -> Tensor:
    """A linear layer with a matrix of rank R beside its own: [B, T, I] -> [B, T, O].

    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3. factors [B or 1, R(I + O)] hold, for
    each of the R ranks, a row of the input projection [I] and a column of the output projection [O].
    """
    if factors is None:
        return layer(x)
    sizes = [layer.in_features, layer.out_features]
    down, up = factors.unflatten(1, (-1, sum(sizes))).split(sizes, dim=2)
    return layer(x) + x @ down.transpose(1, 2) @ up


def blocks(count: int, channels: int, expansion: int, norm: Callable[[], nn.Module]) -> nn.ModuleList:
    """``count`` ConvNeXt blocks, each with a norm of its own."""
    return nn.ModuleList(ConvNeXtBlock(channels, expansion, norm()) for _ in range(count))


class GradientReversal(torch.autograd.Function):
    """Identity forwards, minus the gradient backwards (Ganin and Lempitsky 2015, eq. 13)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


def pool_statistics(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean and standard deviation over time: [B, C, T], optional mask [B, 1, T] -> [B, 2C]."""
    x = x.float()
    weight = torch.ones_like(x[:, :1]) if mask is None else mask.float()
    total = weight.sum(dim=2).clamp(min=1)
    mean = (x * weight).sum(dim=2) / total
    variance = ((x - mean.unsqueeze(2)).square() * weight).sum(dim=2) / total
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


def normalize_mel(mel: Tensor) -> Tensor:
    """Log-mel to roughly zero mean and unit variance, by constants that hold for any speech."""
    return (mel - LOG_MEL_MIDDLE) / LOG_MEL_SPREAD


def denormalize_mel(mel: Tensor) -> Tensor:
    return mel * LOG_MEL_SPREAD + LOG_MEL_MIDDLE
