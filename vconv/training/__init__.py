"""Training, from a YAML file: ``run(path)``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vconv.config import build, load_yaml
from vconv.errors import InputError


def run(path: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Train what ``task`` in the YAML file says, conversion, vocoder or hearing; returns the checkpoint's path.

    Raises:
        InputError: a bad config (the line names the key), no corpus, or a run that exists and is not resumed.
    """
    mapping = load_yaml(Path(path), tuple(overrides))
    task = mapping.get("task", "conversion")
    if task == "conversion":
        from vconv.training.conversion import ConversionTraining, train

        return train(build(ConversionTraining, mapping, str(path)), resume)
    if task == "vocoder":
        from vconv.training.vocoder import VocoderTraining, train

        return train(build(VocoderTraining, mapping, str(path)), resume)
    if task == "robust_frontend":
        from vconv.training.robust_frontend import RobustFrontendTraining, train

        return train(build(RobustFrontendTraining, mapping, str(path)), resume)
    raise InputError(f"{path}: task: expected conversion, vocoder or hearing, got {task!r}")
