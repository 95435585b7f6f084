"""ASR features: the output of a speech recognizer's encoder, on the content code's grid.

They keep the words and little of the voice. A content encoder may take them beside the mel, as in Liu et al. 2021,
"Any-to-Many Voice Conversion with Location-Relative Sequence-to-Sequence Modeling", section III-A.
The encoder is an ONNX file. Training and every engine run it as it is; ``vconv.training.robust_frontend`` fine-tunes it
for noise.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np

from vconv.errors import InputError
from vconv.features import SAMPLE_RATE, code_frames, frame_count
from vconv.frontends.grid import CENTRE, CODE_HOP, STRIDE, at_places, places
from vconv.graphs import open_graph, run_graph
from vconv.model_folder import ASR_ENCODER

FRESH_FRAMES = 320  # of the code, 10 s: the output of one run
CONTEXT_FRAMES = 32  # more on each side, about 1 s
SHORTEST = SAMPLE_RATE // 4  # samples; less is filled up with silence


class AsrEncoder:
    """An ONNX graph from a wave [1, N] at 16 kHz (and masks of that shape) to features [1, F, R] at an even rate.

    Its metadata hold ``STRIDE`` and ``CENTRE``. Each feature depends on the whole input, so longer waves are encoded in
    stretches of about ten seconds.

    Raises:
        InputError: the file is missing, no ONNX graph, or without these metadata.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        _check(Path(path))
        # It was rewritten when it was made: once more takes 0.1 s and gains nothing.
        self._path = Path(path)
        self._session = open_graph(self._path, threads, "DISABLE_ALL")
        self._wave, *self._masks = (one.name for one in self._session.get_inputs())
        notes = self._session.get_modelmeta().custom_metadata_map
        try:
            self._stride, self._centre = float(notes[STRIDE]), float(notes[CENTRE])
            self.channels = int(self._session.get_outputs()[0].shape[-1])
        except (KeyError, ValueError, TypeError):
            raise InputError(f"{path}: is no ASR encoder; make one with recipes/base/asr_encoder.py") from None

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Features at the middle of each frame of the content code, interpolated: [N] -> [R, ceil(T / 2)] float32.

        T are the wave's frames; the level of the wave is that of the log-mel's.
        """
        total = code_frames(frame_count(len(wave)))
        out = np.empty((self.channels, total), np.float32)
        count = max(1, -(-total // FRESH_FRAMES))
        bounds = np.linspace(0, total, count + 1).astype(int)
        for start, end in itertools.pairwise(bounds):
            left = max(start - CONTEXT_FRAMES, 0)
            stretch = wave[left * CODE_HOP : (end + CONTEXT_FRAMES) * CODE_HOP]
            out[:, start:end] = self._encode(stretch, np.arange(start - left, end - left))
        return out

    def _encode(self, wave: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Features of a stretch [N] at some frames [F] of it: [R, F]"""
        padded = np.zeros((1, max(len(wave), SHORTEST)), np.float32)
        padded[0, : len(wave)] = wave
        masks = {name: np.ones(padded.shape, np.int64) for name in self._masks}
        given = run_graph(self._session, self._path, {self._wave: padded, **masks})[0][0]
        return at_places(given, places(frames, self._stride, self._centre)).T


class FolderAsrEncoder:
    """The ASR encoder of a model folder, opened when it is first needed.

    Args:
        channels: that the model expects.

    Raises:
        InputError: there is none, and there should be.
    """

    def __init__(self, folder: Path, channels: int, threads: int) -> None:
        self._path, self._channels, self._threads = folder / ASR_ENCODER, channels, threads
        self._asr_encoder: AsrEncoder | None = None
        _check(self._path)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """As ``AsrEncoder``: [N] -> [R, ceil(T / 2)] float32

        Raises:
            InputError: the file is wrong, or another model's.
        """
        if self._asr_encoder is None:
            self._asr_encoder = AsrEncoder(self._path, self._threads)
            if self._asr_encoder.channels != self._channels:
                raise InputError(f"{self._path}: belongs to another model; export or download the model again")
        return self._asr_encoder(wave)


def _check(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such ASR encoder; export or download the model again")
