"""Who says it: log-mel to one unit-length embedding."""

from __future__ import annotations

from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.layers import ChannelNorm, blocks, normalize_mel, pool_statistics


class SpeakerEncoder(nn.Module):
    """ConvNeXt blocks at half the frame rate, statistics pooling, projection: mel [B, N_MELS, T] -> [B, E].

    No instance norm here: the constant part of the spectrum is the speaker.
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        width = config.channels
        self.input = nn.Conv1d(N_MELS, width, 4, stride=2, padding=1)
        self.norm = ChannelNorm(width)
        self.blocks = blocks(config.speaker_blocks, width, config.expansion, lambda: ChannelNorm(width))
        self.output = nn.Linear(2 * width, config.embedding_channels)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm(self.input(normalize_mel(mel)))
        for block in self.blocks:
            x = block(x)
        return nn.functional.normalize(self.output(pool_statistics(x)).float(), dim=1)
