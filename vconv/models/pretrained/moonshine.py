"""The encoder of Moonshine, a speech recognizer, in PyTorch: for perceptual losses and to fine-tune it.

``vconv.frontends.asr_encoder`` runs its ONNX graph at inference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from vconv.errors import InputError
from vconv.features import code_frames, frame_count
from vconv.frontends.grid import CENTRE, STRIDE, places

ROTATED = 32  # channels of each head with rotary position embedding
ROTARY_BASE = 10000.0
HEADS = 8
EPSILON = 1e-5
HIDDEN = -1e4  # added to the score of a frame that is not to be attended to


class EncoderLayer(nn.Module):
    """Attention, then two layers on each frame, both on normalized input and added to it: [B, T, C]

    ``visible`` [T, T] says whether a frame attends to another; by default each attends to all.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(channels, EPSILON, bias=False)
        self.query, self.key, self.value, self.output = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.between = nn.LayerNorm(channels, EPSILON, bias=False)
        self.wide, self.narrow = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor, turn: Tensor, visible: Tensor | None = None) -> Tensor:
        normed = self.before(x)
        return self.attending(x, normed, self.key(normed), self.value(normed), turn, visible)

    def attending(
        self, x: Tensor, normed: Tensor, key: Tensor, value: Tensor, turn: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """The same with keys and values [B, P + T, C] of frames before as well; the last T are those of ``normed``."""
        split = lambda y: y.unflatten(2, (HEADS, -1)).transpose(1, 2)  # noqa: E731
        query = rotate(split(self.query(normed)), turn[turn.shape[0] - x.shape[1] :])
        found = attended(query, rotate(split(key), turn), split(value), visible)
        x = x + self.output(found.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.between(x))))


def attended(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """Values [B, H, T, C] attended to; ``visible`` [T, P + T] as ``EncoderLayer`` takes it."""
    if visible is None:
        return F.scaled_dot_product_attention(query, key, value)
    # On the CPU torch's own function takes longer to go back through a mask, and infinity slows the exponential.
    hidden = torch.zeros_like(visible, dtype=query.dtype).masked_fill_(~visible, HIDDEN)
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
        return (scores + hidden).softmax(dim=3) @ value


def turns(frames: int, device: torch.device) -> Tensor:
    """Cosine and sine of the angle of each pair of channels at each place: [frames, 2, ROTATED / 2]"""
    rates = ROTARY_BASE ** (-torch.arange(0, ROTATED, 2, device=device) / ROTATED)
    angles = torch.arange(frames, device=device)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary position embedding of neighbouring channels, of the first ``ROTATED``: [B, H, T, C]

    Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", eq. 34.
    """
    first, rest = x.split([ROTATED, x.shape[3] - ROTATED], dim=3)
    (one, other), (cosine, sine) = first.float().unflatten(3, (-1, 2)).unbind(4), turn.unbind(1)
    turned = torch.stack([one * cosine - other * sine, one * sine + other * cosine], dim=4)
    return torch.cat([turned.flatten(3).to(x.dtype), rest], dim=3)


class Moonshine(nn.Module):
    """The encoder of Moonshine: wave [B, N] at 16 kHz -> features [B, R, ceil(T / 2)] on the content code's grid.

    Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands", section 3.1. The
    ONNX graph differs by 8 bits, to which it rounds on its way and which have no gradient.
    """

    def __init__(self, channels: int, hidden: int, layers: int, stride: float, centre: float) -> None:
        super().__init__()
        self.channels, self.stride, self.centre = channels, stride, centre
        self.first = nn.Conv1d(1, channels, 127, stride=64, bias=False)
        self.norm = nn.GroupNorm(1, channels, EPSILON)
        self.second = nn.Conv1d(channels, 2 * channels, 7, stride=3)
        self.third = nn.Conv1d(2 * channels, channels, 3, stride=2)
        self.layers = nn.ModuleList(EncoderLayer(channels, hidden) for _ in range(layers))
        self.last = nn.LayerNorm(channels, EPSILON, bias=False)

    def forward(self, wave: Tensor) -> Tensor:
        return self.features(self.hidden(wave)[-1], wave.shape[1])

    def hidden(self, wave: Tensor) -> list[Tensor]:
        """Of a wave [B, N]: the output of the convolutions and of each layer, [B, F, C]"""
        with torch.autocast(wave.device.type, enabled=False):  # a wave is more than eight bits
            x = self.norm(self.first(wave.float().unsqueeze(1)).tanh())
        x = self.reduced(x)
        turn, found = turns(x.shape[1], x.device), [x]
        for layer in self.layers:
            found.append(layer(found[-1], turn))
        return found

    def reduced(self, normed: Tensor) -> Tensor:
        """The normed output of the first convolution, [B, C, 6F + 13], through the others: [B, F, C]"""
        return F.gelu(self.third(F.gelu(self.second(normed)))).transpose(1, 2)

    def features(self, last: Tensor, samples: int) -> Tensor:
        """Features [B, R, ceil(T / 2)] of a wave of so many samples, from the last layer's output [B, F, C]."""
        return self._at_code_frames(self.last(last).transpose(1, 2).float(), samples)

    def _at_code_frames(self, x: Tensor, samples: int) -> Tensor:
        """[B, R, F] -> [B, R, ceil(T / 2)], linearly, the ends held: as in ``vconv.frontends.asr_encoder``."""
        frames = torch.arange(code_frames(frame_count(samples)), device=x.device)
        return at_places(x, places(frames, self.stride, self.centre))


def at_places(x: Tensor, place: Tensor) -> Tensor:
    """Frames [B, R, F] at places [K] between them, linearly, the ends held: [B, R, K], as ``grid.at_places``."""
    place = place.clamp(0, x.shape[2] - 1)
    low = place.long().clamp(max=x.shape[2] - 2)
    return torch.lerp(x[:, :, low], x[:, :, low + 1], place - low)


def load_moonshine(path: str | Path) -> Moonshine:
    """Of an ASR encoder's graph, frozen, in float32.

    Raises:
        InputError: the file is missing, damaged, or another network's.
    """
    try:
        model = onnx.load(path)
        notes = {note.key: note.value for note in model.metadata_props}
        state = _state(model)
        channels, hidden = state["layers.0.wide.weight"].shape[::-1]
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        moonshine = Moonshine(channels, hidden, layers, float(notes[STRIDE]), float(notes[CENTRE]))
        moonshine.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(f"{path}: no such ASR encoder; make one with recipes/base/asr_encoder.py") from None
    except Exception as error:  # protobuf raises errors of its own, and a graph may differ in any way
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: no ASR encoder of Moonshine's form, through which alone others can be trained ({reason})"
        ) from None
    return moonshine.requires_grad_(False).eval()


