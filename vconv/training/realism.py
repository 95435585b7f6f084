"""Both sides of the mel discriminator's training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vconv.training.conversion_settings import LossConfig
from vconv.training.learner import Fakes
from vconv.training.losses import discriminator_hinge, feature_matching, generator_hinge
from vconv.training.optimizer import frozen


def realism_losses(discriminator: nn.Module, real: Tensor, fakes: Fakes, weights: LossConfig) -> dict[str, Tensor]:
    """The decoder's side: to be taken for real, and to look like the real one inside the discriminator.

    The first ``len(real)`` fakes have a real counterpart, conversions that follow have none.
    """
    items = len(real)
    with frozen(discriminator):
        scores, maps = discriminator(fakes.mel, fakes.embedding)
        # As much for the few conversions as for all reconstructions: only here do they learn to be the target.
        parts = [part for part in scores.split([items, len(scores) - items]) if len(part)]
        losses = {"realism": generator_hinge(parts)}
        if weights.matching:
            with torch.no_grad():
                _, real_maps = discriminator(real, fakes.embedding[:items])
            losses["matching"] = feature_matching([real_maps], [[m[:items] for m in maps]])
    return losses


def critic_loss(discriminator: nn.Module, real: Tensor, fakes: Fakes) -> Tensor:
    """The discriminator's side: real speech against fakes, and against real speech with another speaker's embedding.

    The latter makes it depend on the voice (matching-aware, Reed et al. 2016, section 4.2).
    """
    items, embedding = len(real), fakes.embedding
    mels = torch.cat([real, fakes.mel.detach(), real])
    voices = torch.cat([embedding[:items], embedding, embedding[:items].roll(1, 0)])
    scores, _ = discriminator(mels, voices)
    true, made, mistaken = scores.split([items, len(fakes.mel), items])
    return discriminator_hinge([true, true], [made, mistaken])
