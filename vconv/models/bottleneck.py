"""What the content code must pass through: one interface, several kinds.

``forward(z [B, C, T]) -> Bottleneck.Output`` with the code ``z_q`` [B, C, T], the loss (a scalar) and the
indices [B, G, T], or None where a kind has none. ``encode`` is the same without any training side effect.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vconv.config import BottleneckConfig


class Code(NamedTuple):
    z_q: Tensor  # [B, C, T]
    loss: Tensor  # scalar
    codes: Tensor | None  # [B, G, T], int64


class Identity(nn.Module):
    """No bottleneck at all: a plain auto-encoder, to compare with."""

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__()

    def forward(self, z: Tensor) -> Code:
        return Code(z, z.new_zeros(()), None)

    encode = forward


class ProductVQ(nn.Module):
    """Vector quantization of each of G groups of channels by a codebook of its own.

    van den Oord et al. 2017, "Neural Discrete Representation Learning", eq. 1 to 3, with the codebooks
    as moving averages (its appendix A.1), k-means initialization and replacement of unused codes;
    product groups as in Jégou et al. 2011. The gradient passes by rotation rather than straight through
    (Fifty et al. 2024, "Restructuring Vector Quantization with the Rotation Trick", section 4), which keeps
    its angle to the code. The training side is vector-quantize-pytorch's.
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.groups = config.groups
        self.quantizer = VectorQuantize(
            dim=channels,
            codebook_dim=channels // config.groups,
            heads=config.groups,
            separate_codebook_per_head=True,
            codebook_size=config.codes,
            decay=config.decay,
            kmeans_init=True,
            kmeans_iters=5,
            threshold_ema_dead_code=config.dead_code_threshold,
            commitment_weight=1.0,
            rotation_trick=True,
        )
        self.quantizer.project_in, self.quantizer.project_out = nn.Identity(), nn.Identity()

    @property
    def codebooks(self) -> Tensor:
        """[G, K, C / G]"""
        return self.quantizer._codebook.embed

    def forward(self, z: Tensor) -> Code:
        with torch.autocast(z.device.type, enabled=False):
            z_q, codes, loss = self.quantizer(z.float().transpose(1, 2))
        codes = codes.reshape(len(z), z.shape[2], self.groups)  # the library drops the axis of a single group
        return Code(z_q.transpose(1, 2), loss.sum(), codes.transpose(1, 2))

    def encode(self, z: Tensor) -> Code:
        """Nearest codes, in plain operations that export to ONNX."""
        parts = z.float().unflatten(1, (self.groups, -1)).transpose(2, 3)  # [B, G, T, C / G]
        books = self.codebooks
        score = torch.einsum("bgtc,gkc->bgtk", parts, books) - books.square().sum(2)[:, None] / 2
        codes = score.argmax(dim=3)
        return Code(self.decode(codes), z.new_zeros(()), codes)

    def decode(self, codes: Tensor) -> Tensor:
        """[B, G, T] -> [B, C, T]"""
        parts = [nn.functional.embedding(codes[:, g], book) for g, book in enumerate(self.codebooks)]
        return torch.cat(parts, dim=2).transpose(1, 2)


KINDS = {"identity": Identity, "vq": ProductVQ}


def make_bottleneck(channels: int, config: BottleneckConfig) -> nn.Module:
    return KINDS[config.kind](channels, config)
