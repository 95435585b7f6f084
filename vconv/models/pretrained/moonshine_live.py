"""The encoder of Moonshine for a stream: each frame attends to those before it, and to a few after it.

Frames come in blocks. Within a block, and from it to all before, attention is as in ``Moonshine``; a few frames after
it, the lookahead, are encoded with it and once more with their own block (Shi et al. 2021, "Emformer", section 2.2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vconv.models.pretrained.moonshine import EPSILON, Moonshine, turns

PAST_FRAMES = 96  # of its own before a block, 2.3 s, that each layer attends to


class Blocks(NamedTuple):
    """Frames in the order in which a training encodes them: all, then the lookahead of each block again."""

    place: Tensor  # [K] of each among all frames
    ahead: Tensor  # [K] whether it is there as lookahead
    visible: Tensor  # [K, K] whether the first attends to the second


def in_blocks(frames: int, block: int, ahead: int, device: torch.device | None = None) -> Blocks:
    """So many frames in blocks of ``block``, each with a lookahead of ``ahead``, fewer at the end."""
    place = torch.arange(frames, device=device)
    number = torch.arange(-(-frames // block), device=device)
    after = (number[:, None] + 1) * block + torch.arange(ahead, device=device)
    known = after < frames
    own = torch.cat([place // block, number[:, None].expand_as(after)[known]])
    place, is_ahead = torch.cat([place, after[known]]), torch.arange(len(own), device=device) >= frames
    first = own * block - PAST_FRAMES  # that each attends to
    before = ~is_ahead & (own <= own[:, None]) & (place >= first[:, None])
    return Blocks(place, is_ahead, before | (is_ahead & (own == own[:, None])))


class LiveMoonshine(Moonshine):
    """As ``Moonshine``, for blocks. ``level`` [2] is where the statistics of its first norm begin: mean and variance.

    That norm is over a whole wave in ``Moonshine``; a stream has running statistics of it instead.
    """

    def __init__(self, channels: int, hidden: int, layers: int, stride: float, centre: float) -> None:
        super().__init__(channels, hidden, layers, stride, centre)
        self.register_buffer("level", torch.tensor([0.0, 1.0]))

    @classmethod
    def of(cls, whole: Moonshine) -> LiveMoonshine:
        """With the weights of one that attends to all of a wave."""
        hidden, channels = whole.layers[0].wide.weight.shape
        found = cls(channels, hidden, len(whole.layers), whole.stride, whole.centre)
        found.load_state_dict(whole.state_dict() | {"level": found.level})
        return found

    def levels(self, wave: Tensor) -> Tensor:
        """Mean and variance of the first convolution's output over each wave [B, N]: [B, 2]"""
        with torch.autocast(wave.device.type, enabled=False):  # a wave is more than eight bits
            x = self.first(wave.float().unsqueeze(1)).tanh()
        return torch.stack([x.mean(dim=(1, 2)), x.var(dim=(1, 2), correction=0)], dim=1)

    def convolved(self, wave: Tensor, level: Tensor) -> Tensor:
        """What the layers take of a wave [B, N] with statistics [B, 2]: [B, F, C]"""
        with torch.autocast(wave.device.type, enabled=False):
            mean, variance = level[:, :, None, None].unbind(1)
            x = (self.first(wave.float().unsqueeze(1)).tanh() - mean) * (variance + EPSILON).rsqrt()
            x = x * self.norm.weight[:, None] + self.norm.bias[:, None]
        return self.reduced(x)

    def encoded(self, wave: Tensor, level: Tensor, block: int, ahead: int, mirrored: int = 0) -> tuple[Tensor, Blocks]:
        """All blocks of a wave at once, as one after another would give them: [B, K, C], and which frames they are.

        ``mirrored``: samples at the end of each lookahead that are not known yet; those before them, mirrored in time,
        are in their place.
        """
        x = self.convolved(wave, level)
        frames = x.shape[1]
        blocks = in_blocks(frames, block, ahead, x.device)
        x, turn = x[:, blocks.place], turns(frames, x.device)[blocks.place]
        if ahead and mirrored and (whole := (frames - ahead) // block):  # blocks all of whose lookahead is there
            ends = self._mirrored_ends(wave, level, block, ahead, mirrored, whole)
            again = x[:, frames : frames + whole * ahead].unflatten(1, (whole, ahead))
            again = torch.cat([again[:, :, : ahead - ends.shape[2]], ends], dim=2).flatten(1, 2)
            x = torch.cat([x[:, :frames], again, x[:, frames + whole * ahead :]], dim=1)
        for layer in self.layers:
            x = layer(x, turn, blocks.visible)
        return self.last(x), blocks

    def _mirrored_ends(self, wave: Tensor, level: Tensor, block: int, ahead: int, mirrored: int, blocks: int) -> Tensor:
        """Convolved last frames, two at most, of the lookahead of the first ``blocks`` blocks: [B, blocks, 2, C]"""
        stride, count = int(self.stride), min(ahead, 2)
        length = (count - 1) * stride + int(2 * self.centre + 1)
        more = max(2 * mirrored - length, 0)  # samples before a piece, so that there are enough to mirror
        first = (block + ahead - count) * stride - more
        pieces = wave[:, first:].unfold(1, more + length, block * stride)[:, :blocks]
        known = pieces[:, :, : pieces.shape[2] - mirrored]
        pieces = torch.cat([known, known[:, :, known.shape[2] - mirrored :].flip(2)], dim=2)[:, :, more:]
        found = self.convolved(pieces.flatten(0, 1), level.repeat_interleave(blocks, dim=0))
        return found.unflatten(0, (len(wave), blocks))

    def step(
        self, wave: Tensor, level: Tensor, known: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next frames of a stream, those of a block and of its lookahead.

        Args:
            wave: [1, N], from which the frames are made.
            level: [1, 2], the running statistics.
            known: [] how many frames there were before, at most ``PAST_FRAMES``.
            keys, values: [L, PAST_FRAMES, C] of each layer, of the frames before, the latest last.

        Returns:
            Features [1, F, C], keys and values [L, F, C] of these frames, and the wave's own statistics [1, 2].
        """
        x, new = self.convolved(wave, level), []
        turn = turns(PAST_FRAMES + x.shape[1], x.device)
        place = torch.arange(PAST_FRAMES + x.shape[1], device=x.device)
        visible = (place >= PAST_FRAMES - known).expand(x.shape[1], -1)
        for layer, key, value in zip(self.layers, keys, values):
            normed = layer.before(x)
            own = layer.key(normed), layer.value(normed)
            new.append(own)
            key, value = (torch.cat([old[None], one], dim=1) for old, one in zip((key, value), own))
            x = layer.attending(x, normed, key, value, turn, visible)
        keys, values = (torch.cat(own) for own in zip(*new))
        return self.last(x), keys, values, self.levels(wave)
