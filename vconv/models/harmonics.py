"""F0 as an input of the decoder: the log-mel of equal harmonics at that F0."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vconv.features import F0_MAX, F0_MIN, F0_REFERENCE, N_FFT, SAMPLE_RATE, mel_filterbank

STEPS_PER_OCTAVE = 64


def _harmonic_log_mels() -> np.ndarray:
    """Log-mels of equal-amplitude harmonics on a grid of F0s, each freed of its mean: [F0s, N_MELS]"""
    octaves = np.log2(F0_MAX / F0_MIN)
    grid = F0_MIN * 2 ** (np.arange(round(octaves * STEPS_PER_OCTAVE) + 1) / STEPS_PER_OCTAVE)
    bins = np.arange(N_FFT // 2 + 1)
    rows = []
    for f0 in grid:
        partials = np.arange(1, SAMPLE_RATE / 2 // f0 + 1) * f0 * N_FFT / SAMPLE_RATE  # in bins
        distance = bins[:, None] - partials
        # The spectrum of a Hann window: three shifted sinc functions.
        lobe = np.sinc(distance) + (np.sinc(distance - 1) + np.sinc(distance + 1)) / 2
        rows.append(np.log(mel_filterbank() @ np.abs(lobe).sum(axis=1) + 1e-4))
    table = np.stack(rows)
    # To half precision, so that an exported graph can hold it as such.
    return (table - table.mean(axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


class HarmonicTemplate(nn.Module):
    """pitch [B, 2, T] -> [B, N_MELS, T]: the ripple of the harmonics over the mel bands, 0 where unvoiced.

    A decoder learns this mapping by itself, but takes most of its training for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(_harmonic_log_mels()), persistent=False)

    def forward(self, pitch: Tensor) -> Tensor:
        with torch.autocast(pitch.device.type, enabled=False):
            curve, voiced = pitch.float().unbind(1)
            lowest = float(np.log2(F0_MIN / F0_REFERENCE))
            last = self.table.shape[0] - 1
            place = ((curve - lowest) * STEPS_PER_OCTAVE).clamp(0, last)
            rows = torch.arange(last + 1, device=pitch.device, dtype=torch.float32)
            weight = (1 - (place.unsqueeze(2) - rows).abs()).clamp(min=0)  # linear between two rows
            return (weight @ self.table * voiced.unsqueeze(2)).transpose(1, 2)
