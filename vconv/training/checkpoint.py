"""Training state in one file without pickle: tensors as safetensors, everything else as JSON in its header.

A state is nested dicts and lists of tensors, numbers, strings, booleans and None. Files are written
beside their name and moved onto it, so a kill at any moment leaves the last whole checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vconv.errors import InputError, VconvError
from vconv.files import sync

_TENSOR = "tensor:"


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` with each tensor replaced by its name in ``tensors``."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return _TENSOR + path
    if isinstance(value, dict):
        # JSON keys are strings; an optimizer's are numbers, which come back from the list of pairs.
        return {"pairs": [[key, _flatten(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_flatten(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _restore(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, str) and value.startswith(_TENSOR):
        return tensors[value[len(_TENSOR) :]]
    if isinstance(value, dict):
        return {key: _restore(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    return value


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically. Raises VconvError if the folder is missing, not writable or full."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_flatten(state, "", tensors))
    partial = path.with_name(f".{path.name}.partial")  # one name: what a kill leaves, the next save replaces
    try:
        save_file(tensors, partial, {"state": tree})
        sync(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise VconvError(f"{path}: cannot be written ({error}); look at its folder and its disk") from error
    finally:
        with contextlib.suppress(OSError):  # whatever kept it from being written
            partial.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a state back, on the CPU. Raises InputError if the file is missing or not a checkpoint."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safetensors file is no mapping
            return _restore(json.loads(file.metadata()["state"]), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a vconv checkpoint, or damaged ({error})") from None


def load_task(path: Path, task: str) -> dict[str, Any]:
    """As ``load``, of a training of that task. Raises InputError if it is of another."""
    state = load(path)
    if state.get("task") != task:
        raise InputError(f"{path}: holds a {state.get('task', 'different')} training, not a {task} one")
    return state
