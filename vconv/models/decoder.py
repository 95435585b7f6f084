"""Content, melody and speaker put together again: log-mel in the target's voice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.harmonics import HarmonicTemplate
from vconv.models.layers import AdaIN, blocks, denormalize_mel


class Decoder(nn.Module):
    """ConvNeXt blocks with AdaIN, first at the code's rate, then at the frame rate.

    content [B, C, T / 2], pitch [B, 2, T] (log2 F0 relative to F0_REFERENCE, voiced flag),
    embedding [B, E] of unit length -> mel [B, N_MELS, T].
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        width, embedding = config.decoder_channels, config.embedding_channels
        coarse, fine = config.decoder_blocks
        norm = lambda: AdaIN(width, embedding)  # noqa: E731
        self.input = nn.Conv1d(config.content_channels, width, 3, padding=1)
        self.coarse = blocks(coarse, width, config.expansion, norm)
        self.harmonics = HarmonicTemplate()
        self.pitch = nn.Sequential(nn.Conv1d(2 + N_MELS, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, width, 1))
        self.upsample = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.fine = blocks(fine, width, config.expansion, norm)
        self.norm = AdaIN(width, embedding)
        self.output = nn.Conv1d(width, 2 * N_MELS, 3, padding=1)  # envelope, and how deep the harmonics ripple it
        # Unit-length embeddings have entries of about E ** -0.5: bring them to about one.
        self.gain = embedding**0.5

    def forward(self, content: Tensor, pitch: Tensor, embedding: Tensor) -> Tensor:
        embedding = embedding * self.gain
        x = self.input(content)
        for block in self.coarse:
            x = block(x, embedding)
        ripple = self.harmonics(pitch)
        x = self._double_rate(x) + self.pitch(torch.cat([pitch, ripple], dim=1))
        for block in self.fine:
            x = block(x, embedding)
        envelope, depth = self.output(self.norm(x, embedding)).float().chunk(2, dim=1)
        return denormalize_mel(envelope + depth * ripple)

    def _double_rate(self, x: Tensor) -> Tensor:
        """Two frames from each, as two halves of the channels: [B, C, T / 2] -> [B, C, T]."""
        even, odd = self.upsample(x).chunk(2, dim=1)
        return torch.stack([even, odd], dim=3).flatten(2)
