"""F0 on the log-mel's frames: a small ONNX network, and the decision on what is voiced.

`recipes/pitch` trains the network (``vconv.models.pitch``), and pitch.onnx beside this file is what it made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vconv.features import HOP_LENGTH, PITCH_STEPS, f0_of_step, frame_count, log_mel_and_low_spectrum
from vconv.graphs import open_graph, run_graph

GRAPH = Path(__file__).with_name("pitch.onnx")
NEAR = np.arange(-4, 5)  # steps around the likeliest one over which F0 is averaged
PITCH_PAST, PITCH_AHEAD = 26, 4  # frames before and after one that the network takes into account
CONFIDENCE = 0.5  # of the network in what it finds, 0 to 1
LOW_BANDS = 26  # of the mel, below 1 kHz: where voices are strongest
BACKGROUND_MARGIN, LOUD_MARGIN = 8.0, 12.0  # dB over the background, and below the loudest
LEVEL_FRAMES = 5  # odd, 80 ms
RUN_FRAMES = 500  # in one run of the network; they bound its memory
WINDOW_FRAMES = 2  # that a frame's window reaches to on each side

Read = Callable[[int, int], np.ndarray]  # frames from, to -> the samples there are of them at 16 kHz


class PitchTracker:
    """F0 on the mel's own frame grid.

    What hardly stands out of the background counts as unvoiced.
    """

    def __init__(self, threads: int = 1) -> None:
        self._session = open_graph(GRAPH, threads)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """F0 in Hz of a 16 kHz mono wave, 0 where unvoiced: [N] -> [T] float32."""
        return self.f0(lambda start, end: wave[start * HOP_LENGTH : end * HOP_LENGTH], frame_count(len(wave)))

    def f0(self, read: Read, frames: int) -> np.ndarray:
        """F0 in Hz of a whole recording of any length, 0 where unvoiced: [T] float32.

        The background is what a tenth of the frames is no louder than. A recording without pauses has none to be seen.
        Levels are means over ``LEVEL_FRAMES``: a single frame of background speech may stand out as well.
        """
        track = np.zeros((3, frames), np.float32)
        for start in range(0, frames, RUN_FRAMES):
            end = min(start + RUN_FRAMES, frames)
            left = max(start - PITCH_PAST - WINDOW_FRAMES, 0)
            seen = read(left, end + PITCH_AHEAD + WINDOW_FRAMES)
            track[:, start:end] = self.track(seen)[:, start - left : end - left]
        return f0_above(track, voicing_threshold(track[2]))

    def track(self, wave: np.ndarray) -> np.ndarray:
        """What ``f0_above`` decides on, for each frame of a 16 kHz mono wave: [N] -> [3, T] float32.

        A pitch in Hz, the confidence in it from 0 to 1, and the level below 1 kHz in dB.
        """
        mel, spectrum = log_mel_and_low_spectrum(wave)
        scores, voicing = run_graph(self._session, GRAPH, {"spectrum": spectrum[None]})
        return np.stack([pitch_of(scores[0]), voicing[0], low_level(mel)]).astype(np.float32)


def pitch_of(scores: np.ndarray) -> np.ndarray:
    """Mean of the steps around the likeliest one, weighted by their probability: [..., PITCH_STEPS] -> [...] Hz"""
    near = np.clip(scores.argmax(axis=-1)[..., None] + NEAR, 0, PITCH_STEPS - 1)
    weights = np.take_along_axis(scores, near, axis=-1)
    weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
    return f0_of_step((weights * near).sum(axis=-1) / weights.sum(axis=-1))


def low_level(mel: np.ndarray) -> np.ndarray:
    """Level below 1 kHz in dB of each frame of a log-mel: [N_MELS, T] -> [T]"""
    return 10 * np.log10(np.exp(2 * mel[:LOW_BANDS]).sum(axis=0))


def voicing_threshold(level: np.ndarray) -> float:
    """Level in dB that stands out of a recording's background, by the levels below 1 kHz of its frames [T]."""
    background, loud = np.percentile(_mean_level(level), [10, 95])
    return float(min(background + BACKGROUND_MARGIN, loud - LOUD_MARGIN))


def f0_above(track: np.ndarray, threshold: float) -> np.ndarray:
    """F0 in Hz, 0 where unvoiced or of no higher level than ``threshold``: [3, T] -> [T] float32."""
    pitch, confidence, level = track
    voiced = (confidence >= CONFIDENCE) & (_mean_level(level) > threshold)
    return np.where(voiced, pitch, 0.0).astype(np.float32)


def _mean_level(level: np.ndarray) -> np.ndarray:
    padded = np.pad(level, LEVEL_FRAMES // 2, mode="edge")
    return np.convolve(padded, np.full(LEVEL_FRAMES, 1 / LEVEL_FRAMES), "valid")
