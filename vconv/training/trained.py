"""Models out of training checkpoints, with their averaged weights, to be used and not trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from vconv.config import ConversionConfig, VocoderConfig, build
from vconv.config_files import override
from vconv.errors import InputError
from vconv.excitation import PulseTrain
from vconv.model_folder import ASR_ENCODER, SPEAKER_ENCODER_WEIGHTS, find_shipped
from vconv.models import saved
from vconv.models.conversion import ConversionModel
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine
from vconv.models.pretrained.moonshine_live import LiveMoonshine
from vconv.models.vocoder import Vocoder
from vconv.training import checkpoint

Config = TypeVar("Config", ConversionConfig, VocoderConfig)


JOINT = "joint"  # the task whose checkpoints hold both models, each under its name
LIVE_ASR_ENCODER = "live_asr_encoder"  # the task whose checkpoints hold a live ASR encoder
ENCODERS = "encoders"  # the task whose checkpoints hold a conversion model and its ASR encoder, likewise


def load_conversion(path: Path, settings: Sequence[str] = ()) -> ConversionModel:
    """The model of a checkpoint or a run's folder, with ``key=value`` settings that do not change its weights' shapes.

    Without settings it may be that of a model folder.

    Raises:
        InputError: there is no checkpoint of a conversion model, or its weights do not fit the settings.
    """
    path = checkpoint.to_use(path)
    if path.is_dir():
        model = saved.load(path)[0]
        if settings:
            raise InputError(f"{path}: a model folder's settings stay as they are; export its checkpoint with --set")
        return model
    state = checkpoint.load_task(path, "conversion", JOINT, ENCODERS)
    model = saved.make(ConversionModel, override(_config(ConversionConfig, state, path), settings), path)
    try:
        model.load_state_dict(_weights(state, "conversion"))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        if not settings:
            raise _unfit(path) from error
        wanted = " ".join(settings)
        raise InputError(f"{path}: its weights have other shapes than --set {wanted} asks for; leave it out") from error
    return model.eval()


def load_conversion_behind(asr_encoder: Moonshine, file: str, path: Path) -> ConversionModel:
    """As ``load_conversion``, of a model that takes the features of the ASR encoder of that file.

    Raises:
        InputError: as there, or it was trained with another one.
    """
    model = load_conversion(path)
    if model.config.asr_channels != asr_encoder.channels:
        raise InputError(f"{file}: {path} was trained with another ASR encoder")
    return model


def trained_with(path: Path) -> tuple[Path | None, Path | None]:
    """Paths of the pretrained ASR encoder and speaker encoder that a conversion training used, if any.

    A training of encoders has changed its ASR encoder, which therefore has no file yet. A model folder has its own.
    """
    if checkpoint.to_use(path).is_dir():
        files = (path / ASR_ENCODER, path / SPEAKER_ENCODER_WEIGHTS)
        asr_file, speaker_file = (file if file.is_file() else None for file in files)
        return asr_file, speaker_file
    try:
        state = checkpoint.load_task(path, "conversion", JOINT, ENCODERS)
        config = state["config"] if state["task"] != ENCODERS else state["config"] | {"corpus": {}}
        asr_encoder, speaker_encoder = config.get("corpus", {}).get("asr_encoder"), config.get("speaker_encoder")
    except (KeyError, AttributeError):
        raise _unfit(path) from None
    asr_encoder, speaker_encoder = find_shipped(asr_encoder), find_shipped(speaker_encoder)
    return Path(asr_encoder) if asr_encoder else None, Path(speaker_encoder) if speaker_encoder else None


def load_vocoder(path: Path) -> Vocoder:
    """Of a checkpoint, a run's folder or a model's, frozen. Raises InputError where there is none."""
    path = checkpoint.to_use(path)
    if path.is_dir():
        return saved.load(path)[1].requires_grad_(False)
    state = checkpoint.load_task(path, "vocoder", JOINT)
    part = "vocoder_model" if state["task"] == JOINT else "model"
    model = saved.make(Vocoder, _config(VocoderConfig, state, path, part), path)
    try:
        model.load_state_dict(_weights(state, "vocoder"))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(path) from error
    return model.requires_grad_(False).eval()


def load_asr_encoder(path: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of the ASR encoder that a training has made.

    Raises:
        InputError: there is no checkpoint of a training that makes one.
    """
    return _weights(checkpoint.load_task(path, "robust_frontend", ENCODERS), "asr_encoder")


def load_live_asr_encoder(path: Path, asr_encoder: Path) -> LiveMoonshine:
    """The averaged weights of a live ASR encoder that was trained from the one in the ONNX file.

    Raises:
        InputError: there is no checkpoint of such a training, or it began with another ASR encoder.
    """
    weights = _weights(checkpoint.load_task(path, LIVE_ASR_ENCODER), "asr_encoder")
    live = LiveMoonshine.of(load_moonshine(asr_encoder))
    try:
        live.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: trained from another ASR encoder than {asr_encoder}; give that one") from error
    return live.requires_grad_(False).eval()


def _weights(state: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    """The averaged weights of the model of that name in a training's state."""
    if state["task"] in ("conversion", "vocoder"):
        return state["ema"]
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in state["ema"].items() if key.startswith(prefix)}


def _config(kind: type[Config], state: dict[str, Any], path: Path, part: str = "model") -> Config:
    """The model's part of the configuration in a training's state. Raises InputError where it is none."""
    try:
        return build(kind, state["config"][part], str(path))
    except (KeyError, TypeError):
        raise _unfit(path) from None


def _unfit(path: Path) -> InputError:
    return InputError(f"{path}: its weights do not fit its configuration; it was made by another version or changed")


@torch.no_grad()
def speak(vocoder: Vocoder, mel: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """mel [N_MELS, T], pitch [2, T] -> 24 kHz wave [T * OUTPUT_HOP]"""
    source = PulseTrain(pitch[0]).samples(0, pitch.shape[1])
    noise = np.random.default_rng(0).uniform(-1, 1, source.shape).astype(np.float32)
    device = next(vocoder.parameters()).device
    inputs = (torch.from_numpy(np.ascontiguousarray(x))[None].to(device) for x in (mel, pitch, source, noise))
    return vocoder(*inputs)[0].cpu().numpy()
