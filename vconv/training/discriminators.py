"""The discriminators of vocoder and joint training: of waves, and of layers of frozen encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vconv.models.discriminators import Judged, LayerDiscriminators, WaveDiscriminators
from vconv.models.pretrained.moonshine import Moonshine
from vconv.training.perceptual import to_analysis_rate

LEVEL = 0.05  # root mean square of the waves that the encoders get: a discriminator is not to compare loudness


@dataclass(frozen=True)
class DiscriminatorConfig:
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    n_ffts: tuple[int, ...] = (2048, 1024, 512)
    width: int = 16


class Discriminators(nn.Module):
    """Of waves, and of the encoders' layers, which have so many ``channels``."""

    def __init__(self, config: DiscriminatorConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.waves = WaveDiscriminators(config.periods, config.n_ffts, config.width)
        self.layers = LayerDiscriminators(channels)

    def forward(self, waves: Tensor, layers: list[Tensor]) -> tuple[list[Judged], list[Tensor]]:
        """Scores and feature maps of waves [B, N], and scores of the layers' outputs [K, F, C]."""
        return self.waves(waves), self.layers(layers)


def at_one_level(wave: Tensor) -> Tensor:
    """Waves [B, N] at the level ``LEVEL``."""
    return wave * (LEVEL / (wave.square().mean(dim=1, keepdim=True).sqrt() + 1e-4))


def layer_outputs(asr_encoder: Moonshine, wave: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Of waves [B, N] at 24 kHz: what some layers of an ASR encoder give, [B, F, C] each; 0 is its convolutions."""
    hidden = asr_encoder.hidden(at_one_level(to_analysis_rate(wave)))
    return [hidden[layer] for layer in layers]
