"""What a run goes on from or begins with: its own checkpoint, or the weights of another training."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vconv.errors import InputError
from vconv.models import saved
from vconv.models.layers import ConvNeXtBlock
from vconv.training import checkpoint
from vconv.training.checkpoint import BEST, CHECKPOINT
from vconv.training.optimizer import Ema


def resume_state(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, if ``resume`` is set and there is one.

    Raises:
        InputError: a run is there already and was not asked to be resumed, or all of its checkpoints are damaged.
    """
    path, best = folder / CHECKPOINT, folder / BEST
    if not resume and any(place.exists() for place in (path, checkpoint.previous(path), best)):
        raise InputError(f"{folder}: holds a run already; add --resume to go on, or choose another output")
    state = checkpoint.load_latest(path)
    if state is None:  # a kill came before the first checkpoint: what was best by then is made again
        for place in (best, checkpoint.previous(best)):
            place.unlink(missing_ok=True)
    return state


def pack_state(config: Any, step: int, ema: Ema, parts: dict[str, Any]) -> dict[str, Any]:
    """All that a run needs to go on exactly: ``parts`` are its modules and optimizers by name."""
    return {
        "task": config.task,
        "step": step,
        "config": dataclasses.asdict(config),
        "ema": ema.state,
        **{name: part.state_dict() for name, part in parts.items()},
    }


def restore_state(state: dict[str, Any], ema: Ema, device: torch.device, parts: dict[str, Any]) -> int:
    """Put a packed state back; returns the step to go on with.

    Raises:
        InputError: it is of another task, or of networks of another shape.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the checkpoint does not fit this config ({reason}); choose another output") from None
    ema.state = {name: value.to(device) for name, value in state["ema"].items()}
    return state["step"]


def start_from(
    path: Path, task: str | tuple[str, ...], modules: dict[str, nn.Module], fresh_layers: Collection[str] = ()
) -> None:
    """Give modules the weights that a checkpoint or a model folder has under their names, where the shapes agree.

    "ema" are the averaged weights. A layer is taken as a whole or not at all, and what is not taken is printed. A
    ConvNeXt block that the checkpoint does not have adds nothing at first: a model that gets deeper is what it was.
    A model folder has no heads, classifiers and discriminators: these begin fresh, as do the ``fresh_layers``.

    Raises:
        InputError: the file is missing, no checkpoint, or of another task.
    """
    state = load_start(path, task)
    fresh = []
    for name, module in modules.items():
        own, given = module.state_dict(), state.get(name, {})
        unfit = {k for k, v in own.items() if k not in given or given[k].shape != v.shape}
        layers = {k.rpartition(".")[0] for k in unfit} | {k.rpartition(".")[0] for k in own} & set(fresh_layers)
        taken = {k: given[k] for k in own if k.rpartition(".")[0] not in layers}
        module.load_state_dict({**own, **taken})
        for block, part in module.named_modules():
            if isinstance(part, ConvNeXtBlock) and f"{block}.scale" not in given:
                nn.init.zeros_(part.scale)
        if layers:
            parts = sorted({_part(layer) for layer in layers}) if given else []
            named = f" ({', '.join(parts[:6])}{' and others' if len(parts) > 6 else ''})" if parts else ""
            fresh.append(f"{len(layers)} layers of {name}{named}")
    if fresh:
        print(f"note: no weights in {path} fit these, which begin fresh: {'; '.join(fresh)}", flush=True)


def _part(layer: str) -> str:
    """What a layer is named with in a line: of the model's own its network's part, of others the head."""
    names = layer.split(".")
    return ".".join(names[:3] if names[0] == "model" else names[:1])


def load_start(path: Path, task: str | tuple[str, ...]) -> dict[str, Any]:
    """What a training may begin with: the state of a checkpoint or a run, or a model folder's as a checkpoint has it.

    Raises:
        InputError: the file is missing, no checkpoint or model folder, or of another task.
    """
    path = checkpoint.to_use(path)
    if not path.is_dir():
        return checkpoint.load_task(path, *([task] if isinstance(task, str) else task))
    conversion, vocoder = saved.load(path)
    if task == "vocoder":
        return {"ema": vocoder.state_dict()}
    weights = conversion.state_dict()
    learner = {f"model.{name}": value for name, value in weights.items()}
    return {"config": {"model": dataclasses.asdict(conversion.config)}, "ema": weights, "learner": learner}
