"""F0 on the log-mel's frames: swift-f0, an ONNX network, and the decision on what is voiced."""

from __future__ import annotations

import numpy as np

from vconv.features import F0_MAX, F0_MIN, HOP_LENGTH, SAMPLE_RATE, frame_count, log_mel

CONFIDENCE = 0.5  # of swift-f0 in what it finds, 0 to 1
LOW_BANDS = 26  # of the mel, below 1 kHz: where voices are strongest
BACKGROUND_MARGIN, LOUD_MARGIN = 8.0, 12.0  # dB over the background, and below the loudest
LEVEL_FRAMES = 5  # odd, 80 ms


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
        return f0_of(self.track(wave))

    def track(self, wave: np.ndarray) -> np.ndarray:
        """What ``f0_of`` decides on, for each frame of a 16 kHz mono wave: [N] -> [3, T] float32.

        A pitch in Hz, the confidence in it from 0 to 1, and the level below 1 kHz in dB.
        """
        frames = frame_count(len(wave))
        padded = np.zeros(frames * HOP_LENGTH, np.float32)
        padded[: len(wave)] = wave
        pitch = self._detector.detect(padded, SAMPLE_RATE, F0_MIN, F0_MAX)
        level = low_level(log_mel(wave))
        return np.stack([pitch.pitch_hz, pitch.confidence, level]).astype(np.float32)


def low_level(mel: np.ndarray) -> np.ndarray:
    """Level below 1 kHz in dB of each frame of a log-mel: [N_MELS, T] -> [T]"""
    return 10 * np.log10(np.exp(2 * mel[:LOW_BANDS]).sum(axis=0))


def f0_of(track: np.ndarray) -> np.ndarray:
    """F0 in Hz, 0 where unvoiced, of a whole recording's ``PitchTracker.track``: [3, T] -> [T] float32.

    The background is what a tenth of the frames is no louder than. A recording without pauses has none to be seen.
    Levels are means over ``LEVEL_FRAMES``: a single frame of background speech may stand out as well.
    """
    return f0_above(track, voicing_threshold(track[2]))


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
