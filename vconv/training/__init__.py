"""Training, from a YAML file: ``run(path)``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vconv.config import build, load_yaml
from vconv.errors import InputError

# The module of each task, and the class of its configuration there.
TASKS = {
    "conversion": ("vconv.training.conversion", "ConversionTraining"),
    "vocoder": ("vconv.training.vocoder", "VocoderTraining"),
    "robust_frontend": ("vconv.training.robust_frontend", "RobustFrontendTraining"),
}


def configuration(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The whole configuration of a training, defaults included: a dataclass, whose ``task`` names the training.

    Raises:
        InputError: a bad config; the line names the key.
    """
    mapping = load_yaml(Path(path), tuple(overrides))
    task = mapping.get("task", "conversion")
    if task not in TASKS:
        raise InputError(f"{path}: task: expected {', '.join(TASKS)}, got {task!r}")
    module, name = TASKS[task]
    return build(getattr(import_module(module), name), mapping, str(path))


def run(path: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Train what ``task`` in the YAML file names; returns the checkpoint's path.

    Raises:
        InputError: a bad config (the line names the key), no corpus, or a run that exists and is not resumed.
    """
    config = configuration(path, overrides)
    return import_module(TASKS[config.task][0]).train(config, resume)
