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
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE, band_interpolation, mel_filterbank
from vconv.models.layers import ChannelNorm, blocks, normalize_mel
from vconv.stft import OVERLAP, window


def _envelope_matrix(n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """How to read log magnitudes at the STFT's bins off a log-mel: matrix [N_MELS, bins], offset [bins].

    Linear interpolation between band centres; above the mel's 8 kHz the last band goes on, 12 dB an octave lower.
    """
    sums = mel_filterbank().sum(axis=1)
    frequency = np.linspace(0, OUTPUT_RATE / 2, n_fft // 2 + 1)
    tilt = 2.0 * np.log(np.maximum(frequency, SAMPLE_RATE / 2) / (SAMPLE_RATE / 2))
    # In half precision, so that an exported graph can hold it as such.
    matrix = band_interpolation(n_fft).astype(np.float16).astype(np.float32)
    # A band's value is its filter's sum times the magnitude; the constant brings source and noise, whose
    # spectra in this window are about e ** 2, to one.
    return matrix, (-np.log(sums) @ matrix - tilt - 2.0).astype(np.float32)


class Vocoder(nn.Module):
    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.hop = OUTPUT_HOP // config.subframes
        self.n_fft, self.bins = OVERLAP * self.hop, 2 * self.hop + 1
        self.input = nn.Conv1d(N_MELS + 2, width, 7, padding=3)
        self.input_norm = ChannelNorm(width)
        self.blocks = blocks(config.blocks, width, config.expansion, lambda: ChannelNorm(width))
        self.norm = ChannelNorm(width)
        self.head = nn.Linear(width, config.subframes * 3 * self.bins)
        nn.init.normal_(self.head.weight, std=0.002)
        nn.init.zeros_(self.head.bias)
        matrix, offset = _envelope_matrix(self.n_fft)
        self.register_buffer("envelope", torch.from_numpy(matrix), persistent=False)
        self.register_buffer("offset", torch.from_numpy(offset), persistent=False)
        self.register_buffer("window", torch.from_numpy(window(self.n_fft)), persistent=False)

    @property
    def context_frames(self) -> int:
        """Frames on each side that can change a frame of the result."""
        return 3 * (1 + self.config.blocks) + OVERLAP

    def forward(self, mel: Tensor, pitch: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        """mel [B, N_MELS, T], pitch [B, 2, T], pulse train and white noise [B, N] -> wave [B, N], N = T * OUTPUT_HOP.

        pitch is log2 F0 relative to F0_REFERENCE and the voiced flag; noise is uniform in -1 to 1.
        """
        magnitude, phase, gain = self.filters(mel, pitch)
        with torch.autocast(mel.device.type, enabled=False):
            harmonic = self._stft(source.float()) * torch.polar(magnitude, phase)
            return self._istft(harmonic + self._stft(noise.float()) * gain)

    def filters(self, mel: Tensor, pitch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mel [B, N_MELS, T], pitch [B, 2, T] -> magnitude and phase of the pulse train's filter, gain of the noise.

        Each is [B, K, bins], for the K = T * subframes frames of the STFT.
        """
        x = self.input_norm(self.input(torch.cat([normalize_mel(mel), pitch], dim=1)))
        for block in self.blocks:
            x = block(x)
        predicted = self.head(self.norm(x).transpose(1, 2))
        with torch.autocast(mel.device.type, enabled=False):
            prior = (mel.float().transpose(1, 2) @ self.envelope + self.offset).unsqueeze(2)
            harmonic, phase, gain = predicted.float().unflatten(2, (self.config.subframes, 3, -1)).unbind(3)
            magnitude, gain = ((one + prior).clamp(max=4.0).exp().flatten(1, 2) for one in (harmonic, gain))
            return magnitude, phase.flatten(1, 2), gain

    def _stft(self, wave: Tensor) -> Tensor:
        """[B, K * hop] -> complex [B, K, bins], as ``vconv.stft.stft``"""
        spectrum = torch.stft(wave, self.n_fft, self.hop, window=self.window, pad_mode="constant", return_complex=True)
        return spectrum.transpose(1, 2)[:, :-1]

    def _istft(self, spectrum: Tensor) -> Tensor:
        """Complex [B, K, bins] -> [B, K * hop], as ``vconv.stft.istft``"""
        samples = spectrum.shape[1] * self.hop
        return torch.istft(spectrum.transpose(1, 2), self.n_fft, self.hop, window=self.window, length=samples)
