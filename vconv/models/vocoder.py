"""Vocoder: a harmonic source and noise, filtered in the STFT domain by filters predicted from the mel.

The backbone is ConvNeXt on mel frames and the head an inverse STFT, as in Vocos (Siuzdak 2023). The
head filters a pulse train at the given F0 and white noise, as in neural source-filter vocoders (Wang et al. 2019).
Pitch is exact from the first step; only the filter is learned.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vconv.config import VocoderConfig
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE, mel_filterbank
from vconv.models.layers import ChannelNorm, blocks, normalize_mel

OVERLAP = 4  # hops to a window: Hann squared then adds up to a constant


class Stft(nn.Module):
    """STFT and its inverse with Hann windows of four hops, as matrix products: exports to ONNX as it is.

    Frame k is centred on sample k * hop. Always in float32.
    """

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop, self.n_fft = hop, OVERLAP * hop
        self.bins = self.n_fft // 2 + 1
        time, frequency = np.arange(self.n_fft)[:, None], np.arange(self.bins)[None]
        angle = 2 * np.pi * (time * frequency % self.n_fft) / self.n_fft
        window = 0.5 - 0.5 * np.cos(2 * np.pi * time / self.n_fft)
        basis = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1) * window
        # The inverse real DFT counts every bin twice but the first and the last.
        weight = np.full(self.bins, 2.0 / self.n_fft)
        weight[[0, -1]] = 1.0 / self.n_fft
        # Rounded to half precision (an error of -70 dB), which an exported graph can store as such.
        basis = torch.tensor(basis.astype(np.float16), dtype=torch.float32)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("weight", torch.tensor(np.tile(weight, 2), dtype=torch.float32), persistent=False)
        power = torch.tensor(window[:, 0] ** 2, dtype=torch.float32).view(1, 1, OVERLAP, hop)
        self.register_buffer("power", power, persistent=False)

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K * hop] -> real and imaginary part, each [B, K, bins]"""
        pad = self.n_fft // 2
        rows = nn.functional.pad(wave, (pad, pad - self.hop)).unflatten(1, (-1, self.hop))
        count = rows.shape[1] - OVERLAP + 1
        frames = torch.cat([rows[:, i : i + count] for i in range(OVERLAP)], dim=2)
        return (frames @ self.basis).split(self.bins, dim=2)

    def inverse(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Real and imaginary part, each [B, K, bins] -> [B, K * hop]"""
        frames = (torch.cat([real, imaginary], dim=2) * self.weight) @ self.basis.T
        frames = frames.unflatten(2, (OVERLAP, self.hop))
        envelope = self._overlap_add(self.power.expand(1, frames.shape[1], OVERLAP, self.hop))
        wave = self._overlap_add(frames) / envelope.clamp(min=1e-3)
        pad = self.n_fft // 2
        return wave[:, pad : wave.shape[1] - (pad - self.hop)]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """[B, K, OVERLAP, hop] -> [B, (K + OVERLAP - 1) * hop]"""
        shifted = [nn.functional.pad(frames[:, :, i], (0, 0, i, OVERLAP - 1 - i)) for i in range(OVERLAP)]
        return sum(shifted[1:], shifted[0]).flatten(1)


def _envelope_matrix(n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """How to read log magnitudes at the STFT's bins off a log-mel: matrix [N_MELS, bins], offset [bins].

    Linear interpolation between band centres; above the mel's 8 kHz the last band goes on, 12 dB an octave lower.
    """
    filters = mel_filterbank()
    sums = filters.sum(axis=1)
    centres = filters @ np.linspace(0, SAMPLE_RATE / 2, filters.shape[1]) / sums
    frequency = np.linspace(0, OUTPUT_RATE / 2, n_fft // 2 + 1)
    place = np.interp(frequency, centres, np.arange(N_MELS))
    low = np.minimum(place.astype(int), N_MELS - 2)
    matrix = np.zeros((N_MELS, len(frequency)), np.float32)
    matrix[low, np.arange(len(frequency))] = 1 - (place - low)
    matrix[low + 1, np.arange(len(frequency))] = place - low
    tilt = 2.0 * np.log(np.maximum(frequency, SAMPLE_RATE / 2) / (SAMPLE_RATE / 2))
    # A band's value is its filter's sum times the magnitude; the constant brings source and noise, whose
    # spectra in this window are about e ** 2, to one.
    matrix = matrix.astype(np.float16).astype(np.float32)  # so that an exported graph can hold it as such
    return matrix, (-np.log(sums) @ matrix - tilt - 2.0).astype(np.float32)


class Vocoder(nn.Module):
    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.stft = Stft(OUTPUT_HOP // config.subframes)
        self.input = nn.Conv1d(N_MELS + 2, width, 7, padding=3)
        self.input_norm = ChannelNorm(width)
        self.blocks = blocks(config.blocks, width, config.expansion, lambda: ChannelNorm(width))
        self.norm = ChannelNorm(width)
        self.head = nn.Linear(width, config.subframes * 3 * self.stft.bins)
        nn.init.normal_(self.head.weight, std=0.002)
        nn.init.zeros_(self.head.bias)
        matrix, offset = _envelope_matrix(self.stft.n_fft)
        self.register_buffer("envelope", torch.from_numpy(matrix), persistent=False)
        self.register_buffer("offset", torch.from_numpy(offset), persistent=False)

    @property
    def context_frames(self) -> int:
        """Frames on each side that can change a frame of the result."""
        return 3 * (1 + self.config.blocks) + OVERLAP

    def forward(self, mel: Tensor, pitch: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        """mel [B, N_MELS, T], pitch [B, 2, T], pulse train and white noise [B, N] -> wave [B, N], N = T * OUTPUT_HOP.

        pitch is log2 F0 relative to F0_REFERENCE and the voiced flag; noise is uniform in -1 to 1.
        """
        x = self.input_norm(self.input(torch.cat([normalize_mel(mel), pitch], dim=1)))
        for block in self.blocks:
            x = block(x)
        filters = self.head(self.norm(x).transpose(1, 2))
        with torch.autocast(mel.device.type, enabled=False):
            return self._synthesize(filters.float(), mel.float(), source.float(), noise.float())

    def _synthesize(self, filters: Tensor, mel: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        """Filter source and noise: filters [B, T, subframes * 3 * bins] -> [B, N]"""
        count = self.config.subframes
        prior = mel.transpose(1, 2) @ self.envelope + self.offset
        harmonic, phase, breath = filters.unflatten(2, (count, 3, -1)).unbind(3)  # each [B, T, count, bins]
        harmonic = (harmonic + prior.unsqueeze(2)).clamp(max=4.0).exp().flatten(1, 2)
        breath = (breath + prior.unsqueeze(2)).clamp(max=4.0).exp().flatten(1, 2)
        phase = phase.flatten(1, 2)
        real, imaginary = self.stft(source)
        noise_real, noise_imaginary = self.stft(noise)
        cosine, sine = harmonic * phase.cos(), harmonic * phase.sin()
        return self.stft.inverse(
            real * cosine - imaginary * sine + noise_real * breath,
            real * sine + imaginary * cosine + noise_imaginary * breath,
        )
