"""The encoder of a speech recognizer as the ``asr_encoder.onnx`` whose features a conversion model may take.

    python recipes/base/asr_encoder.py encoder_model.ort -o asr_encoder.onnx
    python recipes/base/asr_encoder.py asr_encoder.onnx --trained runs/base/robust_frontend/checkpoint.safetensors \\
        --share 0.5 -o robust_frontend.onnx
    python recipes/base/asr_encoder.py asr_encoder.onnx --live runs/live_asr_encoder/checkpoint.safetensors \\
        -o live_asr_encoder.onnx

The input takes a wave of 16 kHz, [1, N], and gives features, [1, F, R], at an even rate; it may be ONNX or ONNX
Runtime's own format. The large weights of the result that are float32 are stored in half precision, and its metadata
say where its frames lie. With --trained the input is an asr_encoder.onnx, and the result has the weights that a
training with `task: robust_frontend` or `task: encoders` made of its own, in 8 bits; --share interpolates between the
two (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3). With --live the result is what a
training with `task: live_asr_encoder` made of the input, for live conversion. README.md beside this file says where
the ASR encoder of pretrained/base came from.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from vconv.errors import InputError, run_script
from vconv.export import SMALLEST_HALF, store_in_half
from vconv.files import replacing
from vconv.frontends.grid import CENTRE, STRIDE


def read(path: Path) -> onnx.ModelProto:
    """The graph in the file, rewritten to run faster. Raises InputError where it is no model."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # for any machine
        options.optimized_model_filepath = str(Path(folder) / "read.onnx")
        options.add_session_config_entry("session.save_model_format", "ONNX")
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds have no common one of their own
            raise InputError(f"{path}: not a model that onnxruntime can load ({error})") from None
        return onnx.load(options.optimized_model_filepath)


def without_masks(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take the attention mask out of the graph: of a single wave it hides nothing, and to add it takes time."""
    graph = model.graph
    masks = {one.name for one in list(graph.input)[1:]}
    masked, softmaxed = set(masks), {node.input[0] for node in graph.node if node.op_type == "Softmax"}
    plain = {}
    for node in graph.node:
        if not masked.isdisjoint(node.input):
            if node.op_type == "Add" and node.output[0] in softmaxed:
                plain[node.output[0]] = next(name for name in node.input if name not in masked)
            else:
                masked.update(node.output)
    for node in graph.node:
        node.input[:] = [plain.get(name, name) for name in node.input]
    return _pruned(model)


def _pruned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without nodes, weights and inputs that no output depends on."""
    graph, used = model.graph, {one.name for one in model.graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not used.isdisjoint(node.output):
            nodes.insert(0, node)
            used.update(node.input)
    for kept, field in (
        (nodes, graph.node),
        *(([x for x in f if x.name in used], f) for f in (graph.initializer, graph.input)),
    ):
        del field[:]
        field.extend(kept)
    return model


def round_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Round large float32 weights to what half precision holds, and store them so."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= SMALLEST_HALF:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), tensor.name))
    return store_in_half(model)


def make(encoder: Path, stride: int, centre: int) -> onnx.ModelProto:
    model = round_weights(without_masks(read(encoder)))
    helper.set_model_props(model, {STRIDE: str(stride), CENTRE: str(centre)})
    return model


def trained(asr_encoder: Path, checkpoint: Path, share: float = 1.0) -> onnx.ModelProto:
    """An ASR encoder whose weights are that far on the way to those of a training: 0 as they were, 1 all of the way.

    Raises:
        InputError: one is not of the other, or the share not from 0 to 1.
    """
    from vconv.export.asr_encoder import asr_encoder_graph
    from vconv.models.pretrained.moonshine import load_moonshine
    from vconv.training.trained import load_asr_encoder

    if not 0 <= share <= 1:
        raise InputError(f"--share {share:g}: use 0 to 1")
    encoder, weights = load_moonshine(asr_encoder), load_asr_encoder(checkpoint)
    before = encoder.state_dict()
    try:
        encoder.load_state_dict({name: torch.lerp(before[name], value, share) for name, value in weights.items()})
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{checkpoint}: trained from another ASR encoder than {asr_encoder} ({error})") from None
    return asr_encoder_graph(encoder)


def save(model: onnx.ModelProto, output: Path) -> None:
    with replacing(output) as partial:
        onnx.save(model, partial)
        partial.chmod(0o644)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--stride", type=int, default=384, help="samples from frame to frame")
    parser.add_argument("--centre", type=int, default=447, help="samples to the middle of the first frame")
    parser.add_argument("--trained", type=Path, metavar="CHECKPOINT", help="whose weights it is to have")
    parser.add_argument("--live", type=Path, metavar="CHECKPOINT", help="of a live_asr_encoder training")
    parser.add_argument("--share", type=float, default=1.0, help="of the way to these weights, from 0 to 1; default 1")
    options = parser.parse_args(arguments)
    return run_script("error", lambda: run(options))


def run(options: argparse.Namespace) -> None:
    if options.live:
        from vconv.export.live_asr_encoder import live_asr_encoder_graph
        from vconv.training.trained import load_live_asr_encoder

        model = live_asr_encoder_graph(load_live_asr_encoder(options.live, options.encoder))
    elif options.trained:
        model = trained(options.encoder, options.trained, options.share)
    else:
        model = make(options.encoder, options.stride, options.centre)
    save(model, options.output)


if __name__ == "__main__":
    raise SystemExit(main())
