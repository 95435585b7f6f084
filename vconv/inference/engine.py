"""What runs the networks: one small protocol, and the engine that needs nothing but onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vconv.config import ConversionConfig
from vconv.equalizer import equalized
from vconv.errors import InputError
from vconv.frontends.asr_encoder import FolderAsrEncoder
from vconv.frontends.speaker_encoder import FolderSpeakerEncoder
from vconv.graphs import open_graph, run_graph
from vconv.inference.correction import corrected
from vconv.inference.utterance import Utterance
from vconv.model_folder import WEIGHTS, check_files, check_whole, encoder_files, read_config
from vconv.stft import istft, stft
from vconv.voice import Reference, Voice

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPHS = ("content", "speaker", "decoder", "vocoder")
STATISTICS = {"statistics", "share"}  # inputs of graphs with instance norms: how to normalize other than by themselves


@dataclass(frozen=True)
class Encoded:
    """What the content encoder makes of T frames."""

    content: np.ndarray  # [C, T / 2]
    codes: np.ndarray | None  # [G, T / 2], where the bottleneck has codes
    statistics: np.ndarray | None  # [2, S], the input's own, where there are instance norms; see ``NormStatistics``


@dataclass(frozen=True)
class Decoded:
    """What the decoder makes of T frames."""

    mel: np.ndarray  # [N_MELS, T]
    statistics: np.ndarray | None  # as those of ``Encoded``


class Engine(Protocol):
    """The four networks on single utterances. T frames (even), C channels, G groups, E embedding, R features.

    Where ``statistics`` [2, S] are given, instance norms normalize by a ``share`` of them and for the rest by their
    input's own; without any, each input by itself.
    """

    def asr_features(self, utterance: Utterance) -> np.ndarray | None:
        """ASR features [R, T / 2], None where the model has no ASR encoder."""

    def content(self, utterance: Utterance, statistics: np.ndarray | None = None, share: float = 1.0) -> Encoded:
        """Content code of an utterance."""

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        """codes [G, T / 2] -> content [C, T / 2]"""

    def speaker(self, utterance: Utterance) -> np.ndarray:
        """Embedding [E] of unit length.

        Raises:
            InputError: the model has a table of speakers, and no speaker encoder.
        """

    def decode(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        voice: Voice,
        statistics: np.ndarray | None = None,
        share: float = 1.0,
    ) -> Decoded:
        """content [C, T / 2] and pitch [2, T] in a voice, whatever the voice has."""

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """mel [N_MELS, T], pitch [2, T], source and noise [T * OUTPUT_HOP] -> 24 kHz wave [T * OUTPUT_HOP].

        The wave is equalized to the mel; see ``vconv.equalizer``.
        """


def conditioning(voice: Voice, config: ConversionConfig) -> dict[str, np.ndarray]:
    """The decoder's inputs that depend on the voice; parts that the voice lacks are empty or zero, as in training."""
    reference = voice.reference or Reference.none(config.content_channels)
    return {
        "embedding": voice.embedding,
        "reference_content": reference.content,
        "reference_mel": reference.mel,
        "adapter": np.zeros(config.adapter_shape, np.float32) if voice.adapter is None else voice.adapter,
    }


