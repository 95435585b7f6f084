"""The adversary and the heads that exist in training only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vconv.models.layers import ChannelNorm, ConvNeXtBlock, pool_statistics


class CodeClassifier(nn.Module):
    """Classifies a whole content code: [B, C, T] -> logits [B, K]."""

    def __init__(self, channels: int, outputs: int, width: int = 192) -> None:
        super().__init__()
        self.input = nn.Conv1d(channels, width, 5, padding=2)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 2, ChannelNorm(width)) for _ in range(2))
        self.output = nn.Linear(2 * width, outputs)

    def forward(self, code: Tensor) -> Tensor:
        x = self.input(code)
        for block in self.blocks:
            x = block(x)
        return self.output(pool_statistics(x)).float()


class SpeakerClassifier(CodeClassifier):
    """Classifies the speaker of a content code: [B, C, T], prototypes [S, E] -> logits [B, S].

    The adversary of Chou et al. 2018, section 3.1, with one difference. With a thousand speakers, each is too rare
    for a class of its own. The classifier predicts the speaker embedding, and the logits are its cosines with the
    prototypes of the speaker head, so that similar speakers share what is learned.
    """

    def __init__(self, channels: int, embedding_channels: int, width: int = 192, scale: float = 16.0) -> None:
        super().__init__(channels, embedding_channels, width)
        self.scale = scale

    def forward(self, code: Tensor, prototypes: Tensor) -> Tensor:
        guess = nn.functional.normalize(super().forward(code), dim=1)
        return self.scale * guess @ nn.functional.normalize(prototypes.detach().float(), dim=1).T


class SpeakerHead(nn.Module):
    """Cosine logits of an embedding against a learned prototype of each speaker: [B, E] -> [B, S].

    With ``speaker`` given, the true class's angle is widened by ``margin`` radians
    (Deng et al. 2019, "ArcFace", eq. 3), which pulls the embeddings of one speaker closer together.
    """

    def __init__(self, channels: int, speakers: int, margin: float = 0.2, scale: float = 24.0) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(speakers, channels) * channels**-0.5)
        self.margin, self.scale = margin, scale

    def forward(self, embedding: Tensor, speaker: Tensor | None = None) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = embedding.float() @ nn.functional.normalize(self.prototypes, dim=1).T
            if speaker is not None:
                angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
                own = nn.functional.one_hot(speaker, len(self.prototypes)).bool()
                cosine = torch.where(own, torch.cos((angle + self.margin).clamp(max=torch.pi)), cosine)
        return self.scale * cosine


class PhoneHead(nn.Module):
    """Log-probabilities of phones for CTC: code [B, C, T] -> [B, T, P], blank first."""

    def __init__(self, channels: int, phones: int, width: int = 192) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(channels, width, 5, padding=2), nn.GELU(), nn.Conv1d(width, phones, 1))

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code).float().transpose(1, 2).log_softmax(dim=2)
