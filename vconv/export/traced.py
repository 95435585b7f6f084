"""The networks as they are traced: wrappers of modules, with their names, inputs and examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vconv.features import N_MELS
from vconv.frontends.speaker_encoder import WINDOW_SAMPLES
from vconv.models.conversion import ConversionModel
from vconv.models.norm_statistics import NormStatistics
from vconv.models.pretrained.campplus import CamPlusPlus, fbank
from vconv.models.vocoder import Vocoder

EXAMPLE_FRAMES = 64  # of the inputs that the tracer runs on


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


class VocoderGraph(nn.Module):
    """The network of the vocoder; the STFTs are the engine's. The filter is in two real parts, as ONNX needs it."""

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: Tensor, pitch: Tensor) -> tuple[Tensor, ...]:
        magnitude, phase, gain = self.vocoder.filters(mel, pitch)
        return magnitude * phase.cos(), magnitude * phase.sin(), gain


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
    vocoder_frames = torch.export.Dim("frames", min=4, max=1 << 20)
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
            VocoderGraph(vocoder),
            {"mel": mel, "pitch": pitch},
            ["filter_real", "filter_imaginary", "noise_gain"],
            {"mel": {2: vocoder_frames}, "pitch": {2: vocoder_frames}},
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
