"""ONNX graphs of networks, and their weights as half floats."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from vconv.export.traced import Network

OPSET = 20  # the first with an operator for GELU
SMALLEST_HALF = 128  # elements; smaller tensors stay float32 in the graph


def trace(network: Network) -> onnx.ModelProto:
    """The module as an ONNX graph."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            network.module.eval(),
            (),
            kwargs=network.inputs,
            input_names=list(network.inputs),
            output_names=network.outputs,
            dynamic_shapes=network.shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    return program.model_proto


def without_lengths(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take the shapes off inputs and outputs that vary in length; the results stay the same.

    From a named length onnxruntime derives the shape of every tensor when it opens the graph, in expressions that grow
    from layer to layer: half of the time that this takes.
    """
    for value in (*model.graph.input, *model.graph.output):
        if any(side.dim_param for side in value.type.tensor_type.shape.dim):
            value.type.tensor_type.ClearField("shape")
    return model


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep large weights as float16, cast to float32 when the graph is loaded: half the size, the same result.

    Only weights that float16 holds exactly, as most of ``round_weights``; a table like the DFT's stays. So do vectors,
    which are small and many: the graph opens faster without a cast for each.
    """
    graph, casts = model.graph, []
    for tensor in list(graph.initializer):
        size = np.prod(tensor.dims)
        if tensor.data_type != TensorProto.FLOAT or size < SMALLEST_HALF or size == max(tensor.dims):
            continue
        value = numpy_helper.to_array(tensor)
        half = value.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    begin_with(graph, casts)
    return without_notes(model)


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes."""
    graph = model.graph
    del graph.value_info[:]  # shapes of tensors, some of which are gone
    del model.metadata_props[:], graph.metadata_props[:]
    for node in graph.node:  # where in the Python code each comes from: a twentieth of the file
        del node.metadata_props[:]
    return model


def begin_with(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes before all others."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
