"""A model folder: the names of its files, its format, its configuration, read and written here alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vconv.config import ConversionConfig, VocoderConfig, build
from vconv.digests import check_digests
from vconv.errors import InputError
from vconv.files import digest, write_text
from vconv.untrusted import read_json

FORMAT = 2
CONFIG = "config.json"
WEIGHTS = ("conversion.safetensors", "vocoder.safetensors")  # which the graphs read, and PyTorch
ASR_ENCODER = "asr_encoder.onnx"
LIVE_ASR_ENCODER = "live_asr_encoder.onnx"  # of live conversion; a model may do without
SPEAKER_ENCODER = "speaker_encoder.onnx"  # its weights lie beside it
SPEAKER_ENCODER_WEIGHTS = "speaker_encoder.safetensors"
POPULATION = "population.npz"
SHIPPED = "pretrained/base"  # what configurations call the folder that default_model() finds
DIGESTS = "sha256"  # in config.json: of graphs and weights by file name


def default_model() -> Path:
    """The folder of the weights that come with vconv: in the installed package, or in the checkout.

    Raises:
        InputError: there are none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "pretrained" / "base", package.parent / "pretrained" / "base"):
        if folder.is_dir():
            return folder
    raise InputError(f"{folder}: no weights came with this vconv; install it again, or give a model with --model")


def find_shipped(settings: Any) -> Any:
    """Settings whose paths at or below ``pretrained/base`` are those of ``default_model``, unless such files are here.

    Raises:
        InputError: one is named, and no weights came with this vconv.
    """
    if isinstance(settings, dict):
        return {key: find_shipped(value) for key, value in settings.items()}
    if not isinstance(settings, str) or not f"{settings}/".startswith(f"{SHIPPED}/") or Path(settings).exists():
        return settings
    return str(default_model() / settings[len(SHIPPED) :].lstrip("/"))


def check_files(folder: Path, names: list[str]) -> None:
    """Raise InputError if the folder or one of its files is missing."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder; give one made by `vconv export` with --model")
    for name in names:
        path = folder / name
        if not path.is_file() or not path.stat().st_size:
            raise InputError(f"{path}: is missing or empty; export or download the model again")


def check_whole(folder: Path, names: list[str]) -> None:
    """See that files are as they were when the model was exported.

    Raises:
        InputError: a file is missing, or config.json records another digest of it, or none.
    """
    check_files(folder, names)
    recorded = _read_settings(folder).get(DIGESTS, {})
    for name in names:
        if name not in recorded:
            raise InputError(f"{folder / CONFIG}: records no digest of {name}; export or download the model again")
    check_digests(folder, {name: recorded[name] for name in names})


def encoder_files(config: ConversionConfig) -> list[str]:
    """Files of the pretrained encoders that a model has."""
    files = [ASR_ENCODER] if config.asr_channels else []
    return [*files, SPEAKER_ENCODER, SPEAKER_ENCODER_WEIGHTS] if config.speaker == "pretrained" else files


def record_digests(folder: Path) -> None:
    """Write into config.json what graphs and weights there are and their digests: the last step of an export.

    Raises:
        InputError: the folder holds no config, or cannot be written to.
    """
    config = _read_settings(folder)
    files = sorted(file.name for file in folder.iterdir() if file.suffix in (".onnx", ".safetensors"))
    config[DIGESTS] = {name: digest(folder / name) for name in files}
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def read_config(folder: Path) -> tuple[ConversionConfig, VocoderConfig]:
    """The networks of a model folder, as its config.json describes them.

    Raises:
        InputError: the folder or the file is missing, not JSON, of another format version, or wrong.
    """
    path = folder / CONFIG
    config = _read_settings(folder)
    version, parts = config["format"], (config["conversion"], config["vocoder"])
    if version != FORMAT:
        raise InputError(f"{path}: has model format {version!r}, this vconv reads {FORMAT}; export the model again")
    for part in parts:
        if not isinstance(part, dict):
            raise InputError(f"{path}: expected a mapping of settings, got {part!r}; export the model again")
    return (
        build(ConversionConfig, parts[0], f"{path}: conversion"),
        build(VocoderConfig, parts[1], f"{path}: vocoder"),
    )


def read_identity(folder: Path) -> str:
    """What identifies a model: the digest of its weights, where its export left one, or of its settings.

    Raises:
        InputError: the folder or its config is missing or wrong.
    """
    config = _read_settings(folder)
    settings = json.dumps(config["conversion"], sort_keys=True)
    return str(config.get("weights") or hashlib.sha256(settings.encode()).hexdigest())


def _read_settings(folder: Path) -> dict[str, Any]:
    """What stands in config.json, at least the format and a part for each model."""
    check_files(folder, [CONFIG])
    path = folder / CONFIG
    try:
        config = read_json(path)
        _ = config["format"], config["conversion"], config["vocoder"]
        digests = config.get(DIGESTS, {})
        if not all(isinstance(value, str) for value in digests.values()):
            raise TypeError("digests are text")
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not a model's config; export or download the model again") from error
    return config
