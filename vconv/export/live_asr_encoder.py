"""The live ASR encoder as a graph, in 8 bits as that of files."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from vconv.export.asr_encoder import finished
from vconv.export.traced import Network
from vconv.export.tracing import trace, without_lengths
from vconv.frontends.live_asr_encoder import LEVEL
from vconv.models.pretrained.moonshine_live import PAST_FRAMES, LiveMoonshine

EXAMPLE_FRAMES = 6


class LiveAsrEncoderGraph(nn.Module):
    def __init__(self, encoder: LiveMoonshine) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, wave: Tensor, level: Tensor, known: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.encoder.step(wave, level, known, keys, values)


def live_asr_encoder_graph(encoder: LiveMoonshine) -> onnx.ModelProto:
    """The graph that ``vconv.frontends.live_asr_encoder`` runs."""
    stride, span = int(encoder.stride), int(2 * encoder.centre + 1)
    keys = torch.randn(len(encoder.layers), PAST_FRAMES, encoder.channels)
    samples = torch.export.Dim("samples", min=stride + span, max=1 << 20)
    network = Network(
        LiveAsrEncoderGraph(encoder.eval()),
        {
            "wave": torch.randn(1, EXAMPLE_FRAMES * stride + span),
            "level": encoder.level[None].clone(),
            "known": torch.tensor(PAST_FRAMES // 2),
            "keys": keys,
            "values": keys.clone(),
        },
        ["features", "new_keys", "new_values", "own_level"],
        {"wave": {1: samples}, "level": None, "known": None, "keys": None, "values": None},
    )
    level = " ".join(f"{value:.7g}" for value in encoder.level.tolist())
    return finished(without_lengths(trace(network)), encoder, {LEVEL: level})
