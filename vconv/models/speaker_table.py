"""Speaker table: a learned embedding for each training speaker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.errors import InputError


class SpeakerTable(nn.Module):
    """A learned embedding of each speaker: numbers [B] -> [B, E] of unit length.

    As the speaker codes of Chou et al. 2018, "Multi-target Voice Conversion without Parallel Data", section 3.1. The
    number -1 stands for an unknown speaker and gets the mean of all rows. Beside each row is the speaker's register,
    which the embedding does not hold: median log2 F0 and its standard deviation in octaves, NaN where unknown.
    """

    def __init__(self, config: ConversionConfig) -> None:
        super().__init__()
        count, channels = len(config.speakers), config.embedding_channels
        if not count:
            raise InputError("speaker: a table needs the names of its speakers, which a training takes from the corpus")
        self.rows = nn.Parameter(torch.randn(count, channels) * channels**-0.5)
        self.register_buffer("log_f0", torch.full((count,), torch.nan))
        self.register_buffer("log_f0_spread", torch.full((count,), torch.nan))

    def forward(self, speaker: Tensor) -> Tensor:
        rows = nn.functional.normalize(self.rows, dim=1)
        known = rows[speaker.clamp(min=0)]
        chosen = torch.where(speaker[:, None] < 0, rows.mean(dim=0, keepdim=True), known)
        return nn.functional.normalize(chosen, dim=1)
