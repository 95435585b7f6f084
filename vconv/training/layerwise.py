"""Greedy layer-wise pre-training of the content encoder, before everything trains together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vconv.config import Share, Steps
from vconv.features import N_MELS
from vconv.models.content_encoder import ContentEncoder
from vconv.models.layers import normalize_mel

Input = tuple[Tensor, Tensor | None]  # mel [B, N_MELS, T] and ASR features [B, R, T / 2]


@dataclass(frozen=True)
class PretrainConfig:
    steps: Steps = 0  # for each layer of the content encoder; 0: no pre-training
    learning_rate: float = 1e-3
    masked: Share = 0.25  # of a layer's input, which it has to restore


class Layer(NamedTuple):
    name: str
    module: nn.Module
    decoder: nn.Module  # from its output back to its input; thrown away afterwards


class Trained(NamedTuple):
    """What became of a layer: reconstruction errors as a share of its input's variance."""

    name: str
    before: float
    after: float


def layers_of(encoder: ContentEncoder) -> list[Layer]:
    """Layers from the mel to the code, each with a linear decoder."""
    width = encoder.input.out_channels
    found = [Layer("input", encoder.input, nn.Conv1d(width, N_MELS, 5, padding=2))]
    found += [Layer(f"fine.{k}", block, nn.Conv1d(width, width, 1)) for k, block in enumerate(encoder.fine)]
    found += [Layer("halve", encoder.halve, nn.ConvTranspose1d(width, width, 4, stride=2, padding=1))]
    found += [Layer(f"coarse.{k}", block, nn.Conv1d(width, width, 1)) for k, block in enumerate(encoder.coarse)]
    output = nn.Sequential(encoder.norm, encoder.output)
    return [*found, Layer("output", output, nn.Conv1d(encoder.output.out_channels, width, 1))]


def pretrain(encoder: ContentEncoder, batch: Callable[[int], Input], config: PretrainConfig) -> Iterator[Trained]:
    """Train one layer after the other to reconstruct its own input; yields after each.

    The layers below are as they were trained, and those above wait (Hinton and Salakhutdinov 2006, "Reducing the
    Dimensionality of Data with Neural Networks"). In place of their restricted Boltzmann machines each layer is a
    denoising auto-encoder (Vincent et al. 2008, "Extracting and Composing Robust Features with Denoising
    Autoencoders"): a residual block could reconstruct an intact input by passing it on.

    Args:
        batch: input number k, as a function of k.
    """
    layers = layers_of(encoder)
    for place, layer in enumerate(layers):
        layer.decoder.to(next(encoder.parameters()).device)
        parameters = [*layer.module.parameters(), *layer.decoder.parameters()]
        optimizer = torch.optim.Adam(parameters, config.learning_rate)
        errors = []
        for step in range(config.steps):
            below = _below(encoder, layers[:place], *batch(place * config.steps + step))
            kept = torch.rand_like(below) >= config.masked
            restored = layer.decoder(layer.module(below * kept))
            loss = (restored - below).square().mean() / below.var().clamp(min=1e-6)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            errors.append(loss.detach())
        optimizer.zero_grad()
        yield Trained(layer.name, errors[0].item(), errors[-1].item())


@torch.no_grad()
def _below(encoder: ContentEncoder, layers: list[Layer], mel: Tensor, asr_features: Tensor | None) -> Tensor:
    """The input of the layer that follows these, as in ``ContentEncoder.forward``: [B, C, T] or [B, C, T / 2]"""
    if encoder.denoiser is not None:
        mel = encoder.denoiser(mel, asr_features)
    x = normalize_mel(mel)
    for layer in layers:
        x = layer.module(x)
        if layer.name == "halve" and encoder.phonetic is not None and asr_features is not None:
            x = x + encoder.phonetic(encoder.phonetic_norm(asr_features))
    return x
