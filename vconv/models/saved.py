"""A model folder's torch side: safetensors in half precision and 8 bits beside one config.json."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vconv.config import BottleneckConfig
from vconv.errors import InputError
from vconv.files import replacing
from vconv.model_folder import CONFIG, FORMAT, WEIGHTS, check_whole, read_config
from vconv.models.conversion import ConversionModel
from vconv.models.vocoder import Vocoder

Network = TypeVar("Network", bound=nn.Module)
SCALE = ".scale8"  # after a matrix' name: what one step of each of its rows is


def to_bytes(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [O, ...] as steps of 8 bits, and the size of a step for each of the O, in half precision."""
    largest = weights.flatten(1).abs().amax(dim=1) / 127
    scale = largest.clamp(min=torch.finfo(torch.float16).tiny).half()
    return (weights / _column(scale, weights)).round().clamp(-127, 127).to(torch.int8), scale


def from_bytes(steps: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The float32 weights that ``to_bytes`` rounded to: [O, ...], scale [O]"""
    return steps.float() * _column(scale, steps)


def _column(scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return scale.float().reshape(-1, *[1] * (weights.dim() - 1))


def _in_bytes(name: str, value: torch.Tensor) -> bool:
    """Whether weights are kept in 8 bits: the content encoder's matrices, whose output is quantized anyway."""
    return value.dim() == 2 and name.startswith("content.")


def stored(module: nn.Module, in_bytes: Callable[[str, torch.Tensor], bool] = _in_bytes) -> dict[str, torch.Tensor]:
    """The weights as the files hold them, those that ``in_bytes`` names in 8 bits and the others in half precision."""
    found = {}
    for name, value in module.state_dict().items():
        if in_bytes(name, value):
            found[name], found[name + SCALE] = to_bytes(value)
        else:
            found[name] = value.half() if value.is_floating_point() else value
    return found


def restored(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What ``stored`` made, in float32."""
    found = {}
    for name, value in stored.items():
        if name + SCALE in stored:
            found[name] = from_bytes(value, stored[name + SCALE])
        elif not name.endswith(SCALE):
            found[name] = value.float() if value.is_floating_point() else value
    return found


def round_weights(module: nn.Module) -> nn.Module:
    """Round all weights to what the files can hold, in place, so that every engine computes with the same."""
    module.load_state_dict(restored(stored(module)))
    return module


def save(folder: Path, conversion: ConversionModel, vocoder: Vocoder) -> None:
    """Write config.json, conversion.safetensors and vocoder.safetensors, each atomically."""
    for name, module in (("conversion", conversion), ("vocoder", vocoder)):
        state = stored(module)
        replace(folder / f"{name}.safetensors", lambda path, state=state: save_file(state, path))
    config = {
        "format": FORMAT,
        "weights": digest(conversion),
        "conversion": dataclasses.asdict(conversion.config),
        "vocoder": dataclasses.asdict(vocoder.config),
    }
    replace(folder / CONFIG, lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"))


def digest(module: nn.Module) -> str:
    """Of the weights as they are saved: identifies a model among others of its shape, however often it is exported."""
    found = hashlib.sha256()
    for name, tensor in sorted(stored(module).items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def replace(path: Path, write: Any) -> None:
    """Have ``write`` make a file beside ``path``, then move it onto ``path``."""
    with replacing(path) as partial:
        write(partial)
        partial.chmod(0o644)  # safetensors makes files that only their owner can read


def load(folder: Path) -> tuple[ConversionModel, Vocoder]:
    """Both models in float32 on the CPU, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged, or does not fit config.json.
    """
    settings = read_config(folder)
    check_whole(folder, list(WEIGHTS))
    conversion, vocoder = (
        make(kind, config, folder / name) for kind, config, name in zip((ConversionModel, Vocoder), settings, WEIGHTS)
    )
    for name, module in (("conversion", conversion), ("vocoder", vocoder)):
        _load_weights(folder / f"{name}.safetensors", module)
    return conversion.eval(), vocoder.eval()


def make(network: type[Network], config: Any, weights: Path) -> Network:
    """A network for the weights in a file. No memory is taken for one that has more weights than the file has bytes.

    Raises:
        InputError: it has, or its configuration contradicts itself.
    """
    try:
        count = _weight_count(network, config)
        if count <= weights.stat().st_size:
            return network(config)
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{weights}: no network has its configuration ({reason}); export the model again") from error
    raise InputError(f"{weights}: holds fewer weights than the {count} of its configuration; export the model again")


def _weight_count(network: type[nn.Module], config: Any) -> int:
    """Weights of a network, which takes no memory to tell."""
    codebooks = 0
    if bottleneck := getattr(config, "bottleneck", None):
        codebooks = (
            bottleneck.stages * bottleneck.code_values * config.content_channels if bottleneck.kind == "vq" else 0
        )
        config = dataclasses.replace(
            config, bottleneck=BottleneckConfig("identity")
        )  # some quantizers need real tensors
    with torch.device("meta"):
        return codebooks + sum(value.numel() for value in network(config).parameters())


def check_weights(module: nn.Module) -> None:
    """Raise RuntimeError if a weight is NaN or infinite, as after a training that diverged."""
    for name, value in module.named_parameters():
        if not torch.isfinite(value).all():
            raise RuntimeError(f"{name} is not finite")


def _load_weights(path: Path, module: nn.Module) -> None:
    try:
        weights = restored(load_file(path))
        module.load_state_dict(weights)
        check_weights(module)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: missing, damaged or not of this model ({reason}); export the model again") from None
