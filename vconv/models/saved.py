"""A model folder's torch side: half-precision safetensors beside one config.json."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vconv.config import MODEL_CONFIG, MODEL_FORMAT, ConversionConfig, VocoderConfig, build
from vconv.errors import InputError
from vconv.files import replacing
from vconv.models.conversion import ConversionModel
from vconv.models.vocoder import Vocoder


def round_to_half(module: nn.Module) -> nn.Module:
    """Round all weights to what half precision can hold, in place, so that every engine computes with the same."""
    for tensor in [*module.parameters(), *_saved_buffers(module)]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().to(tensor.dtype)
    return module


def _saved_buffers(module: nn.Module) -> list[torch.Tensor]:
    saved = module.state_dict().keys()
    return [buffer for name, buffer in module.named_buffers() if name in saved]


def save(folder: Path, conversion: ConversionModel, vocoder: Vocoder) -> None:
    """Write config.json, conversion.safetensors and vocoder.safetensors, each atomically."""
    for name, module in (("conversion", conversion), ("vocoder", vocoder)):
        state = _half(module)
        replace(folder / f"{name}.safetensors", lambda path, state=state: save_file(state, path))
    config = {
        "format": MODEL_FORMAT,
        "weights": digest(conversion),
        "conversion": dataclasses.asdict(conversion.config),
        "vocoder": dataclasses.asdict(vocoder.config),
    }
    replace(folder / MODEL_CONFIG, lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8"))


def _half(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}


def digest(module: nn.Module) -> str:
    """Of the weights as they are saved: it tells a model from others of its shape, however often it is exported."""
    found = hashlib.sha256()
    for name, tensor in sorted(_half(module).items()):
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
    path = folder / MODEL_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        parts = config["conversion"], config["vocoder"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a model's config ({error}); export the model again") from None
    conversion = ConversionModel(build(ConversionConfig, parts[0], f"{path}: conversion"))
    vocoder = Vocoder(build(VocoderConfig, parts[1], f"{path}: vocoder"))
    for name, module in (("conversion", conversion), ("vocoder", vocoder)):
        _load_weights(folder / f"{name}.safetensors", module)
    return conversion.eval(), vocoder.eval()


def _load_weights(path: Path, module: nn.Module) -> None:
    try:
        state = load_file(path)
        module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: missing, damaged or not of this model ({reason}); export the model again") from None
