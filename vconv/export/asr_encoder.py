"""The ASR encoder as a graph, its matrices and convolutions in 8 bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.export.traced import Network
from vconv.export.tracing import begin_with, trace, without_notes
from vconv.frontends.grid import CENTRE, STRIDE
from vconv.models.pretrained.moonshine import HEADS, QUANTIZED, ROTATED, SCALE, EncoderLayer, Moonshine, turns

MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own operators
LONGEST = 4096  # frames of a wave, 98 s: so many angles the graph holds
EXAMPLE_SAMPLES, FEWEST_SAMPLES = 40000, 4000
STEPS = 127  # to each side of 0
# Processors without instructions for 8 bits add the products of two neighbouring inputs, 255 at most, in 16 bits: two
# weights of one sign must not have a larger sum.
STEPS_OF_TWO = (2**15 - 1) // 255


class AsrEncoderGraph(nn.Module):
    """``Moonshine`` by onnxruntime's operators of attention and of rotary position embedding."""

    def __init__(self, encoder: Moonshine) -> None:
        super().__init__()
        self.encoder = encoder
        cosine, sine = turns(LONGEST, torch.device("cpu")).unbind(1)
        self.register_buffer("cosine", cosine.contiguous())
        self.register_buffer("sine", sine.contiguous())

    def forward(self, wave: Tensor) -> Tensor:
        encoder = self.encoder
        x = encoder.reduced(encoder.norm(encoder.first(wave.unsqueeze(1)).tanh()))
        for layer in encoder.layers:
            x = x + layer.output(self._attended(layer, layer.before(x)))
            x = x + layer.narrow(F.gelu(layer.wide(layer.between(x))))
        return encoder.last(x)

    def _attended(self, layer: EncoderLayer, normed: Tensor) -> Tensor:
        query, key = (self._rotated(part(normed)) for part in (layer.query, layer.key))
        return _operator("MultiHeadAttention", (query, key, layer.value(normed)), {"num_heads": HEADS})

    def _rotated(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, dtype=torch.int64)
        settings = {"interleaved": 1, "num_heads": HEADS, "rotary_embedding_dim": ROTATED}
        return _operator("RotaryEmbedding", (x, start, self.cosine, self.sine), settings)


def _operator(name: str, inputs: tuple[Tensor, ...], settings: dict[str, int]) -> Tensor:
    """An operator of onnxruntime whose result has the shape of its first input. In PyTorch it is zeros."""
    first = inputs[0]
    return torch.onnx.ops.symbolic(
        f"{MICROSOFT}::{name}", inputs, settings, dtype=first.dtype, shape=first.shape, version=1
    )


def asr_encoder_graph(encoder: Moonshine) -> onnx.ModelProto:
    """The graph that ``vconv.frontends.asr_encoder`` runs and ``load_moonshine`` reads: wave [1, N] -> [1, F, R]."""
    samples = torch.export.Dim("samples", min=FEWEST_SAMPLES, max=1 << 22)
    wave = 0.1 * torch.randn(1, EXAMPLE_SAMPLES)
    network = Network(AsrEncoderGraph(encoder.eval()), {"wave": wave}, ["features"], {"wave": {1: samples}})
    return finished(trace(network), encoder)


def finished(model: onnx.ModelProto, encoder: Moonshine, notes: dict[str, str] | None = None) -> onnx.ModelProto:
    """A traced encoder with its weights under their own names and in 8 bits, and ``notes`` in its metadata."""
    model = without_notes(in_bytes(with_names(model, encoder.state_dict())))
    places = {STRIDE: f"{encoder.stride:g}", CENTRE: f"{encoder.centre:g}"}
    helper.set_model_props(model, places | (notes or {}))
    return model


def with_names(model: onnx.ModelProto, state: dict[str, Tensor]) -> onnx.ModelProto:
    """Call the weights what they are called in ``state``: the exporter renames those whose shape it changes."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    new = {name: name.removeprefix("encoder.") for name in values if name.removeprefix("encoder.") in state}
    renamed = {name: value.tobytes() for name, value in values.items() if name not in new}
    for name, value in state.items():
        if name in new.values():
            continue
        shapes = (value, value.T) if value.ndim == 2 else (value,)
        wanted = [one.float().contiguous().numpy().tobytes() for one in shapes]
        if found := next((one for one, other in renamed.items() if other in wanted), None):
            new[found] = name
            del renamed[found]
    for tensor in model.graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    return model


def in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Round the weights of matrix products and convolutions to 8 bits, with a scale for each output channel.

    Products are then computed in 8 bits; convolutions are not.
    """
    graph, first = model.graph, []
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    new: list[onnx.TensorProto] = []
    for node in graph.node:
        if node.op_type not in ("MatMul", "Conv") or node.input[1] not in weights:
            continue
        name = node.input[1]
        steps, scale = name + QUANTIZED, name + SCALE
        weight = weights.pop(name)
        if node.op_type == "MatMul":
            new += _rounded(weight.T, name)
            node.op_type, node.domain, node.input[:] = "DynamicQuantizeMatMul", MICROSOFT, [node.input[0], steps, scale]
        else:
            new += _rounded(weight, name)
            first.append(helper.make_node("DequantizeLinear", [steps, scale], [name], axis=0))
    kept = [tensor for tensor in graph.initializer if tensor.name in weights]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *new])
    begin_with(graph, first)
    if not any(one.domain == MICROSOFT for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


def _rounded(weight: np.ndarray, name: str) -> Iterator[onnx.TensorProto]:
    """Of a weight [O, ...]: whole steps, of a matrix [in, O] as products take it, and the size of a step [O]."""
    flat = weight.reshape(len(weight), -1)
    size = np.maximum(np.abs(flat).max(axis=1), 1e-12) / STEPS
    if weight.ndim == 2:
        pairs = np.abs(flat[:, : flat.shape[1] // 2 * 2].reshape(len(flat), -1, 2).sum(axis=2))
        size = np.maximum(size, pairs.max(axis=1) / (STEPS_OF_TWO - 1))  # one less: both may be rounded up
    rounded = np.round(flat / size[:, None]).astype(np.int8).reshape(weight.shape)
    yield numpy_helper.from_array(rounded.T if weight.ndim == 2 else rounded, name + QUANTIZED)
    yield numpy_helper.from_array(size.astype(np.float32), name + SCALE)
