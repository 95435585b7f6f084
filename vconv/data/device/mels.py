"""Augmentation of log-mels in batches: the twin of ``augmentation.mel.perturb``.

``draw_perturbations`` draws on the CPU, in the order of ``perturb``, what each item gets; what an item does not get is
drawn as what changes nothing. So one fixed run of operations on the device serves all items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv.data.augmentation import mel as single
from vconv.data.augmentation.mel import PerturbConfig
from vconv.features import DB_PER_NEPER, FRAME_RATE, LOG_MEL_MIN, N_MELS

REVERB_FRAMES = 24
BLUR_BANDS = 7  # the widest
_OFF = -1e9  # nepers: noise of no level


def draw_perturbations(
    rng: np.random.Generator, frames: Sequence[int], items: int, configs: Sequence[PerturbConfig | None]
) -> dict[str, np.ndarray]:
    """For ``perturb``: arrays [B, ...] by name.

    Args:
        frames: of each item [B]; the arrays reach to the longest.
        items: of the batch whose clips may talk behind it.
        configs: of each item [B]; None leaves it as it is.
    """
    longest = max(frames, default=0)
    drawn = [_draw(rng, own, longest, items, config) for own, config in zip(frames, configs)]
    empty = _nothing(longest)
    return {name: np.stack([one[name] for one in drawn]) if drawn else value[None][:0] for name, value in empty.items()}


def _nothing(frames: int) -> dict[str, np.ndarray]:
    """What changes nothing."""
    return {
        "reverb": np.eye(1, REVERB_FRAMES, dtype=np.float32)[0],  # of the power, by the frames that it comes later
        "factor": np.ones(N_MELS, np.float32),  # of the frequencies
        "blur": np.eye(1, BLUR_BANDS, BLUR_BANDS // 2, dtype=np.float32)[0],
        "equalizer": np.zeros(N_MELS, np.float32),  # nepers, as are the next two
        "noise": np.full(N_MELS, _OFF, np.float32),
        "babble": np.float32(_OFF),
        "talker": np.zeros(single.PerturbConfig.babble_voices[1], np.int64),
        "talker_start": np.zeros(single.PerturbConfig.babble_voices[1], np.int64),  # frames
        "talkers": np.int64(0),
        "line": np.zeros(N_MELS, np.float32),  # nepers
        "mask": np.zeros((frames, N_MELS), bool),
    }


def _draw(
    rng: np.random.Generator, own: int, longest: int, items: int, config: PerturbConfig | None
) -> dict[str, np.ndarray]:
    drawn = _nothing(longest)
    if config is None:
        return drawn
    if rng.random() < config.reverb:
        seconds = rng.uniform(0.15, 0.6)
        decay = 10 ** (-6 / FRAME_RATE / seconds)
        drawn["reverb"] = (decay ** np.arange(REVERB_FRAMES) * 10 ** (-rng.uniform(0.3, 1.2))).astype(np.float32)
        drawn["reverb"][0] = 1.0
    if rng.random() < config.warp:
        bend = rng.uniform(-config.bend_octaves, config.bend_octaves) * np.linspace(-1, 1, N_MELS)
        octaves = rng.uniform(-config.warp_octaves, config.warp_octaves) + bend
        drawn["factor"] = (2**octaves).astype(np.float32)
    if rng.random() < config.blur:
        width = int(rng.integers(3, 8))
        first = BLUR_BANDS // 2 - width // 2
        drawn["blur"] = np.zeros(BLUR_BANDS, np.float32)
        drawn["blur"][first : first + width] = 1 / width
    if rng.random() < config.equalizer:
        drawn["equalizer"] = single.equalizer_curve(rng, config.equalizer_db)
    if rng.random() < config.noise:
        snr_db = rng.uniform(*config.noise_snr_db)
        colour = single.equalizer_curve(rng, 12.0) - rng.uniform(-0.5, 1.5) * np.linspace(-1, 1, N_MELS)
        drawn["noise"] = (colour - snr_db / DB_PER_NEPER).astype(np.float32)
    if config.babble and rng.random() < config.babble:
        most = len(drawn["talker"])
        drawn["talkers"] = np.int64(min(most, rng.integers(*config.babble_voices, endpoint=True)))
        drawn["talker"], drawn["talker_start"] = rng.integers(items, size=most), rng.integers(max(1, own), size=most)
        drawn["babble"] = np.float32(-rng.uniform(*config.babble_snr_db) / DB_PER_NEPER)
    if rng.random() < config.band_limit:
        drawn["line"] = (-4.0 * ((single.CENTRES < 300) | (single.CENTRES > 3400))).astype(np.float32)
    if config.mask or config.mask_band:
        drawn["mask"][:own] = single.mask_places(rng, own, config)
    return drawn


def warp(mel: Tensor, factor: Tensor) -> Tensor:
    """As ``augmentation.mel.warp``: [B, T, N_MELS], factors [B] or [B, N_MELS] -> [B, T, N_MELS]"""
    centres = torch.from_numpy(single.CENTRES).to(mel.device)
    wanted = (centres / (factor[:, None] if factor.dim() == 1 else factor)).contiguous()
    above = torch.searchsorted(centres, wanted).clamp(1, N_MELS - 1)
    share = ((wanted - centres[above - 1]) / (centres[above] - centres[above - 1])).clamp(0, 1)
    index = (above - 1).unsqueeze(1).expand_as(mel)
    return torch.lerp(mel.gather(2, index), mel.gather(2, index + 1), share.unsqueeze(1).to(mel.dtype))


def reverb(mel: Tensor, kernel: Tensor) -> Tensor:
    """Energy that decays after each frame, mixed in: [B, T, N_MELS], kernels [B, REVERB_FRAMES] of the power."""
    power = F.pad(torch.exp(2 * mel), (0, 0, kernel.shape[1] - 1, 0)).transpose(1, 2)  # [B, N_MELS, T + K - 1]
    wet = F.conv1d(power.transpose(0, 1), kernel.flip(1).unsqueeze(1), groups=len(mel)).permute(1, 2, 0)
    return wet.clamp(min=1e-10).log() / 2


def blur(mel: Tensor, weights: Tensor) -> Tensor:
    """A mean over neighbouring bands: [B, T, N_MELS], weights [B, BLUR_BANDS]"""
    padded = F.pad(mel, (BLUR_BANDS // 2, BLUR_BANDS // 2), mode="replicate")
    return torch.einsum("btnk,bk->btn", padded.unfold(2, BLUR_BANDS, 1), weights)


def level(mel: Tensor) -> Tensor:
    """Of the mean power, nepers: [..., T, N_MELS] -> [..., 1, 1]"""
    return (torch.exp(2 * mel).mean(dim=(-2, -1), keepdim=True) + 1e-10).log() / 2


def noise(mel: Tensor, colour: Tensor, grain: Tensor) -> Tensor:
    """Noise of a level and a colour [B, N_MELS], nepers, added in power; ``grain`` [B, T, N_MELS] is gamma(3, 1/3)."""
    return torch.logaddexp(2 * mel, 2 * (level(mel) + colour.unsqueeze(1) + 0.25 * torch.log(grain + 1e-3))) / 2


def babble(mel: Tensor, voices: Tensor, talkers: Tensor, relative: Tensor) -> Tensor:
    """The first ``talkers`` [B] of voices [B, K, T, N_MELS] behind it, ``relative`` [B] nepers above its level."""
    even = 2 * (voices - level(voices))
    speaks = torch.arange(voices.shape[1], device=mel.device) < talkers[:, None]
    together = torch.logsumexp(even.masked_fill(~speaks[:, :, None, None], _OFF), dim=1) / 2
    behind = together + level(mel) - level(together) + relative[:, None, None]
    return torch.where((talkers > 0)[:, None, None], torch.logaddexp(2 * mel, 2 * behind) / 2, mel)


def perturb(mel: Tensor, drawn: Mapping[str, Tensor], others: Tensor | None = None) -> Tensor:
    """As ``augmentation.mel.perturb``: [B, T, N_MELS] -> [B, T, N_MELS]

    Args:
        drawn: of ``draw_perturbations``, on the device.
        others: [items, T', N_MELS], T' at least T, from which those who talk behind are taken.
    """
    with torch.autocast(mel.device.type, enabled=False):
        mel = reverb(mel.float(), drawn["reverb"])
        mel = blur(warp(mel, drawn["factor"]), drawn["blur"]) + drawn["equalizer"].unsqueeze(1)
        uniform = torch.rand(3, *mel.shape, device=mel.device).clamp(min=1e-7)
        mel = noise(mel, drawn["noise"], -uniform.log().sum(dim=0) / 3)  # three exponentials make a gamma
        if others is not None:
            frames = torch.arange(mel.shape[1], device=mel.device)
            at = (drawn["talker_start"].unsqueeze(2) + frames) % others.shape[1]  # [B, K, T]
            mel = babble(mel, others[drawn["talker"].unsqueeze(2), at], drawn["talkers"], drawn["babble"])
        mel = mel + drawn["line"].unsqueeze(1)
        mel = torch.where(drawn["mask"], mel.mean(dim=1, keepdim=True), mel)
        return mel.clamp(min=LOG_MEL_MIN)
