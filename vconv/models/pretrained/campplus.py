"""CAM++, a pretrained speaker encoder, in PyTorch: for perceptual losses and for export.

``vconv.frontends.speaker_encoder`` runs its ONNX graph at inference.
``recipes/base/speaker_encoder.py`` makes its file.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.config import build
from vconv.errors import InputError
from vconv.frontends.fbank import ENERGY_FLOOR, FBANKS, FRAME_HOP, FRAME_SAMPLES, N_FFT, PREEMPHASIS, filterbank
from vconv.models import saved

SEGMENT = 100  # frames of the network, at half the rate of the features, whose mean is context
DILATIONS = (1, 2, 2)
CONFIG = "verifier"  # key in the file's metadata
SMALLEST_ROW = 16  # weights of one output; where there are fewer they are not worth a scale of their own


@dataclass(frozen=True)
class CamPlusPlusConfig:
    maps: int = 32  # channels of the first, two-dimensional layers
    channels: int = 128
    growth: int = 32  # channels that a layer of a dense block adds
    hidden: int = 128  # channels in such a layer
    layers: tuple[int, int, int] = (12, 24, 16)  # of the dense blocks
    embedding_channels: int = 192


def fbank(wave: Tensor) -> Tensor:
    """As ``vconv.frontends.fbank.fbank``, where gradients are needed: [B, N] at 16 kHz -> [B, T, FBANKS]"""
    frames = wave.float().unfold(1, FRAME_SAMPLES, FRAME_HOP)
    frames = frames - frames.mean(dim=2, keepdim=True)
    frames = frames - PREEMPHASIS * torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
    window = torch.hann_window(FRAME_SAMPLES, periodic=False, device=wave.device) ** 0.85
    power = torch.fft.rfft(frames * window, N_FFT).abs().square()
    with torch.autocast(wave.device.type, enabled=False):
        energies = (power @ torch.from_numpy(filterbank()).to(wave.device).T).clamp(min=ENERGY_FLOOR).log()
    return energies - energies.mean(dim=1, keepdim=True)


class Affine(nn.Module):
    """A scale and a shift for each channel, then ReLU: what batch norm is once it has been trained. [B, C, T]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels, 1)), nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.shift).relu()


class Residual(nn.Module):
    """Two convolutions over frequency and time, of which the first may halve the frequencies: [B, C, F, T]"""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, stride=(stride, 1), padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=(stride, 1)) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()


class MaskedLayer(nn.Module):
    """A layer of a dense block: a convolution with a context-aware mask (CAM). [B, C, T] -> [B, growth, T]"""

    def __init__(self, channels: int, hidden: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.before = Affine(channels)
        self.narrow = nn.Conv1d(channels, hidden, 1)
        self.local = nn.Conv1d(hidden, growth, 3, padding=dilation, dilation=dilation, bias=False)
        self.squeeze = nn.Conv1d(hidden, hidden // 2, 1)
        self.excite = nn.Conv1d(hidden // 2, growth, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(self.before(x)).relu()
        near = F.avg_pool1d(x, SEGMENT, SEGMENT, ceil_mode=True).repeat_interleave(SEGMENT, dim=2)[..., : x.shape[2]]
        mask = self.excite(self.squeeze(near + x.mean(dim=2, keepdim=True)).relu())
        return self.local(x) * mask.sigmoid()


class CamPlusPlus(nn.Module):
    """CAM++: wave [B, N] at 16 kHz -> embedding [B, E] of unit length, alike for the same voice.

    Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking",
    sections 2 and 3, with each batch norm that follows a convolution folded into it.
    """

    def __init__(self, config: CamPlusPlusConfig = CamPlusPlusConfig()) -> None:
        super().__init__()
        self.config = config
        maps, channels = config.maps, config.channels
        self.input = nn.Conv2d(1, maps, 3, padding=1)
        self.maps = nn.Sequential(*(Residual(maps, stride) for stride in (2, 1, 2, 1)))
        self.last_map = nn.Conv2d(maps, maps, 3, stride=(2, 1), padding=1)
        self.frames = nn.Conv1d(maps * FBANKS // 8, channels, 5, stride=2, padding=2)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for count, dilation in zip(config.layers, DILATIONS):
            layers = [
                MaskedLayer(channels + k * config.growth, config.hidden, config.growth, dilation) for k in range(count)
            ]
            self.blocks.append(nn.ModuleList(layers))
            channels += count * config.growth
            self.transitions.append(nn.Sequential(Affine(channels), nn.Conv1d(channels, channels // 2, 1, bias=False)))
            channels //= 2
        self.last = Affine(channels)
        self.output = nn.Linear(2 * channels, config.embedding_channels)

    def forward(self, wave: Tensor) -> Tensor:
        return self.embed(fbank(wave))

    def embed(self, energies: Tensor) -> Tensor:
        """``fbank`` of a wave [B, T, FBANKS] -> embedding [B, E]"""
        return self.pooled(self._maps(energies))

    def features(self, wave: Tensor) -> list[Tensor]:
        """Feature maps after each part: [B, C, F, T], then [B, C, T / 2]."""
        return self._maps(fbank(wave))

    def pooled(self, features: list[Tensor]) -> Tensor:
        """The embedding [B, E] of a wave, from its ``features``."""
        x = features[-1]
        return F.normalize(self.output(torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1)).float(), dim=1)

    def map_channels(self) -> list[int]:
        """Channels of each of the ``features``, times the frequencies that the first one has."""
        wide = self.config.maps * FBANKS // 8
        return [wide, self.config.channels, *(transition[1].out_channels for transition in self.transitions)]

    def _maps(self, energies: Tensor) -> list[Tensor]:
        maps = self.last_map(self.maps(self.input(energies.transpose(1, 2).unsqueeze(1)).relu())).relu()
        x = self.frames(maps.flatten(1, 2)).relu()
        found = [maps, x]
        for layers, transition in zip(self.blocks, self.transitions):
            for layer in layers:
                x = torch.cat([x, layer(x)], dim=1)
            x = transition(x)
            found.append(x)
        return [*found[:-1], self.last(x).float()]


def _has_rows(name: str, value: Tensor) -> bool:
    return value.numel() >= SMALLEST_ROW * len(value)


def save_campplus(path: Path, speaker_encoder: CamPlusPlus, in_bytes: bool = False) -> None:
    """One safetensors file, in half precision or 8 bits, with the config in its metadata, written atomically."""
    state = saved.stored(speaker_encoder, _has_rows if in_bytes else lambda name, value: False)
    metadata = {CONFIG: json.dumps(dataclasses.asdict(speaker_encoder.config))}
    saved.replace(path, lambda partial: save_file(state, partial, metadata))


def load_campplus(path: str | Path) -> CamPlusPlus:
    """Frozen, in float32, in evaluation mode.

    Raises:
        InputError: the file is missing, damaged, or not a speaker encoder's.
    """
    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get(CONFIG, "null"))
            if config is None:
                raise InputError(f"{path}: not a speaker encoder; recipes/base/speaker_encoder.py makes one")
            speaker_encoder = CamPlusPlus(build(CamPlusPlusConfig, config, str(path)))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            speaker_encoder.load_state_dict(saved.restored(state))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not a speaker encoder ({reason}); recipes/base/speaker_encoder.py makes one"
        ) from None
    return speaker_encoder.requires_grad_(False).eval()
