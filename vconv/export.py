"""From training checkpoints to a model folder: safetensors, config and the ONNX graphs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

from vconv.errors import InputError, VconvError
from vconv.features import N_MELS, OUTPUT_HOP
from vconv.frontends.asr_encoder import AsrEncoder
from vconv.frontends.speaker_encoder import WINDOW_SAMPLES
from vconv.model_folder import ASR_ENCODER, SPEAKER_ENCODER_WEIGHTS, WEIGHTS, record_digests
from vconv.models import saved
from vconv.models.conversion import ConversionModel
from vconv.models.norm_statistics import NormStatistics
from vconv.models.pretrained.campplus import CamPlusPlus, fbank, load_campplus, save_campplus
from vconv.models.speaker_table import SpeakerTable
from vconv.models.vocoder import Vocoder
from vconv.training.trained import load_conversion, load_vocoder, trained_with
from vconv.voice import Voice

OPSET = 18
SMALLEST_HALF = 128  # elements; smaller tensors stay float32 in the graph
EXAMPLE_FRAMES = 64  # of the inputs that the tracer runs on
ADAPTER_RANK = 8  # of the matrices that `vconv finetune` may add; more makes larger voices and slower conversions


class ContentGraph(nn.Module):
    """Content encoder and bottleneck; with ``statistics`` [B, 2, S] and ``share`` [B] as ``NormStatistics`` takes them,
    and its own [B, 2, S] as a last output."""

    def __init__(self, model: ConversionModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        mel: Tensor,
        asr_features: Tensor | None = None,
        statistics: Tensor | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        with NormStatistics(statistics, share) as norms:
            code = self.model.encode(mel, asr_features)
        codes = code.codes if code.codes is not None else code.z_q[:, :0].long()
        return code.z_q, codes, *norms.reported


class DecoderGraph(nn.Module):
    """The decoder, with the same inputs and output more."""

    def __init__(self, model: ConversionModel) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        content: Tensor,
        pitch: Tensor,
        embedding: Tensor,
        reference_content: Tensor,
        reference_mel: Tensor,
        adapter: Tensor,
        statistics: Tensor | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        with NormStatistics(statistics, share) as norms:
            mel = self.decoder(content, pitch, embedding, reference_content, reference_mel, adapter)
        return mel, *norms.reported


class SpeakerEncoderGraph(nn.Module):
    def __init__(self, speaker_encoder: CamPlusPlus) -> None:
        super().__init__()
        self.speaker_encoder = speaker_encoder

    def forward(self, fbank: Tensor) -> Tensor:
        return self.speaker_encoder.embed(fbank)


class TokensGraph(nn.Module):
    def __init__(self, model: ConversionModel) -> None:
        super().__init__()
        self.bottleneck = model.bottleneck

    def forward(self, codes: Tensor) -> Tensor:
        return self.bottleneck.decode(codes)


def export(
    conversion: Path,
    vocoder: Path,
    output: Path,
    settings: Sequence[str] = (),
    asr_encoder: Path | None = None,
    speaker_encoder: Path | None = None,
) -> None:
    """Write a model folder from a conversion and a vocoder checkpoint, with their averaged weights.

    ``vocoder`` may be another model folder, whose vocoder is then taken over. ``settings`` are ``key=value`` of the
    conversion model's config that concern its use, such as ``bottleneck.soft_temperature=0.1``. ``asr_encoder`` and
    ``speaker_encoder`` replace the files that the checkpoint names, where those have moved.

    Raises:
        InputError: a file is no such checkpoint, a folder holds no model, or a pretrained encoder is missing.
    """
    speaks = load_vocoder(vocoder)
    model, (asr_encoder_file, speaker_encoder_file) = load_conversion(conversion, settings), trained_with(conversion)
    asr_file = asr_encoder or asr_encoder_file
    if not model.config.asr_channels:
        asr_file = None
    elif asr_file is None or AsrEncoder(asr_file).channels != model.config.asr_channels:
        raise InputError(f"{conversion}: was trained with another ASR encoder than {asr_file}; give that one")
    write_model(
        output, model, speaks, asr_file, _speaker_encoder(model, conversion, speaker_encoder or speaker_encoder_file)
    )


def _speaker_encoder(model: ConversionModel, checkpoint: Path, file: Path | None) -> CamPlusPlus | None:
    """The pretrained speaker encoder of a model, if it has one. Raises InputError if it is not that of the training."""
    if model.config.speaker != "pretrained":
        return None
    speaker_encoder = load_campplus(file) if file else None
    if speaker_encoder is None or speaker_encoder.config.embedding_channels != model.config.speaker_embedding_channels:
        raise InputError(f"{checkpoint}: was trained with another speaker encoder than {file}; give that one")
    return speaker_encoder


def write_model(
    folder: Path,
    conversion: ConversionModel,
    vocoder: Vocoder,
    asr_encoder: Path | None = None,
    speaker_encoder: CamPlusPlus | None = None,
) -> None:
    """Write config, weights, graphs and the pretrained encoders; for a table of speakers, also their voices.

    The models' weights are rounded in place to what the files hold, and the decoder gets room for tuned matrices. The
    graphs read their weights from the safetensors files beside them. Graphs and voices of another model that was in the
    folder go first: what a kill leaves is incomplete and says so, and never two models mixed.
    """
    for module in (conversion, vocoder):
        try:
            saved.check_weights(module)
        except RuntimeError as error:
            raise VconvError(f"{folder}: not written, as {error}; export an earlier checkpoint") from error
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("*.onnx"), *(folder / "voices").glob("*.npz")]:
        if asr_encoder is None or stale.resolve() != asr_encoder.resolve():
            stale.unlink()
    conversion.config = dataclasses.replace(conversion.config, adapter_rank=ADAPTER_RANK)
    saved.round_weights(conversion.eval())
    saved.round_weights(vocoder.eval())
    saved.save(folder, conversion, vocoder)
    graphs, files = networks(conversion, vocoder), [folder / name for name in WEIGHTS]
    speaker_encoder_file = folder / SPEAKER_ENCODER_WEIGHTS
    if speaker_encoder is None:
        speaker_encoder_file.unlink(missing_ok=True)
    else:
        save_campplus(speaker_encoder_file, speaker_encoder, in_bytes=True)
        graphs["speaker_encoder"] = speaker_encoder_network(
            load_campplus(speaker_encoder_file)
        )  # rounded as the file is
        files.append(speaker_encoder_file)
    weights = places(files)
    if asr_encoder is not None and asr_encoder.resolve() != (folder / ASR_ENCODER).resolve():
        saved.replace(folder / ASR_ENCODER, lambda path: path.write_bytes(asr_encoder.read_bytes()))
    for name, network in graphs.items():
        graph = refer(store_in_half(trace(network)), weights)
        saved.replace(folder / f"{name}.onnx", lambda path, graph=graph: onnx.save(graph, path))
    record_digests(folder)
    if isinstance(conversion.speaker, SpeakerTable):
        write_voices(folder / "voices", conversion.config.speakers, conversion.speaker)


@torch.no_grad()
def write_voices(folder: Path, names: Sequence[str], table: SpeakerTable) -> None:
    """Write NAME.npz for each row of a table, its register with it; what no file is called is replaced in the name."""
    folder.mkdir(exist_ok=True)
    rows = zip(names, table(torch.arange(len(names))), table.log_f0.tolist(), table.log_f0_spread.tolist())
    taken: set[str] = set()
    for name, embedding, log_f0, spread in rows:
        stem = re.sub(r"[^\w.-]+", "_", name)
        while stem.lower() in taken:  # some file systems know no case
            stem += "_"
        taken.add(stem.lower())
        register, swing = (None if math.isnan(value) else value for value in (log_f0, spread))
        Voice(embedding.numpy(), register, log_f0_spread=swing).save(folder / f"{stem}.npz")


class Network(NamedTuple):
    """What becomes a graph: a module, example inputs by name, the outputs' names, the axes that vary."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    shapes: dict[str, Any]


