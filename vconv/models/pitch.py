"""Network that predicts F0 and voicing from the low part of the spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.features import PITCH_BINS, PITCH_STEPS


@dataclass(frozen=True)
class PitchConfig:
    """``PITCH_PAST`` and ``PITCH_AHEAD`` of vconv/frontends/pitch.py follow from the blocks."""

    channels: int = 128
    expansion: int = 2
    kernel: int = 7  # frames, of each block
    ahead: tuple[int, ...] = (1, 1, 1, 1, 0)  # of them after the frame itself, for each block


class PitchBlock(nn.Module):
    """A ConvNeXt block (Liu et al. 2022, figure 4) that sees ``ahead`` frames after one, and the rest before it."""

    def __init__(self, config: PitchConfig, ahead: int) -> None:
        super().__init__()
        width = config.channels
        self.padding = (config.kernel - 1 - ahead, ahead)
        self.depthwise = nn.Conv1d(width, width, config.kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.expansion * width)
        self.project = nn.Linear(config.expansion * width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> the same"""
        y = self.norm(self.depthwise(F.pad(x, self.padding)).transpose(1, 2))
        return x + self.project(F.gelu(self.expand(y))).transpose(1, 2)


class PitchNetwork(nn.Module):
    """F0 as a class, as in CREPE (Kim et al. 2018, "CREPE: A Convolutional Representation for Pitch Estimation").

    From ``low_spectrum`` [B, PITCH_BINS, T] to scores of the steps [B, T, PITCH_STEPS] and to the probability
    that a frame is voiced, [B, T].
    """

    def __init__(self, config: PitchConfig = PitchConfig()) -> None:
        super().__init__()
        self.input = nn.Conv1d(PITCH_BINS, config.channels, 1)
        self.blocks = nn.ModuleList(PitchBlock(config, ahead) for ahead in config.ahead)
        self.norm = nn.LayerNorm(config.channels)
        self.output = nn.Linear(config.channels, PITCH_STEPS + 1)

    def forward(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        scores, voicing = self.scores(spectrum)
        return scores, torch.sigmoid(voicing)

    def scores(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, with the logit of the probability."""
        x = self.input((spectrum + 4.0) / 2.5)  # nepers: roughly the mean and deviation of speech
        for block in self.blocks:
            x = block(x)
        found = self.output(self.norm(x.transpose(1, 2)))
        return found[..., :PITCH_STEPS], found[..., PITCH_STEPS]
