"""Training state in one file without pickle: tensors as safetensors, everything else as JSON in its header.

A state is nested dicts and lists of tensors, numbers, strings, booleans and None. Files are written
beside their name and moved onto it, so a kill at any moment leaves the last whole checkpoint. A training
keeps the last two: where the last one is damaged on the disk, it goes on from the one before. Of the weights that did
best at a validation it keeps the last two as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vconv.errors import InputError, VconvError
from vconv.files import sync
from vconv.untrusted import parse_json

CHECKPOINT = "checkpoint.safetensors"  # the last one of a run, from which it goes on
BEST = "best.safetensors"  # the weights with the best validation so far
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


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(path: Path, state: dict[str, Any], keep_previous: bool = False) -> None:
    """Write a state atomically, with a checksum of all that it holds.

    Args:
        keep_previous: keep what was there as ``previous(path)``; it gives way if the disk is full.

    Raises:
        VconvError: the folder is missing, not writable or full.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_flatten(state, "", tensors))
    notes = {"state": tree, "sha256": _checksum(tree, tensors)}
    partial = path.with_name(f".{path.name}.partial")  # one name: what a kill leaves, the next save replaces
    try:
        try:
            _write(partial, tensors, notes)
        except (OSError, SafetensorError):
            if not (keep_previous and previous(path).exists()):
                raise
            previous(path).unlink()
            _write(partial, tensors, notes)
        if keep_previous and path.exists():
            _set_aside(path)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise VconvError(f"{path}: cannot be written ({error}); look at its folder and its disk") from error
    finally:
        with contextlib.suppress(OSError):  # whatever kept it from being written
            partial.unlink(missing_ok=True)


def _write(path: Path, tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    save_file(tensors, path, notes)
    sync(path)


def _set_aside(path: Path) -> None:
    """Give a checkpoint the name of the one before, too, so that there is one under its own at every moment."""
    other = path.with_name(f".{path.name}.previous")
    try:
        other.unlink(missing_ok=True)
        other.hardlink_to(path)
        os.replace(other, previous(path))
    except OSError:  # no links on this disk: for a moment there is the one before alone
        os.replace(path, previous(path))


def _checksum(tree: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, kinds, shapes and contents."""
    found = hashlib.sha256(tree.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def load(path: Path) -> dict[str, Any]:
    """Read a state back, on the CPU; nothing of the file stays mapped.

    Raises:
        InputError: the file is missing, not a checkpoint, or not as it was written.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            # Cloned: a tensor of the file itself would keep it on the disk until the tensor is gone.
            names = list(file.keys())
            tensors = {name: file.get_tensor(name).clone() for name in names}
            notes = file.metadata()
        tree = notes["state"]
        if "sha256" in notes and notes["sha256"] != _checksum(tree, tensors):  # not in older files
            raise ValueError("its checksum is wrong")
        state = _restore(parse_json(tree), tensors)
        if not isinstance(state, dict):
            raise TypeError("it holds no state")
        return state
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a vconv checkpoint, or damaged ({reason})") from None


def load_latest(path: Path, set_aside: bool = True) -> dict[str, Any] | None:
    """The last whole checkpoint of ``path`` and ``previous(path)``; None where there is neither.

    If the last one is damaged and the one before is taken, a line says so, and the damaged one is renamed; neither
    without ``set_aside``.

    Raises:
        InputError: all that there are, are damaged.
    """
    places = [place for place in (path, previous(path)) if place.exists()]
    damage: InputError | None = None
    for place in places:
        try:
            state = load(place)
        except InputError as error:
            damage = damage or error
            continue
        if damage and set_aside:
            aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
            with contextlib.suppress(OSError):  # another process of this training was quicker
                os.replace(path, aside)
            print(f"{damage}; it is {aside.name} now, going on from step {state.get('step', 0)}", flush=True)
        return state
    if damage:
        raise damage
    return None


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a training, with a checkpoint."""
    return any((folder / name).exists() for name in (BEST, CHECKPOINT))


def to_use(path: Path) -> Path:
    """The best checkpoint in a run's folder, else its last one; any other path is returned unchanged."""
    if not (path.is_dir() and is_run(path)):
        return path
    return path / (BEST if (path / BEST).exists() else CHECKPOINT)


def load_task(path: Path, *tasks: str) -> dict[str, Any]:
    """The state ``to_use`` of a training of one of the tasks.

    Raises:
        InputError: there is no such checkpoint, it is damaged, or of another task.
    """
    path = to_use(path)
    state = load(path)
    if state.get("task") not in tasks:
        raise InputError(f"{path}: holds a {state.get('task', 'different')} training, not a {tasks[0]} one")
    return state
