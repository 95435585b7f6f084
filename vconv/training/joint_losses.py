"""The losses of joint training: discriminators of waves and of encoders' layers, and the perceptual losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vconv.models.pretrained.campplus import CamPlusPlus
from vconv.models.pretrained.moonshine import Moonshine
from vconv.models.vocoder import Vocoder
from vconv.training.discriminators import Discriminators, encoder_input
from vconv.training.losses import discriminator_hinge, feature_matching, generator_hinge
from vconv.training.optimizer import frozen
from vconv.training.perceptual import content_distance, vocoded
from vconv.training.vocoder import feature_difference


class Made(NamedTuple):
    """Waves for the losses outside the learner, and what they are compared with."""

    converted: Tensor  # [K, N] at 24 kHz
    copies: Tensor  # [W, M], by the vocoder, of the recordings
    recordings: Tensor  # [W, M]
    source: Tensor  # [K, N_MELS, T], clean mels of the conversions' sources
    source_pitch: Tensor  # [K, 2, T]
    voice: Tensor  # [K, V], pretrained embeddings of the conversions' targets


class Encoded(NamedTuple):
    """Waves, as the encoders of the losses have them."""

    layers: list[Tensor]  # outputs of the layers that have a discriminator, [B, F, C] each
    content: Tensor  # ASR features [B, R, T / 2]
    voice: Tensor  # embedding [B, V]


class LossEncoders(NamedTuple):
    """Frozen networks of the losses. No nn.Module: checkpoints leave them out."""

    asr: Moonshine
    speaker: CamPlusPlus
    vocoder: Vocoder  # as it was: the recordings that give the wanted content go through it
    layers: tuple[int, ...]
    speaker_layers: tuple[int, ...]

    @property
    def channels(self) -> list[int]:
        """Of each layer that has a discriminator."""
        maps = self.speaker.map_channels()
        return [self.asr.channels] * len(self.layers) + [maps[layer] for layer in self.speaker_layers]

    def __call__(self, wave: Tensor) -> Encoded:
        """Of waves [B, N] at 24 kHz."""
        wave = encoder_input(wave)
        hidden, maps = self.asr.hidden(wave), self.speaker.features(wave)
        layers = [hidden[layer] for layer in self.layers]
        layers += [maps[layer].flatten(1, -2).transpose(1, 2) for layer in self.speaker_layers]
        return Encoded(layers, self.asr.features(hidden[-1], wave.shape[1]), self.speaker.pooled(maps))

    def content(self, wave: Tensor) -> Tensor:
        """ASR features [B, R, T / 2] of waves [B, N] at 24 kHz."""
        return self.asr(encoder_input(wave))


def perceptual_losses(encoders: LossEncoders, made: Made, converted: Encoded) -> dict[str, Tensor]:
    """Of conversions against the source's content and the target's voice, of copies against the recordings."""
    with torch.no_grad():
        wanted = encoders.content(vocoded(encoders.vocoder, made.source, made.source_pitch))
    return {
        "content_consistency": content_distance(converted.content, wanted),
        "speaker_similarity": (1 - (converted.voice * made.voice).sum(dim=1)).mean(),
        "copy_features": feature_difference(encoders.speaker, made.recordings, made.copies),
    }


def realism_losses(
    discriminators: Discriminators, made: Made, converted: Tensor, layers: list[Tensor]
) -> dict[str, Tensor]:
    """The generators' side: of copies, of parts [K, M] of the conversions, and of the layers' outputs for these."""
    with frozen(discriminators):
        judged, scored = discriminators(torch.cat([made.copies, converted]), layers)
        with torch.no_grad():
            truth = discriminators.waves(made.recordings)
    count = len(made.copies)
    halves = [part for scores, _ in judged for part in (scores[:count], scores[count:])]
    return {
        "realism": 2 * generator_hinge(halves),
        "matching": feature_matching([m for _, m in truth], [[one[:count] for one in m] for _, m in judged]),
        "layer_realism": generator_hinge(scored),
    }


def critic_losses(
    discriminators: nn.Module, made: Made, converted: Tensor, layers: list[Tensor], recorded: list[Tensor]
) -> dict[str, Tensor]:
    """The discriminators' side; ``recorded`` are the layers' outputs for recordings."""
    waves = torch.cat([made.recordings, made.copies.detach(), converted.detach()])
    outputs = [torch.cat([real, fake.detach()]) for real, fake in zip(recorded, layers)]
    judged, scored = discriminators(waves, outputs)
    count, split = len(made.copies), len(recorded[0])
    parts = [scores.split([count, count, len(converted)]) for scores, _ in judged]
    return {
        "critic": discriminator_hinge([p[0] for p in parts] * 2, [p[1] for p in parts] + [p[2] for p in parts]),
        "layer_critic": discriminator_hinge([x[:split] for x in scored], [x[split:] for x in scored]),
    }


def crops(waves: Tensor, samples: int) -> Tensor:
    """A random part of each wave [B, N]: [B, samples]"""
    places = torch.randint(waves.shape[1] - samples + 1, (len(waves),)).tolist()
    return torch.stack([wave[place : place + samples] for wave, place in zip(waves, places)])
