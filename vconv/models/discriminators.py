"""Discriminators: of mel patches for the decoder, of waves for the vocoder, of an encoder's layers for both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from vconv.features import N_MELS
from vconv.models.layers import normalize_mel

Judged = tuple[Tensor, list[Tensor]]  # scores, and the feature maps on the way to them


class _Stack(nn.Module):
    """Weight-normalized 2-D convolutions with leaky ReLU: [B, 1, H, W] -> last feature map, and all of them."""

    def __init__(self, layers: list[tuple[int, int, tuple[int, int], tuple[int, int]]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, k, s, padding=(k[0] // 2, k[1] // 2))) for i, o, k, s in layers
        )

    def forward(self, x: Tensor) -> Judged:
        maps = []
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return x, maps


class MelDiscriminator(nn.Module):
    """Scores patches of a mel, given whose voice it should be: mel [B, N_MELS, T], embedding [B, E] -> [B, H, W].

    The embedding enters by projection (Miyato and Koyama 2018, eq. 3), on each of the H bands by itself: where
    in frequency a formant lies is what a voice is.
    """

    def __init__(self, embedding_channels: int, width: int = 32) -> None:
        super().__init__()
        w = width
        self.stack = _Stack(
            [
                (1, w, (5, 5), (2, 1)),
                (w, 2 * w, (5, 3), (2, 2)),
                (2 * w, 3 * w, (5, 3), (2, 2)),
                (3 * w, 3 * w, (3, 3), (2, 1)),
            ]
        )
        self.output = nn.Conv2d(3 * w, 1, 3, padding=1)
        self.project = nn.Linear(embedding_channels, 3 * w * (N_MELS // 16), bias=False)
        self.gain = embedding_channels**0.5  # unit-length embeddings have entries of about E ** -0.5

    def forward(self, mel: Tensor, embedding: Tensor) -> Judged:
        x, maps = self.stack(normalize_mel(mel).unsqueeze(1))
        voice = self.project(self.gain * embedding).unflatten(1, (x.shape[1], x.shape[2], 1))
        conditional = (x * voice).sum(dim=1) / x.shape[1] ** 0.5
        return self.output(x).squeeze(1) + conditional, maps


class PeriodDiscriminator(nn.Module):
    """A wave folded into rows of one period: [B, N] -> scores (Kong et al. 2020, HiFi-GAN, section 2.3)."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period, w = period, width
        self.stack = _Stack(
            [
                (1, w, (5, 1), (3, 1)),
                (w, 2 * w, (5, 1), (3, 1)),
                (2 * w, 4 * w, (5, 1), (3, 1)),
                (4 * w, 4 * w, (5, 1), (1, 1)),
            ]
        )
        self.output = weight_norm(nn.Conv2d(4 * w, 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> Judged:
        whole = wave.shape[1] // self.period * self.period
        x, maps = self.stack(wave[:, :whole].unflatten(1, (-1, self.period)).unsqueeze(1))
        return self.output(x), maps


class SpectrumDiscriminator(nn.Module):
    """A wave's compressed magnitude spectrum at one resolution: [B, N] -> scores.

    Jang et al. 2021, UnivNet, section 2.3.
    """

    def __init__(self, n_fft: int, width: int) -> None:
        super().__init__()
        self.n_fft, w = n_fft, width
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.stack = _Stack(
            [(1, w, (3, 9), (1, 2)), (w, w, (3, 9), (1, 2)), (w, 2 * w, (3, 9), (1, 2)), (2 * w, 2 * w, (3, 3), (1, 1))]
        )
        self.output = weight_norm(nn.Conv2d(2 * w, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> Judged:
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = torch.stft(
                wave.float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True
            ).abs()
            x = (spectrum + 1e-5).log().transpose(1, 2).unsqueeze(1)
        x, maps = self.stack(x)
        return self.output(x), maps


class WaveDiscriminators(nn.Module):
    """All discriminators of the vocoder: wave [B, N] -> one Judged for each."""

    def __init__(self, periods: tuple[int, ...], n_ffts: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            [*(PeriodDiscriminator(p, width) for p in periods), *(SpectrumDiscriminator(n, width) for n in n_ffts)]
        )

    def forward(self, wave: Tensor) -> list[Judged]:
        return [member(wave) for member in self.members]


class LayerDiscriminators(nn.Module):
    """One for each of some layers of frozen encoders: outputs [B, F, C] -> scores [B, 1, F] of each.

    Sauer et al. 2021, "Projected GANs Converge Faster", section 3; for speech Li et al. 2023, "StyleTTS 2",
    section 3.2.

    Args:
        channels: C of each layer.
    """

    def __init__(self, channels: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv1d(count, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv1d(width, width, 5, padding=2)),
                nn.LeakyReLU(0.2),
                nn.Conv1d(width, 1, 1),
            )
            for count in channels
        )

    def forward(self, outputs: list[Tensor]) -> list[Tensor]:
        normed = (nn.functional.layer_norm(x.float(), x.shape[2:]).transpose(1, 2) for x in outputs)
        return [member(x) for member, x in zip(self.members, normed)]
