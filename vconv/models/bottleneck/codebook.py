"""Codebooks as moving averages of the vectors that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

KMEANS_STEPS = 5
SMOOTHING = 1e-5


class Codebook(nn.Module):
    """K entries of C channels for each of G groups: van den Oord et al. 2017, appendix A.1.

    The entries begin as k-means of the first batch. One whose average count a batch falls below
    ``dead_code_threshold`` is replaced by a vector of the batch. Several training processes average over all of their
    batches, and begin and replace entries alike.
    """

    def __init__(self, groups: int, codes: int, channels: int, decay: float, dead_code_threshold: float) -> None:
        super().__init__()
        self.decay, self.dead_code_threshold = decay, dead_code_threshold
        self.register_buffer("initted", torch.tensor(False))
        self.register_buffer("cluster_size", torch.ones(groups, codes))
        self.register_buffer("embed_avg", torch.zeros(groups, codes, channels))
        self.register_buffer("embed", torch.zeros(groups, codes, channels))

    @torch.no_grad()
    @torch.autocast("cuda", enabled=False)  # averages need all their digits
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [G, N, C] -> the nearest entries [G, N, C] and their numbers [G, N]; then it learns from them."""
        if not self.initted:
            self._begin(x)
        codes = torch.cdist(x, self.embed).argmin(dim=2)
        nearest = self.embed.gather(1, codes[..., None].expand_as(x))
        counts, sums = self._totals(x, codes)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        self._set_entries()
        self._replace_dead(x)
        return nearest, codes

    def _begin(self, x: Tensor) -> None:
        means = _sample(x, self.embed.shape[1])
        for _ in range(KMEANS_STEPS):
            counts, sums = self._totals(x, torch.cdist(x, means).argmin(dim=2))
            means = torch.where(counts[..., None] > 0, sums / counts[..., None].clamp(min=1), means)
        self.cluster_size.copy_(counts)
        self.embed_avg.copy_(means * counts[..., None])
        self._set_entries()
        self.initted.fill_(True)

    def _totals(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors each entry is nearest to [G, K], and their sums [G, K, C], over all processes."""
        hot = F.one_hot(codes, self.embed.shape[1]).to(x.dtype)
        counts, sums = hot.sum(dim=1), torch.einsum("gnc,gnk->gkc", x, hot).contiguous()
        if _are_several():
            distributed.all_reduce(counts)
            distributed.all_reduce(sums)
        return counts, sums

    def _set_entries(self) -> None:
        total = self.cluster_size.sum(dim=1, keepdim=True)
        smoothed = total * (self.cluster_size + SMOOTHING) / (total + self.embed.shape[1] * SMOOTHING)
        self.embed.copy_(self.embed_avg / smoothed[..., None])

    def _replace_dead(self, x: Tensor) -> None:
        for group, dead in enumerate(self.cluster_size < self.dead_code_threshold):
            places = dead.nonzero()[:, 0]
            if not _are_several():  # fewer vectors than that would be drawn twice; the other entries wait
                places = places[: x.shape[1]]
            if len(places):
                drawn = _sample(x[group : group + 1], len(places))[0]
                self.embed[group, places] = drawn
                self.embed_avg[group, places] = drawn * self.dead_code_threshold
                self.cluster_size[group, places] = self.dead_code_threshold


def rotated(z: Tensor, z_q: Tensor) -> Tensor:
    """``z_q`` [..., C] with the gradient of ``z`` turned and scaled onto it: Fifty et al. 2024, section 4.2."""
    length, length_q = (x.norm(dim=-1, keepdim=True).clamp(min=1e-6) for x in (z, z_q))
    u, q = (z / length).detach(), (z_q / length_q).detach()
    w = F.normalize(u + q, dim=-1)
    turned = z - 2 * (z * w).sum(dim=-1, keepdim=True) * w + 2 * (z * u).sum(dim=-1, keepdim=True) * q
    return turned * (length_q / length).detach()


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _sample(x: Tensor, count: int) -> Tensor:
    """Random vectors of each group [G, N, C], the same in each process: [G, count, C]"""
    size = x.shape[1]
    drawn = [
        group[torch.randperm(size, device=x.device)[:count] if size >= count else torch.randint(size, (count,))]
        for group in x
    ]
    own = torch.stack(drawn)
    if not _are_several():
        return own
    gathered = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, own)
    turn = torch.arange(count, device=own.device)  # the processes give one vector each in turn
    return torch.stack(gathered)[turn % len(gathered), :, turn].transpose(0, 1)
