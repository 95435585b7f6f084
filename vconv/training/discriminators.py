"""The discriminators of vocoder and joint training: of waves, and of layers of frozen encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vconv.errors import InputError
from vconv.models.discriminators import Judged, LayerDiscriminators, WaveDiscriminators
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


def encoder_input(wave: Tensor) -> Tensor:
    """Waves [B, N] at 24 kHz as the frozen encoders get them: at 16 kHz and the level ``LEVEL``."""
    wave = to_analysis_rate(wave)
    return wave * (LEVEL / (wave.square().mean(dim=1, keepdim=True).sqrt() + 1e-4))


def check_layers(name: str, layers: Sequence[int], last: int) -> None:
    """Raise InputError where the setting ``name`` chooses a layer that an encoder with 0 to ``last`` lacks."""
    if not set(layers) <= set(range(last + 1)):
        raise InputError(f"{name}: that encoder has {last}; use 0 to {last}")
