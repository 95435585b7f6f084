"""Decoder: content, pitch and speaker to a log-mel in the target's voice."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.attention import ReferenceAttention
from vconv.models.harmonics import HarmonicTemplate
from vconv.models.layers import AdaIN, Concatenation, blocks, denormalize_mel


class Decoder(nn.Module):
    """ConvNeXt blocks with AdaIN (or ``Concatenation``), first at the code's rate, then at the frame rate.

    content [B, C, T / 2], pitch [B, 2, T] (log2 F0 relative to F0_REFERENCE, voiced flag),
    embedding [B, E] of unit length, reference content [B, C, K] and mel [B, N_MELS, 2K] of the target,
    and for a fine-tuned voice its adapter [B, *config.adapter_shape] -> mel [B, N_MELS, T].
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        width, embedding = config.decoder_channels, config.embedding_channels
        coarse, fine = config.decoder_blocks
        conditioned = AdaIN if config.conditioning == "adain" else Concatenation
        norm = lambda: conditioned(width, embedding)  # noqa: E731
        self.input = nn.Conv1d(config.content_channels, width, 3, padding=1)
        if config.attention_channels:
            self.attention = ReferenceAttention(config)
            self.early = _zero(nn.Conv1d(config.attention_channels, width, 1))
            # Once more behind the last norm, which takes away what is constant: the target's average spectrum.
            self.late = _zero(nn.Conv1d(config.attention_channels, width, 1))
        else:
            self.attention = None
        self.coarse = blocks(coarse, width, config.expansion, norm)
        self.harmonics = HarmonicTemplate()
        self.pitch = nn.Sequential(nn.Conv1d(2 + N_MELS, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, width, 1))
        self.upsample = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.fine = blocks(fine, width, config.expansion, norm)
        self.norm = norm()
        self.output = nn.Conv1d(width, 2 * N_MELS, 3, padding=1)  # envelope, and how deep the harmonics ripple it
        self.has_adapter = config.adapter_shape[0] > 0
        # Unit-length embeddings have entries of about E ** -0.5: bring them to about one.
        self.gain = embedding**0.5

    def forward(
        self,
        content: Tensor,
        pitch: Tensor,
        embedding: Tensor,
        reference_content: Tensor,
        reference_mel: Tensor,
        adapter: Tensor | None = None,
    ) -> Tensor:
        embedding = embedding * self.gain
        # One for each AdaIN, in turn.
        adapters = iter(adapter.unbind(1)) if self.has_adapter and adapter is not None else itertools.repeat(None)
        x, late = self.input(content), 0.0
        if self.attention is not None:
            attended = self.attention(content, reference_content, reference_mel)
            x = x + self.early(attended)
            late = self.late(attended).repeat_interleave(2, dim=2)
        for block in self.coarse:
            x = block(x, embedding, next(adapters))
        ripple = self.harmonics(pitch)
        x = self._double_rate(x) + self.pitch(torch.cat([pitch, ripple], dim=1))
        for block in self.fine:
            x = block(x, embedding, next(adapters))
        envelope, depth = self.output(self.norm(x, embedding, next(adapters)) + late).float().chunk(2, dim=1)
        return denormalize_mel(envelope + depth * ripple)

    def _double_rate(self, x: Tensor) -> Tensor:
        """Two frames from each, as two halves of the channels: [B, C, T / 2] -> [B, C, T]."""
        even, odd = self.upsample(x).chunk(2, dim=1)
        return torch.stack([even, odd], dim=3).flatten(2)


def _zero(layer: nn.Conv1d) -> nn.Conv1d:
    """The layer with weights of zero: what it adds begins at nothing and grows as it proves useful."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
