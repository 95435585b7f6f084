"""Pretrained speaker encoder: one embedding for a recording.

The network was trained for speaker verification on thousands of people, and is an ONNX file. A conversion model may
take its speaker embedding from it (Jia et al. 2018, "Transfer Learning from Speaker Verification to Multispeaker
Text-To-Speech Synthesis", section 2.1); it then generalizes to unseen speakers. Every engine runs it as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vconv.errors import InputError
from vconv.features import SAMPLE_RATE
from vconv.frontends.fbank import fbank
from vconv.graphs import open_graph, run_graph
from vconv.model_folder import SPEAKER_ENCODER, SPEAKER_ENCODER_WEIGHTS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WINDOW_SECONDS = 4.0  # of one input
WINDOW_SAMPLES = round(WINDOW_SECONDS * SAMPLE_RATE)


def windows(wave: np.ndarray) -> list[np.ndarray]:
    """Stretches of ``WINDOW_SECONDS`` that cover a wave [N] evenly; a shorter wave is repeated."""
    count = -(-len(wave) // WINDOW_SAMPLES)
    if count == 1:
        return [np.resize(wave, WINDOW_SAMPLES)]
    starts = np.linspace(0, len(wave) - WINDOW_SAMPLES, count).astype(int)
    return [wave[start : start + WINDOW_SAMPLES] for start in starts]


class FolderSpeakerEncoder:
    """The speaker encoder of a model folder: ``fbank`` of a window to an embedding; opened when first needed.

    Args:
        channels: of the voice that the model expects.

    Raises:
        InputError: there is none.
    """

    def __init__(self, folder: Path, channels: int, threads: int) -> None:
        self._path, self._channels, self._threads = folder / SPEAKER_ENCODER, channels, threads
        self._session: InferenceSession | None = None
        for path in (self._path, folder / SPEAKER_ENCODER_WEIGHTS):
            if not path.is_file():
                raise InputError(f"{path}: no such speaker encoder; export or download the model again")

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """The mean voice of a wave's windows: [N] at 16 kHz -> [V] of unit length

        Raises:
            InputError: the file is wrong, or another model's.
        """
        if self._session is None:
            self._session = open_graph(self._path, self._threads)
            if self._session.get_outputs()[0].shape != [1, self._channels]:
                raise InputError(f"{self._path}: belongs to another model; export or download the model again")
        voices = [
            run_graph(self._session, self._path, {"fbank": fbank(window)[None]})[0][0] for window in windows(wave)
        ]
        mean = np.mean(voices, axis=0)
        return mean / np.linalg.norm(mean)
