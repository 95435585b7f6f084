"""Denoiser of log-mels: removes noise, reverberation and other talkers."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.layers import InstanceNorm, blocks, normalize_mel


class Denoiser(nn.Module):
    """ConvNeXt blocks at half the frame rate predict a correction of a log-mel: [B, N_MELS, T] -> the same, T even.

    ASR features [B, R, T / 2] are an optional second input; zeros and None stand for none. In the log domain the
    correction is a gain for each band and frame. It is 0 dB at first, so that adding a denoiser changes nothing.
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        width = config.denoiser_channels
        self.input = nn.Conv1d(N_MELS, width, 4, stride=2, padding=1)
        self.phonetic_norm = InstanceNorm()
        self.phonetic = nn.Conv1d(config.asr_channels, width, 1, bias=False) if config.asr_channels else None
        self.blocks = blocks(config.denoiser_blocks, width, config.expansion, InstanceNorm)
        self.norm = InstanceNorm()
        self.output = nn.ConvTranspose1d(width, N_MELS, 4, stride=2, padding=1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, mel: Tensor, asr_features: Tensor | None = None) -> Tensor:
        x = self.input(normalize_mel(mel))
        if self.phonetic is not None and asr_features is not None:
            x = x + self.phonetic(self.phonetic_norm(asr_features))
        for block in self.blocks:
            x = block(x)
        return mel + self.output(self.norm(x)).to(mel.dtype)
