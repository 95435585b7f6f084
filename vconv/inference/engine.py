"""What runs the networks: one small protocol, and the engine that needs nothing but onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vconv.errors import InputError
from vconv.frontends.asr_encoder import FolderAsrEncoder
from vconv.frontends.speaker_encoder import FolderSpeakerEncoder
from vconv.graphs import open_graph, run_graph
from vconv.model_folder import WEIGHTS, check_files, check_whole, encoder_files, read_config
from vconv.stft import istft, stft
from vconv.voice import Reference

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPHS = ("content", "speaker", "decoder", "vocoder")
STATISTICS = {"statistics", "share"}  # inputs of graphs with instance norms: how to normalize other than by themselves
OWN_STATISTICS = "own_statistics"  # their last output


class Engine(Protocol):
    """The four networks on single utterances. T frames (even), C channels, G groups, E embedding, R features."""

    def asr_features(self, wave: np.ndarray) -> np.ndarray:
        """wave [N] at 16 kHz -> ASR features [R, ceil(T / 2)]; R is 0 where there is no ASR encoder"""

    def content(self, mel: np.ndarray, asr_features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """mel [N_MELS, T], an ASR encoder's features [R, T / 2] -> content [C, T / 2] and its codes [G, T / 2]

        There are no rows of codes where the bottleneck has none.
        """

    def content_with(
        self, mel: np.ndarray, asr_features: np.ndarray, statistics: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Content [C, T / 2], normalized by given statistics [2, S], and the input's own [2, S]; see ``NormStatistics``

        S is 0 where the network has no instance norms. None normalizes each input by itself.
        """

    def decode_with(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        embedding: np.ndarray,
        reference: Reference,
        adapter: np.ndarray,
        statistics: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``decode``: mel [N_MELS, T], normalized by given statistics [2, S], and the input's own [2, S]"""

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        """codes [G, T / 2] -> content [C, T / 2]"""

    def speaker(self, wave: np.ndarray, mel: np.ndarray) -> np.ndarray:
        """wave [N] at 16 kHz and its mel [N_MELS, T] -> unit-length embedding [E]

        Raises:
            InputError: the model has a table of speakers, and no speaker encoder.
        """

    def decode(
        self, content: np.ndarray, pitch: np.ndarray, embedding: np.ndarray, reference: Reference, adapter: np.ndarray
    ) -> np.ndarray:
        """content [C, T / 2], pitch [2, T], embedding [E], reference, adapter [L, S] -> mel [N_MELS, T]"""

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """mel [N_MELS, T], pitch [2, T], source and noise [T * OUTPUT_HOP] -> 24 kHz wave [T * OUTPUT_HOP]"""


class OnnxEngine:
    """The exported graphs through onnxruntime on the CPU; each is opened when it is first needed."""

    def __init__(self, folder: Path, threads: int) -> None:
        config = read_config(folder)[0]
        self._embeds_speakers, self._uses_asr_features = config.embeds_speakers, config.asr_channels > 0
        self.asr_features = FolderAsrEncoder(folder, config.asr_channels, threads)
        self._pretrained_speaker = (
            FolderSpeakerEncoder(folder, config.speaker_embedding_channels, threads)
            if config.speaker == "pretrained"
            else None
        )
        graphs = [f"{graph}.onnx" for graph in GRAPHS if self._embeds_speakers or graph != "speaker"]
        if config.bottleneck.codes_per_frame:
            graphs.append("tokens.onnx")
        check_whole(folder, [*graphs, *WEIGHTS, *encoder_files(config)])
        self._folder = folder
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}

    def content(self, mel: np.ndarray, asr_features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        optional = {"asr_features": asr_features} if self._uses_asr_features else {}
        content, codes, *_ = self._run("content", mel=mel, **optional)
        return content, codes

    def content_with(
        self, mel: np.ndarray, asr_features: np.ndarray, statistics: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        optional = {"asr_features": asr_features} if self._uses_asr_features else {}
        content, _, own = self._run_with("content", statistics, mel=mel, **optional)
        return content, own

    def decode_with(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        embedding: np.ndarray,
        reference: Reference,
        adapter: np.ndarray,
        statistics: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        mel, own = self._run_with(
            "decoder",
            statistics,
            content=content,
            pitch=pitch,
            embedding=embedding,
            reference_content=reference.content,
            reference_mel=reference.mel,
            adapter=adapter,
        )
        return mel, own

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        check_files(self._folder, ["tokens.onnx"])  # which a model without codes has not
        return self._run("tokens", codes=codes)[0]

    def speaker(self, wave: np.ndarray, mel: np.ndarray) -> np.ndarray:
        if not self._embeds_speakers:
            raise no_encoder()
        inputs = {"speaker_embedding": self._pretrained_speaker(wave)} if self._pretrained_speaker else {"mel": mel}
        return self._run("speaker", **inputs)[0]

    def decode(
        self, content: np.ndarray, pitch: np.ndarray, embedding: np.ndarray, reference: Reference, adapter: np.ndarray
    ) -> np.ndarray:
        return self._run(
            "decoder",
            content=content,
            pitch=pitch,
            embedding=embedding,
            reference_content=reference.content,
            reference_mel=reference.mel,
            adapter=adapter,
        )[0]

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        real, imaginary, noise_gain = self._run("vocoder", mel=mel, pitch=pitch)
        hop = real.shape[1] // 2
        spectrum = np.empty(real.shape, np.complex64)
        spectrum.real, spectrum.imag = real, imaginary
        spectrum *= stft(source, hop)
        spectrum += stft(noise, hop) * noise_gain
        return istft(spectrum, hop)

    def _run_with(self, graph: str, statistics: np.ndarray | None, **inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of a graph, the last the statistics [2, S] of its norms; S is 0 in one without."""
        outputs = self._run(graph, statistics, **inputs)
        session = self._sessions[graph]
        has_norms = session.get_outputs()[-1].name == OWN_STATISTICS
        return outputs if has_norms else [*outputs, np.zeros((2, 0), np.float32)]

    def _run(self, graph: str, statistics: np.ndarray | None = None, **inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of a graph for one utterance: the batch axis is put on and taken off here."""
        if graph not in self._sessions:
            self._sessions[graph] = self._open(self._folder / f"{graph}.onnx", set(inputs))
        session = self._sessions[graph]
        if shape := next((node.shape for node in session.get_inputs() if node.name == "statistics"), None):
            inputs["statistics"] = np.zeros(shape[1:], np.float32) if statistics is None else statistics
            inputs["share"] = np.float32(statistics is not None)
        batch = {name: np.ascontiguousarray(np.asarray(value)[None], _kind(value)) for name, value in inputs.items()}
        return [output[0] for output in run_graph(session, self._folder / f"{graph}.onnx", batch)]

    def _open(self, path: Path, inputs: set[str]) -> InferenceSession:
        session = open_graph(path, self._threads)
        found = {node.name for node in session.get_inputs()} - STATISTICS
        if found != inputs:
            raise InputError(
                f"{path}: takes {', '.join(sorted(found))} instead of {', '.join(sorted(inputs))}; "
                "this is another graph, export or download the model again"
            )
        return session


def _kind(value: np.ndarray) -> type:
    return np.int64 if value.dtype.kind in "iu" else np.float32


def no_encoder() -> InputError:
    return InputError(
        "this model has a table of its training speakers and no speaker encoder for clips; "
        "give one of the voices in its folder, voices/NAME.npz"
    )
