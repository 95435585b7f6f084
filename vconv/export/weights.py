"""Graphs that refer to weights in other files of the folder instead of holding them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file

from vconv.export.tracing import begin_with
from vconv.models import saved


class Place(NamedTuple):
    """Where a tensor lies: file, offset, length; and the scale of its rows [O], where these are steps of 8 bits."""

    file: str
    start: int
    length: int
    scale: np.ndarray | None = None


def places(files: Sequence[Path]) -> dict[bytes, Place]:
    """Where the tensors of safetensors files lie, by digests of what they hold: halves, or floats made from 8 bits.

    The graphs that refer to them lie in the same folder.
    """
    found = {}
    for file in files:
        spans, values = _spans(file), load_file(file)
        for name, place in spans.items():
            value, scale = values[name], values.get(name + saved.SCALE)
            if scale is not None:
                value, place = saved.from_bytes(value, scale), place._replace(scale=scale.float().numpy())
            found[_digest(value.numpy())] = place
    return found


def _spans(path: Path) -> dict[str, Place]:
    """Where a safetensors file has its tensors, by name: its header says it."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(size))
    tensors.pop("__metadata__", None)
    offsets = {name: tensor["data_offsets"] for name, tensor in tensors.items()}
    return {name: Place(path.name, 8 + size + start, end - start) for name, (start, end) in offsets.items()}


def refer(model: onnx.ModelProto, weights: dict[bytes, Place]) -> onnx.ModelProto:
    """Have large weights that lie in the folder already be read from there: ONNX's external data.

    A matrix that the exporter has transposed is transposed back when the graph is loaded.
    """
    graph, nodes = model.graph, []
    for tensor in list(graph.initializer):
        if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        value, name = numpy_helper.to_array(tensor), tensor.name
        turned = value.ndim == 2 and _digest(value) not in weights
        place = weights.get(_digest(value.T if turned else value))
        if place is None:
            continue
        kept = f"{name}.turned" if turned else name
        if place.scale is not None:
            graph.initializer.append(numpy_helper.from_array(place.scale.reshape(-1), f"{name}.scale"))
            steps = [f"{name}.steps", f"{name}.scale"]
            nodes.append(helper.make_node("DequantizeLinear", steps, [kept], axis=0))
            tensor.data_type, tensor.name = TensorProto.INT8, f"{name}.steps"
        else:
            tensor.name = kept
        if turned:
            nodes.append(helper.make_node("Transpose", [kept], [name], perm=[1, 0]))
        _lie_at(tensor, place, value.T.shape if turned else value.shape)
    begin_with(graph, nodes)
    return model


def _lie_at(tensor: onnx.TensorProto, place: Place, shape: Sequence[int]) -> None:
    tensor.dims[:] = shape
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", place.file), ("offset", place.start), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(entry))


def _digest(value: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
