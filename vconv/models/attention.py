"""Attention from the content of the source to reference speech of the target."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.config import ConversionConfig
from vconv.features import N_MELS
from vconv.models.layers import normalize_mel


class ReferenceAttention(nn.Module):
    """Features of the target's speech with similar content: [B, C, T / 2] -> [B, A, T / 2].

    Queries come from the content of the source, keys from the content of the reference, values from the
    reference's mel: a soft form of nearest neighbours in content space (Baas et al. 2023, kNN-VC), learned
    like the extractor of Lin et al. 2021, "FragmentVC", section 2.3. Cosine attention: no order, any length.

    content [B, C, T / 2], reference content [B, C, K], reference mel [B, N_MELS, 2K]. A content of
    zeros and a mel of LOG_MEL_MIDDLE stand for no reference, where there is only an embedding of the target.
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        channels, self.heads = config.attention_channels, config.attention_heads
        self.query = nn.Conv1d(config.content_channels, channels, 3, padding=1)
        self.key = nn.Conv1d(config.content_channels, channels, 3, padding=1)
        self.value = nn.Conv1d(N_MELS, channels, 4, stride=2, padding=1)
        # Like attends to like from the first step on: queries and keys begin as the same projection.
        self.key.load_state_dict(self.query.state_dict())
        self.sharpness = nn.Parameter(torch.full((self.heads, 1, 1), 8.0))

    def forward(self, content: Tensor, reference: Tensor, mel: Tensor) -> Tensor:
        query, key = self._unit(self.query(content)), self._unit(self.key(reference))
        weights = torch.softmax(self.sharpness * (query.transpose(2, 3) @ key), dim=3)  # [B, H, T / 2, K]
        value = self.value(normalize_mel(mel)).float().unflatten(1, (self.heads, -1))
        return (value @ weights.transpose(2, 3)).flatten(1, 2)

    def _unit(self, x: Tensor) -> Tensor:
        """Heads of unit length, in float32: [B, A, T] -> [B, H, A / H, T]"""
        return F.normalize(x.float().unflatten(1, (self.heads, -1)), dim=2)
