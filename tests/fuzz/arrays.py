"""NumPy archives: damaged bytes, and whole ones with other numbers, shapes and kinds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from tests.fuzz.mutate import damage, pick

NUMBERS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-40, 1e30, 1e300, 6e4)
KINDS = ("f2", "f4", "f8", "i1", "i8", "u8", "c8", "U3", "S3", "?", "M8[s]", "O")
_LONG = 4_000_000  # frames


def damage_archive(whole: Path, path: Path, rng: np.random.Generator) -> None:
    """Write a changed copy of the archive ``whole`` to ``path``."""
    if rng.random() < 0.4:
        path.write_bytes(damage(whole.read_bytes(), rng))
        return
    with np.load(whole) as loaded:
        arrays = dict(loaded)
    for _ in range(int(rng.integers(1, 4))):
        name = pick(rng, list(arrays) or ["codes"])
        if np.size(arrays.get(name)) >= _LONG:
            continue
        with np.errstate(all="ignore"):
            changed = _changed(np.array(arrays.get(name, 0.0)), rng)
        if changed is None:
            arrays.pop(name, None)
        else:
            arrays[name] = changed
    with path.open("wb") as file:
        pick(rng, (np.savez, np.savez_compressed))(file, **arrays)
    if rng.random() < 0.1:
        _with_header(path, rng)


def _changed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    kind = int(rng.integers(7))
    if kind == 0:
        return None
    if kind == 1 and array.size and array.dtype.kind == "f":
        array.flat[int(rng.integers(array.size))] = pick(rng, NUMBERS)
        return array
    if kind == 2:
        return np.full(array.shape, pick(rng, NUMBERS), np.float64)
    if kind == 3:
        return np.zeros([int(2 ** rng.uniform(0, 9)) for _ in range(int(rng.integers(0, 4)))], array.dtype)
    if kind == 4:
        return array[..., : int(rng.integers(array.shape[-1] + 1))] if array.ndim else array[None]
    if kind == 5:
        try:
            return array.astype(pick(rng, KINDS))
        except (ValueError, TypeError, OverflowError):
            return array[None]
    long = array.ndim == 2 and rng.random() < 0.1
    # One zero in memory, 640 MB in the file: a gigabyte in use is then the reader's and not this process's own.
    return np.broadcast_to(np.float16(0), (array.shape[0], _LONG)) if long else np.zeros_like(array)


def _with_header(path: Path, rng: np.random.Generator) -> None:
    """Give one array of an archive another header, whatever follows it."""
    shape = tuple(int(pick(rng, (0, 1, 80, 2**20, 2**40, 2**62))) for _ in range(int(rng.integers(0, 4))))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": pick(rng, ("<f2", "<f8", "|O", "<U9999")), "fortran_order": bool(rng.integers(2)), "shape": shape},
    )
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if not members:
        return
    members[pick(rng, list(members))] = header.getvalue() + bytes(64)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
