"""Files from unknown sources, read in bounded memory and depth, with finite numbers only and without code."""

from __future__ import annotations

import json
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vconv.errors import InputError, VconvError

MAX_DEPTH = 64  # of nested lists and mappings; a training checkpoint has 20
MAX_ARCHIVE_BYTES = 32 << 20  # of a .npz file
MAX_TEXT = 256  # characters of an array of text
MAX_JSON_BYTES = 16 << 20  # of a JSON file

_ITEM_BYTES = {"b": 1, "i": 8, "u": 8, "f": 8, "U": 4 * MAX_TEXT}  # of the kinds of arrays that are read; no objects
# What numpy, zipfile and zlib raise on damaged archives, beside numpy's ValueError.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    tokenize.TokenError,  # numpy reads a damaged header of an array a second time, token by token
    EOFError,
    RuntimeError,  # an encrypted member; RecursionError and NotImplementedError are such, too
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def all_finite(array: np.ndarray) -> bool:
    """Whether no number of it is infinite or NaN."""
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def check_finite(where: str, arrays: Mapping[str, np.ndarray | None], error: type[VconvError] = InputError) -> None:
    """Raise ``error`` if an array holds NaN or infinity; ``where`` begins the message.

    Args:
        arrays: by the name that the message gives; None is passed over.
    """
    for name, array in arrays.items():
        if array is not None and not all_finite(np.asarray(array)):
            raise error(f"{where}: {name} holds numbers that are not finite; make it again")


# ---------------------------------------------------------------- .npz


def load_arrays(
    path: str | os.PathLike[str], largest: Mapping[str, tuple[int, ...]], what: str, remedy: str
) -> dict[str, np.ndarray]:
    """Arrays of a .npz file, their shapes compared with what they may be at most before anything is read.

    Args:
        largest: the largest shape by name; an array has as many axes, or no element. Others are not read.
        what: what the file should hold, for the message.
        remedy: what to do, for the message.

    Raises:
        InputError: the file is missing, is no such archive, or holds an array that is too large or not finite.
    """
    try:
        if Path(path).stat().st_size > MAX_ARCHIVE_BYTES:
            raise ValueError(f"larger than {MAX_ARCHIVE_BYTES >> 20} MiB")
        with zipfile.ZipFile(path) as archive:
            names = {member.filename: member for member in archive.infolist()}
            return {
                name: _read_array(archive, names[f"{name}.npy"], name, shape)
                for name, shape in largest.items()
                if f"{name}.npy" in names
            }
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: holds no {what} ({_reason(error)}); {remedy}") from error


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, largest: tuple[int, ...]) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in an unknown way")
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another format version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.itemsize > _ITEM_BYTES.get(dtype.kind, -1):
        raise ValueError(f"{name} holds {dtype}")
    fits = len(shape) == len(largest) and all(own <= most for own, most in zip(shape, largest))
    if not fits and math.prod(shape):
        raise ValueError(f"{name} is {_product(shape)}, at most {_product(largest)} can be")
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"{name} is longer than its header says")
    return array


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:120] or type(error).__name__


# ---------------------------------------------------------------- JSON


def parse_json(text: str | bytes) -> Any:
    """A JSON value that is nested at most ``MAX_DEPTH`` deep.

    Raises:
        ValueError: it is no JSON, or nested deeper.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    level, depth = [value], 0
    while level := [outer for outer in level if isinstance(outer, (dict, list))]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return value


def read_json(path: Path) -> Any:
    """The value in a JSON file in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, no JSON, or nested too deeply.
    """
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"larger than {MAX_JSON_BYTES >> 20} MiB")
    return parse_json(text.decode())
