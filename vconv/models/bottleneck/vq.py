"""The nearest entries of codebooks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vconv.config import BottleneckConfig
from vconv.models.bottleneck.codebook import Codebook, rotated
from vconv.models.bottleneck.interface import Bottleneck, Code


class VectorQuantizer(Bottleneck):
    """Vector quantization of each of the groups of channels, in one stage or several: G = groups * quantizers.

    z_q = argmin_e ||z - e|| over a codebook's entries e, and the loss is the commitment ||z - sg(z_q)||^2:
    van den Oord et al. 2017, "Neural Discrete Representation Learning", eq. 1 to 3, with the codebooks
    as moving averages (its appendix A.1), k-means initialization and replacement of unused codes;
    product groups as in Jégou et al. 2011. With ``quantizers`` > 1 each further stage quantizes what the ones
    before it have left over, z_q is the sum and every stage has its commitment: Zeghidour et al. 2021, "SoundStream",
    algorithm 1. The gradient passes from z_q to z by rotation rather than straight through
    (Fifty et al. 2024, "Restructuring Vector Quantization with the Rotation Trick", section 4), which keeps
    its angle to the code.

    For a model in use, ``soft_temperature`` s > 0 makes z_q the mean of all entries of the first stage, weighted by
    softmax(-||z - e||^2 / (s m)) with the entries' mean square m: the expected entry, had z come from one of them by
    Gaussian noise. ``residual_mix`` is the fraction of the quantization residual z - z_q added back. The codes stay
    the nearest entries. In training, each item is decoded this way with probability
    ``soft_probability``, with its gradient.
    """

    def __init__(self, channels: int, config: BottleneckConfig) -> None:
        super().__init__(channels, config)
        self.groups = config.groups
        self.soft_temperature, self.residual_mix, self.soft_probability = (
            config.soft_temperature,
            config.residual_mix,
            config.soft_probability,
        )
        self.quantizer = _stage(channels, config)
        self.residual = nn.ModuleList(_stage(channels, config) for _ in range(config.quantizers - 1))

    @property
    def stages(self) -> list[nn.Module]:
        return [self.quantizer, *self.residual]

    @property
    def codebooks(self) -> Tensor:
        """Of the first stage: [G, K, C / G]"""
        return self.quantizer["_codebook"].embed

    def _learn(self, z: Tensor) -> Code:
        rest, z_q, loss, codes = z, torch.zeros_like(z), z.new_zeros(()), []
        for stage in self.stages:
            vectors = self._parts(rest.detach().float()).transpose(0, 1)
            nearest, index = stage["_codebook"](vectors.flatten(1, 2))
            chosen = nearest.view_as(vectors).transpose(0, 1).transpose(2, 3).flatten(1, 2)
            rest, z_q = rest - chosen, z_q + chosen
            loss = loss + rest.square().mean()
            codes.append(index.view(self.groups, len(z), -1).transpose(0, 1))
        learned = rotated(self._parts(z), self._parts(z_q)).transpose(2, 3).flatten(1, 2)
        if self.soft_probability:
            soft = torch.rand(len(z), 1, 1, device=z.device) < self.soft_probability
            learned = torch.where(soft, self._in_use(z, z_q), learned)
        return Code(learned, loss, torch.cat(codes, dim=1))

    def _encode(self, z: Tensor) -> Code:
        """The nearest entries, in plain operations."""
        rest, codes = self._parts(z), []
        for stage in self.stages:
            books = stage["_codebook"].embed
            score = torch.einsum("bgtc,gkc->bgtk", rest, books) - books.square().sum(2)[:, None] / 2
            codes.append(score.argmax(dim=3))
            rest = rest - self._parts(self._look_up(stage, codes[-1]))
        codes = torch.cat(codes, dim=1)
        return Code(self._in_use(z, self.decode(codes)), z.new_zeros(()), codes)

    def _in_use(self, z: Tensor, nearest: Tensor) -> Tensor:
        """What the decoder is given of z in use, [B, C, T], where the entries ``nearest`` are its code."""
        z_q = self._expected(z) if self.soft_temperature else nearest
        return torch.lerp(z_q, z, self.residual_mix) if self.residual_mix else z_q

    def _expected(self, z: Tensor) -> Tensor:
        """The weighted mean of the first stage's entries: [B, C, T]"""
        books = self.codebooks
        if z.requires_grad:
            books = books.clone()  # which training may change before the gradient is taken
        squares = books.square().sum(2)
        score = 2 * torch.einsum("bgtc,gkc->bgtk", self._parts(z), books) - squares[:, None]
        weight = (score / (self.soft_temperature * squares.mean()).clamp(min=1e-8)).softmax(dim=3)
        return torch.einsum("bgtk,gkc->bgtc", weight, books).transpose(2, 3).flatten(1, 2)

    def decode(self, codes: Tensor) -> Tensor:
        """[B, G, T] -> [B, C, T]; the codes of the first stages alone, or -1 for the others, give the coarser code."""
        stages = zip(self.stages, codes.split(self.groups, dim=1))
        first, *others = (self._look_up(stage, part) for stage, part in stages)
        return sum(others, first)

    def _look_up(self, stage: nn.Module, codes: Tensor) -> Tensor:
        """Codes of one stage [B, groups, T] -> [B, C, T]"""
        books = stage["_codebook"].embed
        parts = [nn.functional.embedding(codes[:, g].clamp(min=0), book) for g, book in enumerate(books)]
        return (torch.stack(parts, dim=1) * (codes >= 0)[..., None]).transpose(2, 3).flatten(1, 2)

    def _parts(self, z: Tensor) -> Tensor:
        """[B, C, T] -> [B, groups, T, C / groups]"""
        return z.unflatten(1, (self.groups, -1)).transpose(2, 3)


def _stage(channels: int, config: BottleneckConfig) -> nn.ModuleDict:
    """A codebook for each group, under the name that it has in the weights."""
    size = channels // config.groups
    return nn.ModuleDict(
        {"_codebook": Codebook(config.groups, config.codes, size, config.decay, config.dead_code_threshold)}
    )
