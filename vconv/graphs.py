"""ONNX graphs through onnxruntime on the CPU; what a graph reads beside itself lies in its own folder."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vconv.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

Optimization = Literal["DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED"]


def open_graph(path: Path, threads: int, optimization: Optimization = "ENABLE_BASIC") -> InferenceSession:
    """A session for utterances of any length, one after another.

    Args:
        optimization: none for graphs that were rewritten when they were made; ENABLE_BASIC folds constants and drops
            what is not needed; ENABLE_EXTENDED also fuses activations, which saves a sixth of the vocoder's time.

    Raises:
        InputError: the file is no ONNX graph, or reads data that is no plain file in its folder.
    """
    check_external_data(path)
    import onnxruntime  # takes 0.1 s: not before there is something to run

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{optimization}")
    options.log_severity_level = 4  # an error is raised as well, and a warning is of no use to users
    # Utterances differ in length: neither the memory of one nor a plan of it is of use to the next.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no base class for what it raises on a bad file
        raise InputError(
            f"{path}: is not a working ONNX graph, or the weights beside it are not its own; "
            "export or download the model again"
        ) from error


def run_graph(session: InferenceSession, path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs of a graph that was opened from ``path``.

    Raises:
        InputError: the inputs do not fit the graph, as where config.json describes another one.
        MemoryError: there is too little.
    """
    try:
        return session.run(None, dict(inputs))
    except Exception as error:  # onnxruntime has no base class for what it raises
        reason = " ".join(str(error).split())
        if "allocate" in reason:
            raise MemoryError(reason) from error
        raise InputError(
            f"{path}: does not fit config.json ({reason[:160]}); export or download the model again"
        ) from error


def check_external_data(path: Path) -> None:
    """See that all tensors which a graph keeps in other files lie in plain files in its folder.

    onnxruntime itself refuses other places since 1.24, but follows links.

    Raises:
        InputError: the file is no ONNX graph, or refers to another place, a link, or no file.
    """
    try:
        names = external_files(path.read_bytes())
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: is not a working ONNX graph; export or download the model again") from error
    for name in names:
        if not name or name in (".", "..") or not set(name).isdisjoint("/\\:\0"):
            raise InputError(f"{path}: reads '{name[:60]}', which is not in its folder; do not use this model")
        place = path.parent / name
        try:
            plain = stat.S_ISREG(place.lstat().st_mode)
        except OSError as error:
            raise InputError(f"{place}: is missing or unreadable; export or download the model again") from error
        if not plain:
            raise InputError(f"{place}: is a link or no file at all; put the weights themselves there")


# The fields of ONNX's protocol buffer (onnx.proto3) that lead to tensors, by number.
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}


def external_files(data: bytes) -> set[str]:
    """Names of the files that tensors of a serialized ONNX model lie in; every place where a tensor can be is seen.

    Raises:
        ValueError, IndexError: it is no such model.
    """
    if b"location" not in data:
        return set()
    found = set()
    for start, end in _spans(data, "model", 0, len(data), "entry"):
        if data.find(b"location", start, end) >= 0:
            keys = {data[a:b] for a, b in _spans(data, "entry", start, end, "key")}
            if b"location" in keys:
                found |= {data[a:b].decode() for a, b in _spans(data, "entry", start, end, "value")}
    return found


def _spans(data: bytes, kind: str, start: int, end: int, wanted: str) -> Iterator[tuple[int, int]]:
    """Where the messages of the kind ``wanted`` lie in one of another kind."""
    todo = [(kind, start, end)]
    while todo:
        kind, at, end = todo.pop()
        fields = _FIELDS[kind]
        while at < end:
            tag, at = (data[at], at + 1) if data[at] < 128 else _long_number(data, at)
            wire = tag & 7
            if wire == 2:
                size, at = (data[at], at + 1) if data[at] < 128 else _long_number(data, at)
                inner = fields.get(tag >> 3)
                if inner == wanted:
                    yield at, at + size
                elif inner in _FIELDS and data.find(b"location", at, at + size) >= 0:  # else none lies elsewhere
                    todo.append((inner, at, at + size))
                at += size
            elif wire == 0:
                _, at = _long_number(data, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ValueError("no wire type of protocol buffers")
        if at != end:
            raise ValueError("a field is longer than its message")


def _long_number(data: bytes, at: int) -> tuple[int, int]:
    """A varint of any length, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number of more than 64 bits")
