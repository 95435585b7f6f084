"""Pretrained speaker encoder: one embedding for a recording.

The network was trained for speaker verification on thousands of people, and is an ONNX file. A conversion model may
take its speaker embedding from it (Jia et al. 2018, "Transfer Learning from Speaker Verification to Multispeaker
Text-To-Speech Synthesis", section 2.1); it then generalizes to unseen speakers. Every engine runs it as it is.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vconv.errors import InputError
from vconv.features import SAMPLE_RATE
from vconv.graphs import open_graph, run_graph
from vconv.model_folder import SPEAKER_ENCODER, SPEAKER_ENCODER_WEIGHTS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

WINDOW_SECONDS = 4.0  # of one input
WINDOW_SAMPLES = round(WINDOW_SECONDS * SAMPLE_RATE)

FBANKS = 80
FRAME_SAMPLES, FRAME_HOP, N_FFT = 400, 160, 512  # at 16 kHz
LOWEST = 20.0  # Hz
PREEMPHASIS = 0.97
ENERGY_FLOOR = 1.1920929e-07


@functools.lru_cache(1)
def filterbank() -> np.ndarray:
    """Kaldi's triangular filters, of height one on the HTK mel scale: [FBANKS, N_FFT // 2 + 1]"""
    mel = lambda hz: 1127.0 * np.log1p(hz / 700.0)  # noqa: E731
    edges = np.linspace(mel(LOWEST), mel(SAMPLE_RATE / 2), FBANKS + 2)
    place = mel(np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT)
    rising = (place - edges[:-2, None]) / (edges[1] - edges[0])
    falling = (edges[2:, None] - place) / (edges[1] - edges[0])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def fbank(wave: np.ndarray) -> np.ndarray:
    """Kaldi's log filterbank energies, without dither, less their mean over time: [N] at 16 kHz -> [T, FBANKS].

    100 frames a second. Frames lie within the wave: at least ``FRAME_SAMPLES`` are needed.
    """
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float32), FRAME_SAMPLES)[::FRAME_HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = np.hanning(FRAME_SAMPLES) ** 0.85
    power = np.square(np.abs(np.fft.rfft(frames * window, N_FFT))).astype(np.float32)
    energies = np.log(np.maximum(power @ filterbank().T, ENERGY_FLOOR))
    return energies - energies.mean(axis=0)


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
