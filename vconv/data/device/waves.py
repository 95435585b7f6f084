"""Augmentation of waves in batches: the twins of ``augmentation.wave`` and ``augmentation.recording``.

How strong each disturbance is comes from ``draw_surroundings`` on the CPU; noise and room tails are
drawn on the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv.data.augmentation import recording
from vconv.data.augmentation.recording import DisturbConfig
from vconv.data.augmentation.wave import FIRST_ECHO
from vconv.data.device.features import gain, loudness
from vconv.features import SAMPLE_RATE

CROSSINGS = 24  # zero crossings of the windowed sinc on each side
ROLL_OFF = 0.93  # of the lower rate's half
SLOWEST = 2**-recording.VOICE_OCTAVES
_OFF = 1e9  # dB: a signal-to-noise ratio that leaves nothing of the noise


def draw_surroundings(rng: np.random.Generator, count: int, shares: DisturbConfig) -> dict[str, np.ndarray]:
    """For ``surround``: the same distributions as ``recording.surround``, as arrays [count] by name."""
    disturbed = rng.random(count) >= shares.clean
    on = {
        name: disturbed & (rng.random(count) < getattr(shares, name))
        for name in ("reverb", "babble", "noise", "clipping", "band_limit")
    }
    low, high = rng.uniform(100, 400, count), rng.uniform(3000, 4500, count)
    drawn = {
        "reverb": on["reverb"],
        "reverb_seconds": rng.uniform(*recording.REVERB_SECONDS, count),
        "direct_db": rng.uniform(*recording.DIRECT_DB, count),
        "talkers": rng.integers(1, recording.BABBLE_VOICES + 1, count),
        "babble_snr_db": np.where(on["babble"], rng.uniform(*recording.SNR_DB, count), _OFF),
        "noise_exponent": rng.uniform(-0.5, 1.0, count),
        "noise_snr_db": np.where(on["noise"], rng.uniform(*recording.SNR_DB, count), _OFF),
        "clip_share": np.where(on["clipping"], rng.uniform(0.1, 0.5, count), 1.0),
        "low_hz": np.where(on["band_limit"], low, 0.0),
        "high_hz": np.where(on["band_limit"], high, SAMPLE_RATE),
    }
    return {name: value if value.dtype != np.float64 else value.astype(np.float32) for name, value in drawn.items()}


def faster(wave: Tensor, rate: Tensor) -> Tensor:
    """Waves [B, N] played ``rate`` [B] times faster, pitch and formants that much higher: [B, N / SLOWEST]

    Behind the end of what is played faster there is silence. A windowed sinc; ``recording.faster`` has a longer filter,
    so that the two differ above 6 kHz.
    """
    samples = math.ceil(wave.shape[1] / SLOWEST)
    stretch = rate.clamp(min=1)[:, None, None]  # of the filter: what lies above the new half rate is left out
    reach = math.ceil(CROSSINGS * 2**recording.VOICE_OCTAVES)
    place = torch.arange(samples, device=wave.device) * rate[:, None].double()  # [B, N']
    below = place.floor()
    taps = torch.arange(-reach, reach + 1, device=wave.device)
    distance = ((place - below).float().unsqueeze(2) - taps) / stretch
    window = (distance.clamp(-CROSSINGS, CROSSINGS) * (math.pi / (2 * CROSSINGS))).cos().square()  # Hann
    kernel = torch.sinc(ROLL_OFF * distance) * window
    kernel = kernel / kernel.sum(dim=2, keepdim=True)  # a constant stays as it is
    index = below.long().clamp(max=wave.shape[1] + reach).unsqueeze(2) + taps + reach
    padded = F.pad(wave.float(), (reach, 3 * reach))
    return torch.einsum("bnk,bnk->bn", _taken(padded, index), kernel)


def _taken(padded: Tensor, index: Tensor) -> Tensor:
    """Samples [B, N] at index [B, K, J]: [B, K, J]"""
    return padded.gather(1, index.flatten(1).clamp(max=padded.shape[1] - 1)).view(index.shape)


def reverberant(wave: Tensor, seconds: Tensor, direct_db: Tensor, grain: Tensor) -> Tensor:
    """As ``augmentation.wave.reverberant``, with its Gaussian noise given: [B, N], [B], [B], [B, L] -> [B, N]

    L samples are as many as the longest room takes, or more.
    """
    place = torch.arange(grain.shape[1], device=wave.device)
    length = (seconds * SAMPLE_RATE).round()[:, None]
    tail = grain * 10 ** (-3 * place / SAMPLE_RATE / seconds[:, None])
    tail = tail * (place >= round(FIRST_ECHO * SAMPLE_RATE)) * (place < length)
    tail = tail * (10 ** (-direct_db[:, None] / 20) / tail.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt())
    tail = torch.cat([torch.ones_like(tail[:, :1]), tail[:, 1:]], dim=1)
    size = wave.shape[1] + tail.shape[1]
    return torch.fft.irfft(torch.fft.rfft(wave, size) * torch.fft.rfft(tail, size), size)[:, : wave.shape[1]]


def colored(white: Tensor, exponent: Tensor) -> Tensor:
    """As ``augmentation.wave.colored``, with its white noise given: [B, N], [B] -> [B, N]"""
    spectrum, hz = torch.fft.rfft(white), _frequencies(white)
    return torch.fft.irfft(spectrum * hz.clamp(min=30.0) ** -exponent[:, None], white.shape[1])


def band_limited(wave: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """As ``augmentation.wave.band_limited``: [B, N] between [B] and [B] Hz"""
    hz = _frequencies(wave)
    kept = (hz >= low[:, None]) & (hz <= high[:, None])
    return torch.fft.irfft(torch.fft.rfft(wave) * kept, wave.shape[1])


def clipped(wave: Tensor, share: Tensor) -> Tensor:
    """As ``augmentation.wave.clipped``: [B, N] cut off at shares [B] of their peaks"""
    limit = share[:, None] * wave.abs().amax(dim=1, keepdim=True)
    return wave.clamp(-limit, limit)


def mix(wave: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """As ``augmentation.wave.mix``: noise [B, N] under waves [B, N]"""
    level = 10 * (noise.square().mean(dim=1) + 1e-12).log10()
    return wave + gain(level, loudness(wave) - snr_db)[:, None] * noise * (snr_db < _OFF)[:, None]


def crowd(voices: Tensor, talkers: Tensor) -> Tensor:
    """The first ``talkers`` [B] of some voices [B, K, N], each as loud as the others, added: [B, N]"""
    even = voices * gain(loudness(voices.flatten(0, 1))).view(voices.shape[:2]).unsqueeze(2)
    speaks = torch.arange(voices.shape[1], device=voices.device) < talkers[:, None]
    return (even * speaks.unsqueeze(2)).sum(dim=1)


def surround(wave: Tensor, drawn: Mapping[str, Tensor], voices: Tensor | None = None) -> Tensor:
    """As ``recording.surround``, then at the level of before: waves [B, N] at 16 kHz in rooms, noise or crowds.

    Args:
        drawn: of ``draw_surroundings``, on the device.
        voices: [B, K, N] that may talk behind them.
    """
    before = loudness(wave)
    longest = round(recording.REVERB_SECONDS[1] * SAMPLE_RATE)
    room = torch.randn(len(wave), longest, device=wave.device)
    wet = reverberant(wave, drawn["reverb_seconds"], drawn["direct_db"], room)
    found = torch.where(drawn["reverb"][:, None], wet, wave)
    if voices is not None:
        found = mix(found, crowd(voices, drawn["talkers"]), drawn["babble_snr_db"])
    found = mix(found, colored(torch.randn_like(found), drawn["noise_exponent"]), drawn["noise_snr_db"])
    found = clipped(found, drawn["clip_share"])
    narrow = band_limited(found, drawn["low_hz"], drawn["high_hz"])
    found = torch.where((drawn["high_hz"] < SAMPLE_RATE)[:, None], narrow, found)
    return found * gain(loudness(found), before)[:, None]


def _frequencies(wave: Tensor) -> Tensor:
    """Of its spectrum, in Hz: [F]"""
    return torch.fft.rfftfreq(wave.shape[1], 1 / SAMPLE_RATE, device=wave.device)
