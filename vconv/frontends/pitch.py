"""F0 on the log-mel's frames: swift-f0, an ONNX network, and the decision on what is voiced."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from vconv.features import F0_MAX, F0_MIN, HOP_LENGTH, SAMPLE_RATE, frame_count, log_mel

CONFIDENCE = 0.5  # of swift-f0 in what it finds, 0 to 1
LOW_BANDS = 26  # of the mel, below 1 kHz: where voices are strongest
BACKGROUND_MARGIN, LOUD_MARGIN = 8.0, 12.0  # dB over the background, and below the loudest
LEVEL_FRAMES = 5  # odd, 80 ms
PITCH_FRAMES = 250  # in one run of swift-f0: in more, its activations exceed the caches
PITCH_CONTEXT = 12  # frames on each side: swift-f0 sees 2815 samples each way
MEL_FRAMES = 2000  # whose levels are measured at a time

Read = Callable[[int, int], np.ndarray]  # frames from, to -> the samples there are of them at 16 kHz


class PitchTracker:
    """F0 by swift-f0 on the mel's own frame grid.

    In the speaker's pauses it finds the F0 of people talking behind: what hardly stands out of the background
    counts as unvoiced.
    """

    def __init__(self, threads: int = 1) -> None:
        from swift_f0 import SwiftF0  # onnxruntime takes 0.1 s to import: only when it is needed

        self._detector = SwiftF0(threads=threads)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """F0 in Hz of a 16 kHz mono wave, 0 where unvoiced: [N] -> [T] float32."""
        return self.f0(lambda start, end: wave[start * HOP_LENGTH : end * HOP_LENGTH], frame_count(len(wave)))

    def f0(self, read: Read, frames: int) -> np.ndarray:
        """F0 in Hz of a whole recording of any length, 0 where unvoiced: [T] float32.

        The background is what a tenth of the frames is no louder than. A recording without pauses has none to be seen.
        Levels are means over ``LEVEL_FRAMES``: a single frame of background speech may stand out as well. swift-f0 runs
        only where the level allows voice.
        """
        track = np.zeros((3, frames), np.float32)
        for start in range(0, frames, MEL_FRAMES):
            end = min(start + MEL_FRAMES, frames)
            track[2, start:end] = _with_context(lambda wave: low_level(log_mel(wave)), read, start, end)
        threshold = voicing_threshold(track[2])
        for start, end in stretches(_mean_level(track[2]) > threshold):
            track[:2, start:end] = _with_context(self.pitch, read, start, end)
        return f0_above(track, threshold)

    def track(self, wave: np.ndarray) -> np.ndarray:
        """What ``f0_above`` decides on, for each frame of a 16 kHz mono wave: [N] -> [3, T] float32.

        A pitch in Hz, the confidence in it from 0 to 1, and the level below 1 kHz in dB.
        """
        return np.concatenate([self.pitch(wave), low_level(log_mel(wave))[None]]).astype(np.float32)

    def pitch(self, wave: np.ndarray) -> np.ndarray:
        """A pitch in Hz, and the confidence in it from 0 to 1: [N] -> [2, T] float32"""
        padded = np.zeros(frame_count(len(wave)) * HOP_LENGTH, np.float32)
        padded[: len(wave)] = wave
        pitch = self._detector.detect(padded, SAMPLE_RATE, F0_MIN, F0_MAX)
        return np.stack([pitch.pitch_hz, pitch.confidence]).astype(np.float32)


def stretches(
    active: np.ndarray, longest: int = PITCH_FRAMES, gap: int = 2 * PITCH_CONTEXT
) -> Iterator[tuple[int, int]]:
    """[start, end) of at most ``longest`` frames that cover the active ones of [T], across gaps up to ``gap``."""
    at = np.flatnonzero(active)
    if not len(at):
        return
    last = np.append(np.flatnonzero(np.diff(at) > gap + 1), len(at) - 1)
    first = np.append(0, last[:-1] + 1)
    for start, end in zip(at[first].tolist(), (at[last] + 1).tolist()):
        bounds = np.linspace(start, end, -(-(end - start) // longest) + 1).astype(int).tolist()
        yield from itertools.pairwise(bounds)


def _with_context(measure: Callable[[np.ndarray], np.ndarray], read: Read, start: int, end: int) -> np.ndarray:
    """What ``measure`` gives of each frame from ``start`` to ``end``, as if it had seen the whole: [..., T]"""
    left = max(start - PITCH_CONTEXT, 0)
    return measure(read(left, end + PITCH_CONTEXT))[..., start - left : end - left]


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
