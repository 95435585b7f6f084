"""What runs the networks: one small protocol, and the engine that needs nothing but onnxruntime."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vconv.config import MODEL_CONFIG, MODEL_FORMAT, ConversionConfig, VocoderConfig, build
from vconv.errors import InputError
from vconv.features import LOG_MEL_MIDDLE, N_MELS
from vconv.graphs import open_graph
from vconv.recognizer import FolderRecognizer
from vconv.verifier import FolderVerifier

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPHS = ("content", "speaker", "decoder", "vocoder")
WEIGHTS = ("conversion.safetensors", "vocoder.safetensors")  # which the graphs read, and PyTorch
STATISTICS = {"statistics", "share"}  # inputs of graphs with instance norms: how to normalize other than by themselves
OWN_STATISTICS = "own_statistics"  # their last output


@dataclass(frozen=True)
class Reference:
    """Speech of the target for the decoder's attention: its content [C, K] and its log-mel [N_MELS, 2K]."""

    content: np.ndarray
    mel: np.ndarray

    @classmethod
    def none(cls, channels: int) -> Reference:
        """What stands for no speech at all, as in training."""
        return cls(np.zeros((channels, 2), np.float32), np.full((N_MELS, 4), LOG_MEL_MIDDLE, np.float32))


class Engine(Protocol):
    """The four networks on single utterances. T frames (even), C channels, G groups, E embedding, R of a recognizer."""

    def recognize(self, wave: np.ndarray) -> np.ndarray:
        """wave [N] at 16 kHz -> what the recognizer hears in it [R, ceil(T / 2)]; R is 0 where there is none"""

    def content(self, mel: np.ndarray, phonetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """mel [N_MELS, T], a recognizer's features [R, T / 2] -> content [C, T / 2] and its codes [G, T / 2]

        There are no rows of codes where the bottleneck has none.
        """

    def content_with(
        self, mel: np.ndarray, phonetic: np.ndarray, statistics: np.ndarray | None
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
        style: np.ndarray,
        statistics: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``decode``: mel [N_MELS, T], normalized by given statistics [2, S], and the input's own [2, S]"""

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        """codes [G, T / 2] -> content [C, T / 2]"""

    def speaker(self, wave: np.ndarray, mel: np.ndarray) -> np.ndarray:
        """wave [N] at 16 kHz and its mel [N_MELS, T] -> unit-length embedding [E]

        Raises:
            InputError: the model has a table of speakers, and cannot hear any other.
        """

    def decode(
        self, content: np.ndarray, pitch: np.ndarray, embedding: np.ndarray, reference: Reference, style: np.ndarray
    ) -> np.ndarray:
        """content [C, T / 2], pitch [2, T], embedding [E], speech and style [L, S] of the target -> mel [N_MELS, T]"""

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """mel [N_MELS, T], pitch [2, T], source and noise [T * OUTPUT_HOP] -> 24 kHz wave [T * OUTPUT_HOP]"""


class OnnxEngine:
    """The exported graphs through onnxruntime on the CPU; each is opened when it is first needed."""

    def __init__(self, folder: Path, threads: int) -> None:
        config = read_config(folder)[0]
        self._hears, self._recognizes = config.hears_speakers, config.phonetic_channels > 0
        self.recognize = FolderRecognizer(folder, config.phonetic_channels, threads)
        self._verify = FolderVerifier(folder, config.voice_channels, threads) if config.speaker == "verifier" else None
        graphs = [f"{graph}.onnx" for graph in GRAPHS if self._hears or graph != "speaker"]
        check_files(folder, [*graphs, *WEIGHTS])
        self._folder = folder
        self._threads = threads
        self._sessions: dict[str, InferenceSession] = {}

    def content(self, mel: np.ndarray, phonetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        recognized = {"phonetic": phonetic} if self._recognizes else {}
        content, codes, *_ = self._run("content", mel=mel, **recognized)
        return content, codes

    def content_with(
        self, mel: np.ndarray, phonetic: np.ndarray, statistics: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        recognized = {"phonetic": phonetic} if self._recognizes else {}
        content, _, own = self._run_with("content", statistics, mel=mel, **recognized)
        return content, own

    def decode_with(
        self,
        content: np.ndarray,
        pitch: np.ndarray,
        embedding: np.ndarray,
        reference: Reference,
        style: np.ndarray,
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
            style=style,
        )
        return mel, own

    def content_of(self, codes: np.ndarray) -> np.ndarray:
        check_files(self._folder, ["units.onnx"])  # which a model without codes has not
        return self._run("units", codes=codes)[0]

    def speaker(self, wave: np.ndarray, mel: np.ndarray) -> np.ndarray:
        if not self._hears:
            raise no_encoder()
        heard = {"voice": self._verify(wave)} if self._verify else {"mel": mel}
        return self._run("speaker", **heard)[0]

    def decode(
        self, content: np.ndarray, pitch: np.ndarray, embedding: np.ndarray, reference: Reference, style: np.ndarray
    ) -> np.ndarray:
        return self._run(
            "decoder",
            content=content,
            pitch=pitch,
            embedding=embedding,
            reference_content=reference.content,
            reference_mel=reference.mel,
            style=style,
        )[0]

    def vocode(self, mel: np.ndarray, pitch: np.ndarray, source: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self._run("vocoder", mel=mel, pitch=pitch, source=source, noise=noise)[0]

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
        return [output[0] for output in session.run(None, batch)]

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
        "this model knows the speakers of its training alone and cannot take another's voice from a clip; "
        "give one of the voices in its folder, voices/NAME.npz"
    )


def check_files(folder: Path, names: list[str]) -> None:
    """Raise InputError if the folder or one of its files is missing."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder; give one made by `vconv export` with --model")
    for name in names:
        path = folder / name
        if not path.is_file() or not path.stat().st_size:
            raise InputError(f"{path}: is missing or empty; export or download the model again")


def read_config(folder: Path) -> tuple[ConversionConfig, VocoderConfig]:
    """The networks of a model folder, as its config.json describes them.

    Raises:
        InputError: the folder or the file is missing, not JSON, of another format version, or wrong.
    """
    path = folder / MODEL_CONFIG
    config = _read_settings(folder)
    version, parts = config["format"], (config["conversion"], config["vocoder"])
    if version != MODEL_FORMAT:
        raise InputError(
            f"{path}: has model format {version!r}, this vconv reads {MODEL_FORMAT}; export the model again"
        )
    for part in parts:
        if not isinstance(part, dict):
            raise InputError(f"{path}: expected a mapping of settings, got {part!r}; export the model again")
    return (
        build(ConversionConfig, parts[0], f"{path}: conversion"),
        build(VocoderConfig, parts[1], f"{path}: vocoder"),
    )


def read_identity(folder: Path) -> str:
    """What tells a model from others: the digest of its weights, where its export left one, or of its settings.

    Raises:
        InputError: the folder or its config is missing or wrong.
    """
    config = _read_settings(folder)
    settings = json.dumps(config["conversion"], sort_keys=True)
    return str(config.get("weights") or hashlib.sha256(settings.encode()).hexdigest())


def _read_settings(folder: Path) -> dict[str, Any]:
    """What stands in config.json, at least the format and a part for each model."""
    check_files(folder, [MODEL_CONFIG])
    path = folder / MODEL_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        _ = config["format"], config["conversion"], config["vocoder"]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a model's config; export or download the model again") from error
    return config