class OnnxEngine:
    """The exported graphs through onnxruntime on the CPU; each is opened when it is first needed."""

    def __init__(self, folder: Path, threads: int) -> None:
        config = self._config = read_config(folder)[0]
        self._encoders = FolderEncoders(folder, config, threads)
        graphs = [f"{graph}.onnx" for graph in GRAPHS if config.embeds_speakers or graph != "speaker"]
        if config.bottleneck.codes_per_frame:
            graphs.append("tokens.onnx")
        check_whole(folder, [*graphs, *WEIGHTS, *encoder_files(config)])
        self._folder = folder
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}

    def asr_features(self, utterance: Utterance) -> np.ndarray | None:
        return self._encoders.asr_features(utterance)

    def content(self, utterance: Utterance, statistics: np.ndarray | None = None, share: float = 1.0) -> Encoded:
        asr_features = self.asr_features(utterance)
        optional = {} if asr_features is None else {"asr_features": asr_features}
        content, codes, *own = self._run("content", statistics, share, mel=utterance.mel, **optional)
        return Encoded(content, codes if len(codes) else None, *own or [None])

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        check_files(self._folder, ["tokens.onnx"])  # which a model without codes has not
        return self._run("tokens", codes=codes)[0]

    def speaker(self, utterance: Utterance) -> np.ndarray:
        pretrained = self._encoders.speaker_embedding(utterance)
        inputs = {"mel": utterance.mel} if pretrained is None else {"speaker_embedding": pretrained}
        return self._run("speaker", **inputs)[0]

    def decode(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        voice: Voice,
        statistics: np.ndarray | None = None,
        share: float = 1.0,
    ) -> Decoded:
        inputs = conditioning(voice, self._config)
        mel, *own = self._run("decoder", statistics, share, content=content, pitch=pitch, **inputs)
        return Decoded(corrected(mel, voice), *own or [None])

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        real, imaginary, noise_gain = self._run("vocoder", mel=mel, pitch=pitch)
        hop = real.shape[1] // 2
        spectrum = np.empty(real.shape, np.complex64)
        spectrum.real, spectrum.imag = real, imaginary
        spectrum *= stft(source, hop)
        spectrum += stft(noise, hop) * noise_gain
        return equalized(istft(spectrum, hop), mel)

    def _run(
        self, graph: str, statistics: np.ndarray | None = None, share: float = 1.0, **inputs: np.ndarray
    ) -> list[np.ndarray]:
        """Outputs of a graph for one utterance: the batch axis is put on and taken off here.

        With instance norms, the input's own statistics [2, S] are the last.
        """
        if graph not in self._sessions:
            self._sessions[graph] = self._open(self._folder / f"{graph}.onnx", set(inputs))
        session = self._sessions[graph]
        if shape := next((node.shape for node in session.get_inputs() if node.name == "statistics"), None):
            inputs["statistics"] = np.zeros(shape[1:], np.float32) if statistics is None else statistics
            inputs["share"] = np.float32(0.0 if statistics is None else share)
        batch = {name: np.ascontiguousarray(np.asarray(value)[None], _kind(value)) for name, value in inputs.items()}
        return [output[0] for output in run_graph(session, self._folder / f"{graph}.onnx", batch)]

    def _open(self, path: Path, inputs: set[str]) -> InferenceSession:
        session = open_graph(path, self._threads, "ENABLE_EXTENDED")
        found = {node.name for node in session.get_inputs()} - STATISTICS
        if found != inputs:
            raise InputError(
                f"{path}: takes {', '.join(sorted(found))} instead of {', '.join(sorted(inputs))}; "
                "this is another graph, export or download the model again"
            )
        return session


def _kind(value: np.ndarray) -> type:
    return np.int64 if value.dtype.kind in "iu" else np.float32


class FolderEncoders:
    """The frozen encoders of a model folder that take waves: of ASR features and of speaker embeddings.

    Raises:
        InputError: the folder lacks one that the model takes.
    """

    def __init__(self, folder: Path, config: ConversionConfig, threads: int) -> None:
        self._embeds_speakers = config.embeds_speakers
        self._asr = FolderAsrEncoder(folder, config.asr_channels, threads) if config.asr_channels else None
        self._speaker = (
            FolderSpeakerEncoder(folder, config.speaker_embedding_channels, threads)
            if config.speaker == "pretrained"
            else None
        )

    def asr_features(self, utterance: Utterance) -> np.ndarray | None:
        """[R, T / 2], None without ASR encoder."""
        return self._asr and utterance.asr_features(self._asr)

    def speaker_embedding(self, utterance: Utterance) -> np.ndarray | None:
        """The pretrained speaker encoder's embedding [V], None where the model has one of its own.

        Raises:
            InputError: the model has a table of speakers, and no speaker encoder.
        """
        if not self._embeds_speakers:
            raise InputError(
                "this model has a table of its training speakers and no speaker encoder for clips; "
                "give one of the voices in its folder, voices/NAME.npz"
            )
        return self._speaker and self._speaker(utterance.wave)
