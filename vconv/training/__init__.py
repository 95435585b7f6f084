"""Training, from a YAML file: ``run(path)``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vconv.config import build
from vconv.config_files import assign, load_yaml, merge
from vconv.errors import InputError
from vconv.model_folder import find_shipped

# The module of each task, and the class of its configuration there.
TASKS = {
    "conversion": ("vconv.training.conversion", "ConversionTraining"),
    "vocoder": ("vconv.training.vocoder", "VocoderTraining"),
    "joint": ("vconv.training.joint", "JointTraining"),
    "encoders": ("vconv.training.encoders", "EncodersTraining"),
    "robust_frontend": ("vconv.training.robust_frontend", "RobustFrontendTraining"),
    "live_asr_encoder": ("vconv.training.live_asr_encoder", "LiveAsrEncoderTraining"),
}


# Of a configuration file: what is laid over the rest of it where ``start_from`` is empty.
FROM_SCRATCH = "from_scratch"


def configuration(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The whole configuration of a training, defaults included: a dataclass, whose ``task`` names the training.

    Paths below ``pretrained/base`` are those of the shipped model, wherever it is installed.

    Raises:
        InputError: a bad config; the line names the key.
    """
    return build_configuration(_load(Path(path), overrides), str(path))


def build_configuration(mapping: dict[str, Any], where: str) -> Any:
    """The same of a mapping; ``where`` is its name in messages."""
    task = mapping.get("task", "conversion")
    if task not in TASKS:
        raise InputError(f"{where}: task: expected {', '.join(TASKS)}, got {task!r}")
    module, name = TASKS[task]
    return build(getattr(import_module(module), name), find_shipped(mapping), where)


def _load(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The mapping in a file with ``overrides`` on top, and its settings from scratch where that is how it begins."""
    mapping = load_yaml(path, tuple(overrides))
    from_scratch = mapping.pop(FROM_SCRATCH, None)
    if from_scratch is None or mapping.get("start_from"):
        return mapping
    if not isinstance(from_scratch, dict):
        raise InputError(f"{path}: {FROM_SCRATCH}: expected a mapping of settings")
    mapping = merge(mapping, from_scratch)
    for assignment in overrides:
        assign(mapping, assignment)
    mapping.pop(FROM_SCRATCH, None)  # which an override may have named
    return mapping


def run(path: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Train what ``task`` in the YAML file names; returns the checkpoint's path.

    Raises:
        InputError: a bad config (the line names the key), no corpus, or a run that exists and is not resumed.
    """
    config = configuration(path, overrides)
    return import_module(TASKS[config.task][0]).train(config, resume)