# What a part is called there (by the output of the node that has its weights), and here.
PARTS = {
    "self_attn/q_proj": "query",
    "self_attn/k_proj": "key",
    "self_attn/v_proj": "value",
    "self_attn/o_proj": "output",
    "mlp/fc1": "wide",
    "mlp/fc2": "narrow",
}
QUANTIZED, SCALE, ZERO_POINT = "_quantized", "_scale", "_zero_point"  # endings of what makes up a matrix of 8 bits
NORMS = {"input_layernorm": "before", "post_attention_layernorm": "between"}


OWN = re.compile(r"((?:first|second|third|norm|last|layers\.\d+\.\w+)\.(?:weight|bias))(_quantized)?")


def _state(model: onnx.ModelProto) -> dict[str, Tensor]:
    arrays = _arrays(model)
    if f"first.weight{QUANTIZED}" in arrays:
        return _own_state(arrays)
    whole = {name: torch.tensor(arrays[source]) for name, source in _whole_weights(model, arrays)}
    state = {name: value.squeeze(-1) if "norm" in name else value for name, value in whole.items()}
    return state | {name: _dequantized(arrays, stem) for name, stem in _products(model)}


def _own_state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Of a graph that ``vconv.export.asr_encoder`` made, where weights have their names of here."""
    state = {}
    for source, value in arrays.items():
        if not (found := OWN.fullmatch(source)):
            continue
        name, in_bytes = found.groups()
        if not in_bytes:
            value = value.reshape(-1)
        elif value.ndim == 2:
            value = (value.astype(np.float32) * arrays[name + SCALE]).T
        else:
            value = value.astype(np.float32) * arrays[name + SCALE][:, None, None]
        state[name] = torch.tensor(value)
    return state


def _arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights that the graph holds, by the names under which its nodes take them."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for half, name in _halves(model).items():
        arrays[name] = arrays[half].astype(np.float32)
    return arrays


def _halves(model: onnx.ModelProto) -> dict[str, str]:
    """What is stored in half precision and made float32 by a cast: its name, and that of the result."""
    stored = {tensor.name for tensor in model.graph.initializer}
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    return {node.input[0]: node.output[0] for node in casts if node.input[0] in stored}


def _products(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Matrices of 8 bits: the name here, and there without the ending."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if found := re.match(r"/layers\.(\d+)/(self_attn/[qkvo]_proj|mlp/fc[12])/", node.output[0]):
            layer, part = found.groups()
            if weight := next((name for name in node.input if name.endswith(QUANTIZED) and name in stored), None):
                yield f"layers.{layer}.{PARTS[part]}.weight", weight.removesuffix(QUANTIZED)


def _whole_weights(model: onnx.ModelProto, arrays: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What was not rounded to 8 bits, convolutions, norms and biases: the name here, and there."""
    first = next(node for node in model.graph.node if node.op_type in ("Conv", "FusedConv"))
    yield "first.weight", first.input[1]
    yield "last.weight", "layer_norm.weight"
    for form, name in ((r"onnx::Mul_\d+", "norm.weight"), (r"onnx::Add_\d+", "norm.bias")):
        yield name, next(source for source in arrays if re.fullmatch(form, source))
    for place, name in ((2, "second"), (3, "third")):
        yield f"{name}.weight", f"conv{place}.weight_add_tensor"
        yield f"{name}.bias", f"conv{place}.bias"
    for source in arrays:
        if found := re.fullmatch(r"layers\.(\d+)\.(\w+layernorm)\.weight", source):
            yield f"layers.{found[1]}.{NORMS[found[2]]}.weight", source
        elif found := re.fullmatch(r"layers\.(\d+)\.(mlp\.fc[12])\.bias", source):
            yield f"layers.{found[1]}.{PARTS[found[2].replace('.', '/')]}.bias", source


def _dequantized(arrays: dict[str, np.ndarray], stem: str) -> Tensor:
    """The matrix [in, out] of a product, as that of a linear layer: [out, in]"""
    values = arrays[stem + QUANTIZED].astype(np.float32) - arrays[stem + ZERO_POINT].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray((values * arrays[stem + SCALE]).T))