def with_statistics(network: Network) -> Network:
    """The same with the statistics of its instance norms as inputs and an output, where it has such norms."""
    with torch.no_grad():
        outputs = network.module.eval()(**network.inputs)
    if len(outputs) == len(network.outputs):
        return network
    own = outputs[-1].clone()
    inputs = network.inputs | {"statistics": own, "share": torch.ones(1)}
    shapes = network.shapes | {"statistics": None, "share": None}
    return Network(network.module, inputs, [*network.outputs, "own_statistics"], shapes)


def networks(conversion: ConversionModel, vocoder: Vocoder) -> dict[str, Network]:
    """The graphs of a model folder by name: `speaker` where there is an encoder, `tokens` where there are codes."""
    config, frames = conversion.config, EXAMPLE_FRAMES
    half, reference = torch.export.Dim("half", min=4, max=1 << 20), torch.export.Dim("reference", min=2, max=1 << 20)
    full = 2 * half
    mel, pitch = torch.randn(1, N_MELS, frames), torch.zeros(1, 2, frames)
    content_inputs, content_shapes = {"mel": mel}, {"mel": {2: full}}
    if config.asr_channels:
        content_inputs["asr_features"] = torch.randn(1, config.asr_channels, frames // 2)
        content_shapes["asr_features"] = {2: half}
    content = torch.randn(1, config.content_channels, frames // 2)
    # Two tensors: the tracer would take one that is passed twice for one input.
    source, noise = torch.randn(1, frames * OUTPUT_HOP), torch.randn(1, frames * OUTPUT_HOP)
    vocoder_frames = torch.export.Dim("frames", min=4, max=1 << 20)
    samples = {1: OUTPUT_HOP * vocoder_frames}
    found = {
        "content": Network(ContentGraph(conversion), content_inputs, ["content", "codes"], content_shapes),
        "decoder": Network(
            DecoderGraph(conversion),
            {
                "content": content,
                "pitch": pitch,
                "embedding": torch.randn(1, config.embedding_channels),
                "reference_content": content[:, :, : frames // 4].clone(),
                "reference_mel": mel[:, :, : frames // 2].clone(),
                "adapter": torch.randn(1, *config.adapter_shape),
            },
            ["mel_out"],
            {
                "content": {2: half},
                "pitch": {2: full},
                "embedding": None,
                "reference_content": {2: reference},
                "reference_mel": {2: 2 * reference},
                "adapter": None,
            },
        ),
        "vocoder": Network(
            vocoder,
            {"mel": mel, "pitch": pitch, "source": source, "noise": noise},
            ["wave"],
            {"mel": {2: vocoder_frames}, "pitch": {2: vocoder_frames}, "source": samples, "noise": samples},
        ),
    }
    for name in ("content", "decoder"):
        found[name] = with_statistics(found[name])
    if config.speaker == "encoder":
        found["speaker"] = Network(conversion.speaker, {"mel": mel}, ["embedding"], {"mel": {2: full}})
    if config.speaker == "pretrained":
        voice = {"speaker_embedding": torch.randn(1, config.speaker_embedding_channels)}
        found["speaker"] = Network(conversion.speaker, voice, ["embedding"], {"speaker_embedding": None})
    if config.bottleneck.codes_per_frame:
        codes = conversion.encode(mel).codes
        found["tokens"] = Network(TokensGraph(conversion), {"codes": codes}, ["content"], {"codes": {2: half}})
    return found


def speaker_encoder_network(speaker_encoder: CamPlusPlus) -> Network:
    """From ``fbank`` of one window, the length that the speaker encoder is always given, to a voice."""
    energies = fbank(torch.zeros(1, WINDOW_SAMPLES))
    return Network(SpeakerEncoderGraph(speaker_encoder), {"fbank": energies}, ["speaker_embedding"], {"fbank": None})


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


def _dequantized(steps: str, scale: str, output: str) -> list[onnx.NodeProto]:
    """Nodes that make float32 weights of steps and the scale of each row in half precision."""
    return [
        helper.make_node("Cast", [scale], [f"{scale}.single"], to=TensorProto.FLOAT),
        helper.make_node("DequantizeLinear", [steps, f"{scale}.single"], [output], axis=0),
    ]


def store_in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep large weights as float16, cast to float32 when the graph is loaded: half the size, the same result.

    Only weights that float16 holds exactly, as most of ``round_weights``; a table like the DFT's stays.
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
    _begin_with(graph, casts)
    del graph.value_info[:]  # the exporter's shape notes name tensors that are gone
    del model.metadata_props[:], graph.metadata_props[:]
    for node in graph.node:  # where in the Python code each comes from: a twentieth of the file
        del node.metadata_props[:]
    return model


class Place(NamedTuple):
    """Where a tensor lies: file, offset, length; and the scale of its rows, where these are steps of 8 bits."""

    file: str
    start: int
    length: int
    scale: Place | None = None


def places(files: Sequence[Path]) -> dict[bytes, Place]:
    """Where the tensors of safetensors files lie, by digests of what they hold: halves, or floats made from 8 bits.

    The graphs that refer to them lie in the same folder.
    """
    found = {}
    for file in files:
        spans, values = _spans(file), load_file(file)
        for name, place in spans.items():
            value, scale = values[name], spans.get(name + saved.SCALE)
            if scale is not None:
                value, place = saved.from_bytes(value, values[name + saved.SCALE]), place._replace(scale=scale)
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
        if place.scale:
            scale = graph.initializer.add(name=f"{name}.scale", data_type=TensorProto.FLOAT16)
            _lie_at(scale, place.scale, [len(value.T if turned else value)])
            nodes += _dequantized(f"{name}.steps", scale.name, kept)
            tensor.data_type, tensor.name = TensorProto.INT8, f"{name}.steps"
        else:
            tensor.name = kept
        if turned:
            nodes.append(helper.make_node("Transpose", [kept], [name], perm=[1, 0]))
        _lie_at(tensor, place, value.T.shape if turned else value.shape)
    _begin_with(graph, nodes)
    return model


def _lie_at(tensor: onnx.TensorProto, place: Place, shape: Sequence[int]) -> None:
    tensor.dims[:] = shape
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", place.file), ("offset", place.start), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(entry))


def _begin_with(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes before all others."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _digest(value: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()
