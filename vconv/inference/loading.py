"""From a model folder to a converter."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from vconv import __version__
from vconv.config import BottleneckConfig
from vconv.errors import InputError
from vconv.features import FRAME_RATE
from vconv.inference.converter import Converter
from vconv.inference.engine import Engine, OnnxEngine
from vconv.model_folder import default_model, read_config, read_identity

DEVICES = ("cpu", "cuda", "torch")  # the ONNX graphs; the torch modules on the GPU; the same on the CPU


def load(path: str | os.PathLike[str] | None = None, device: str = "cpu", threads: int | None = None) -> Converter:
    """A converter from a model folder.

    Args:
        path: what ``vconv export`` wrote; None takes the weights that come with vconv.
        device: "cpu" runs the ONNX graphs; "cuda" and "torch" run the torch modules, on the GPU and the CPU.
        threads: CPU threads; None takes all cores.

    Raises:
        InputError: the folder or a file in it is missing or wrong, or the device is not there.
    """
    if device not in DEVICES:
        raise InputError(f"no device '{device}'; use one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads are impossible; use 1 or more")
    folder = default_model() if path is None else Path(path)
    threads = threads or available_cores()
    config, _ = read_config(folder)
    return Converter(_engine(folder, device, threads), config, threads, read_identity(folder), folder)


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _engine(folder: Path, device: str, threads: int) -> Engine:
    if device == "cpu":
        return OnnxEngine(folder, threads)
    try:
        from vconv.inference.torch_engine import TorchEngine

        return TorchEngine(folder, device, threads)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--device {device} needs {error.name}, which is not installed; pip install 'vconv[train]', or use cpu"
        ) from error


_SPEAKER = {
    "encoder": "any, by a speaker encoder that was trained with the model",
    "pretrained": "any, by a pretrained speaker encoder",
    "table": "{} of the training data",
}


def describe(path: str | os.PathLike[str] | None = None) -> list[tuple[str, str]]:
    """A model folder and this installation, as (name, value) lines.

    Raises:
        InputError: the folder or its config is missing or wrong.
    """
    folder = default_model() if path is None else Path(path)
    conversion, _ = read_config(folder)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    packages = ("onnxruntime", "torch")
    return [
        ("vconv", __version__),
        ("model", str(folder)),
        ("content code", _code(conversion.bottleneck)),
        ("target speakers", _SPEAKER[conversion.speaker].format(len(conversion.speakers))),
        *((file.name, f"{file.stat().st_size / 1e3:,.0f} kB") for file in files),
        *((package, _version(package)) for package in packages),
        ("cores", str(available_cores())),
    ]


def _code(config: BottleneckConfig) -> str:
    if not config.codes_per_frame:
        return f"continuous ({config.kind})"
    rate = config.bits_per_frame * FRAME_RATE / 2
    return f"{config.codes_per_frame} of {config.code_values} values a frame ({config.kind}), {rate:.0f} bit/s"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
