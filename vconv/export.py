"""From training checkpoints to a model folder: safetensors, config and the ONNX graphs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from vconv.features import N_MELS, OUTPUT_HOP
from vconv.models import saved
from vconv.models.conversion import ConversionModel
from vconv.models.vocoder import Vocoder
from vconv.training.load import load_conversion, load_vocoder

OPSET = 18
SMALLEST_HALF = 128  # elements; smaller tensors stay float32 in the graph
EXAMPLE_FRAMES = 64  # of the inputs that the tracer runs on


class ContentGraph(nn.Module):
    def __init__(self, model: ConversionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        code = self.model.encode(mel)
        codes = code.codes if code.codes is not None else code.z_q[:, :0].long()
        return code.z_q, codes


def export(conversion: Path, vocoder: Path, output: Path) -> None:
    """Write a model folder from a conversion and a vocoder checkpoint, with their averaged weights.

    Raises:
        InputError: a file that is not such a checkpoint.
    """
    write_model(output, load_conversion(conversion), load_vocoder(vocoder))


def write_model(folder: Path, conversion: ConversionModel, vocoder: Vocoder) -> None:
    """Write config, weights and graphs. The models' weights are rounded to half precision in place."""
    folder.mkdir(parents=True, exist_ok=True)
    saved.round_to_half(conversion.eval())
    saved.round_to_half(vocoder.eval())
    saved.save(folder, conversion, vocoder)
    frames, half = EXAMPLE_FRAMES, torch.export.Dim("half", min=4, max=1 << 20)
    full = 2 * half
    mel, pitch = torch.randn(1, N_MELS, frames), torch.zeros(1, 2, frames)
    embedding = torch.randn(1, conversion.config.embedding_channels)
    content = torch.randn(1, conversion.config.content_channels, frames // 2)
    # Two tensors: the tracer would take one that is passed twice for one input.
    source, noise = torch.randn(1, frames * OUTPUT_HOP), torch.randn(1, frames * OUTPUT_HOP)
    vocoder_frames = torch.export.Dim("frames", min=4, max=1 << 20)
    samples = {1: OUTPUT_HOP * vocoder_frames}
    graphs = {
        "content": (ContentGraph(conversion), {"mel": mel}, ["content", "codes"], {"mel": {2: full}}),
        "speaker": (conversion.speaker, {"mel": mel}, ["embedding"], {"mel": {2: full}}),
        "decoder": (
            conversion.decoder,
            {"content": content, "pitch": pitch, "embedding": embedding},
            ["mel_out"],
            {"content": {2: half}, "pitch": {2: full}, "embedding": None},
        ),
        "vocoder": (
            vocoder,
            {"mel": mel, "pitch": pitch, "source": source, "noise": noise},
            ["wave"],
            {"mel": {2: vocoder_frames}, "pitch": {2: vocoder_frames}, "source": samples, "noise": samples},
        ),
    }
    for name, (module, inputs, outputs, shapes) in graphs.items():
        graph = _trace(module, inputs, outputs, shapes)
        saved.replace(folder / f"{name}.onnx", lambda path, graph=graph: onnx.save(graph, path))


def _trace(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], shapes: dict) -> onnx.ModelProto:
    """The module as an ONNX graph with its large weights stored in half precision."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module.eval(),
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    return store_in_half(program.model_proto)


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep large weights as float16, cast to float32 when the graph is loaded: half the size, the same result.

    Only weights that float16 holds exactly, as those of ``round_to_half``; a table like the DFT's stays.
    """
    graph, casts = model.graph, []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST_HALF:
            continue
        value = numpy_helper.to_array(tensor)
        half = value.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), value):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    del graph.value_info[:]  # the exporter's shape notes name tensors that are gone
    return model
