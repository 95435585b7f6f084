"""Speaker encoders: one unit-length embedding, of a log-mel or of a pretrained speaker embedding."""

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


class SpeakerProjection(nn.Module):
    """Projects a pretrained speaker embedding [B, V] to the decoder's space: [B, E] of unit length.

    Linear: the pretrained encoder has seen thousands of speakers and a corpus has hundreds, too few to learn more.
    After Jia et al. 2018, "Transfer Learning from Speaker Verification to Multispeaker Text-To-Speech Synthesis",
    section 2.1.
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.speaker_embedding_channels, config.embedding_channels)

    def forward(self, speaker_embedding: Tensor) -> Tensor:
        return nn.functional.normalize(self.projection(speaker_embedding).float(), dim=1)
