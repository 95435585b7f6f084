"""Resampling, log-mel, loudness and F0 curves of batches."""

from __future__ import annotations

import functools
import math

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv import audio
from vconv.features import HOP_LENGTH, LOG_FLOOR, N_FFT, SAMPLE_RATE, frame_count, mel_filterbank

CONTEXT_FRAMES = 4  # on each side of a crop: beyond them no sample reaches its mel frames, by the FFT or by resampling
_REACH = 160  # input samples on each side that an output sample depends on, for 24 to 16 kHz
_TINY = 1e-20


@functools.lru_cache
def _kernels(from_rate: int, to_rate: int) -> tuple[np.ndarray, int, int]:
    """A resampler's filters [up, 2 reach + down], and ``up`` and ``down``.

    Filter r around input sample ``down * q`` gives output sample ``up * q + r``. They are the responses of
    ``audio.resample`` to impulses: it is linear, so that this is the same resampler.
    """
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    reach = -(-_REACH * max(from_rate, to_rate) // (24000 * down)) * down  # a multiple of `down`
    middle = 4 * reach
    kernels = np.zeros((up, 2 * reach + down))
    for residue in range(down):
        impulse = np.zeros(2 * middle + down)
        impulse[middle + residue] = 1.0
        response = soxr.resample(impulse, from_rate, to_rate, quality="HQ")
        # The weight of this input sample in output `up * q + r`, whose filter begins at `down * q - reach`.
        for q in range((middle - reach) // down, (middle + reach) // down + 1):
            tap = middle + residue - down * q + reach
            if 0 <= tap < kernels.shape[1]:
                kernels[:, tap] = response[up * q : up * (q + 1)]
    return kernels, up, down


def resample(wave: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """As ``audio.resample``: [B, N] -> [B, scaled_length(N, from_rate, to_rate)] float32"""
    wave = wave.float()
    if from_rate == to_rate or not wave.shape[1]:
        return wave
    kernels, up, down = _kernels(from_rate, to_rate)
    length = audio.scaled_length(wave.shape[1], from_rate, to_rate)
    reach = (kernels.shape[1] - down) // 2
    rows, precision = -(-length // up), _precise(wave)
    padded = F.pad(wave.to(precision), (reach, max(0, (rows - 1) * down + kernels.shape[1] - reach - wave.shape[1])))
    weight = torch.from_numpy(kernels).to(wave.device, precision).unsqueeze(1)
    with torch.autocast(wave.device.type, enabled=False):
        out = F.conv1d(padded.unsqueeze(1), weight, stride=down)[:, :, :rows]  # [B, up, rows]
    return out.transpose(1, 2).flatten(1)[:, :length].float()


def _precise(wave: Tensor) -> torch.dtype:
    """Double precision, where there is one: rounding moves the quietest bands, beside loud ones, by more than 1e-4."""
    return torch.float32 if wave.device.type == "mps" else torch.float64


def log_mel(wave: Tensor) -> Tensor:
    """As ``vconv.features.log_mel``: [B, N] at 16 kHz -> [B, T, N_MELS], time first as in ``augmentation.mel``"""
    precision = _precise(wave)
    frames = frame_count(wave.shape[1])
    padded = F.pad(wave.to(precision), (N_FFT // 2, (frames - 1) * HOP_LENGTH + N_FFT // 2 - wave.shape[1]))
    with torch.autocast(wave.device.type, enabled=False):  # bfloat16 has 8 bits, the log-mel 80 dB
        window = torch.hann_window(N_FFT, dtype=precision, device=wave.device)
        spectrum = torch.fft.rfft(padded.unfold(1, N_FFT, HOP_LENGTH) * window).abs().float()
        return (spectrum @ torch.from_numpy(mel_filterbank().T).to(wave.device)).clamp(min=LOG_FLOOR).log()


def loudness(wave: Tensor) -> Tensor:
    """As ``audio.loudness`` of a wave without an offset: [B, N] at 16 kHz -> [B] dBFS, very low for silence"""
    frame = round(SAMPLE_RATE * 0.025)
    powers = wave.float()[:, : wave.shape[1] // frame * frame].unflatten(1, (-1, frame)).square().mean(dim=2)
    loud = torch.quantile(powers, 0.95, dim=1, keepdim=True)
    active = (powers > 0) & (powers >= loud * 10 ** (-audio.ACTIVE_RANGE_DB / 10))
    mean = (powers * active).sum(dim=1) / active.sum(dim=1).clamp(min=1)
    return 10 * mean.clamp(min=_TINY).log10()


def gain(from_db: Tensor, to_db: Tensor | float = audio.REFERENCE_LOUDNESS_DB) -> Tensor:
    """As ``audio.gain``: factors [B], 1 for silent waves"""
    factor = 10 ** ((torch.as_tensor(to_db, device=from_db.device) - from_db) / 20)
    return torch.where(from_db < audio.SILENCE_DB, torch.ones_like(factor), factor)


def at_places(rows: Tensor, place: Tensor) -> Tensor:
    """As ``frontends.grid.at_places``: rows [B, F, C] at places [B, K] between them -> [B, K, C], the ends held"""
    place = place.clamp(0, rows.shape[1] - 1)
    low = place.long().clamp(max=max(0, rows.shape[1] - 2))
    share = (place - low).unsqueeze(2)
    index = low.unsqueeze(2).expand(-1, -1, rows.shape[2])
    return torch.lerp(rows.gather(1, index), rows.gather(1, (index + 1).clamp(max=rows.shape[1] - 1)), share)
