"""The live ASR encoder: a graph that encodes the next frames of a stream with those before in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv.errors import InputError
from vconv.frontends.grid import CENTRE, STRIDE
from vconv.graphs import open_graph, run_graph
from vconv.model_folder import LIVE_ASR_ENCODER, check_whole

LEVEL = "level"  # in the metadata: mean and variance that a stream begins with


@dataclass(frozen=True)
class Memory:
    """What is known of the frames before. L layers, P frames at most, C channels."""

    keys: np.ndarray  # [L, P, C], the latest last
    values: np.ndarray  # [L, P, C]
    known: int = 0  # of these frames


@dataclass(frozen=True)
class Encoded:
    """What is made of the next F frames."""

    features: np.ndarray  # [F, R]
    keys: np.ndarray  # [L, F, C]
    values: np.ndarray  # [L, F, C]
    level: np.ndarray  # [2] mean and variance of these frames alone

    def into(self, memory: Memory, count: int) -> Memory:
        """The memory with the first ``count`` frames in it."""
        size = memory.keys.shape[1]
        keys, values = (
            np.concatenate([old[:, min(count, size) :], new[:, max(count - size, 0) : count]], axis=1)
            for old, new in ((memory.keys, self.keys), (memory.values, self.values))
        )
        return Memory(keys, values, min(memory.known + count, size))


class LiveAsrEncoder:
    """The graph ``live_asr_encoder.onnx`` of a model folder.

    Attributes:
        channels: of its features.
        stride, centre: samples from frame to frame, and to the middle of a stream's first one.
        level: [2] statistics that a stream begins with.

    Raises:
        InputError: the file is missing, no such graph, or gives other features than the model takes.
    """

    def __init__(self, path: Path, channels: int, threads: int) -> None:
        self._path, self._session = path, open_graph(path, threads, "ENABLE_EXTENDED")
        notes = self._session.get_modelmeta().custom_metadata_map
        shapes = {one.name: one.shape for one in self._session.get_inputs()}
        try:
            self.stride, self.centre = int(notes[STRIDE]), int(notes[CENTRE])
            self.level = np.array([float(x) for x in notes[LEVEL].split()], np.float32)
            self._nothing = np.zeros([int(side) for side in shapes["keys"]], np.float32)
        except (KeyError, ValueError, TypeError):
            raise InputError(
                f"{path}: is no ASR encoder for live conversion; export or download the model again"
            ) from None
        self.channels = channels
        if self._nothing.shape[2:] != (channels,) or self.level.shape != (2,):
            raise InputError(f"{path}: belongs to another model; export or download the model again")

    @classmethod
    def of(cls, folder: Path, channels: int, threads: int) -> LiveAsrEncoder | None:
        """That of a model folder, None where there is none. Raises InputError as the class does."""
        if not (folder / LIVE_ASR_ENCODER).is_file():
            return None
        check_whole(folder, [LIVE_ASR_ENCODER])
        return cls(folder / LIVE_ASR_ENCODER, channels, threads)

    @property
    def span(self) -> int:
        """Samples that a frame is made of."""
        return 2 * self.centre + 1

    def samples(self, frames: int) -> int:
        """Samples that so many frames are made of."""
        return (frames - 1) * self.stride + self.span

    def begin(self) -> Memory:
        """Of a stream without frames."""
        return Memory(self._nothing, self._nothing)

    def __call__(self, wave: np.ndarray, level: np.ndarray, memory: Memory) -> Encoded:
        """All frames of the next samples [N], from the first one that the memory does not hold; level [2]."""
        inputs = {
            "wave": np.ascontiguousarray(wave[None], np.float32),
            "level": level.astype(np.float32)[None],
            "known": np.array(memory.known, np.int64),
            "keys": memory.keys,
            "values": memory.values,
        }
        features, keys, values, own = run_graph(self._session, self._path, inputs)
        return Encoded(features[0], keys, values, own[0])
