"""What is behind the voice, taken out of the mel: noise, a room, other people."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.layers import InstanceNorm, blocks, normalize_mel


class Denoiser(nn.Module):
    """ConvNeXt blocks at half the frame rate say what to add to a log-mel: [B, N_MELS, T] -> [B, N_MELS, T], T even.

    An ASR encoder's features [B, R, T / 2] tell what is said, and with it what is not; zeros, or None, stand for none.
    In the logarithm what is added is a gain for each band and frame. At first it is 0 dB: a model that gets a denoiser
    is what it was.
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
