"""Stretches of a clip's mel and ASR features, with frames that stay aligned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vconv.data.augmentation.mel import warp


class Speech(NamedTuple):
    """The content encoder's input for a clip or a part of it."""

    mel: np.ndarray  # [T, N_MELS]
    asr_features: np.ndarray | None  # [T / 2, R] with an ASR encoder

    def each(self, change: Callable[[np.ndarray, int], np.ndarray]) -> Speech:
        """Both changed by a function of the array and of the mel frames that a row of it spans."""
        return Speech(change(self.mel, 1), None if self.asr_features is None else change(self.asr_features, 2))

    def crop(self, start: int, frames: int) -> Speech:
        """Frames from ``start`` on, both even, in float32; see ``crop_frames``."""
        return self.each(lambda rows, hop: crop_frames(rows, start // hop, frames // hop).astype(np.float32))


def stack(speeches: Sequence[Speech]) -> tuple[np.ndarray, np.ndarray | None]:
    """Speeches of one length: mel [B, N_MELS, T] and features [B, R, T / 2]"""
    return join(speeches, lambda parts: np.ascontiguousarray(np.stack(parts).transpose(0, 2, 1)))


def join(speeches: Sequence[Speech], joined: Callable[[Sequence[np.ndarray]], np.ndarray]) -> Speech:
    mels, asr_features = zip(*speeches)
    return Speech(joined(mels), None if asr_features[0] is None else joined(asr_features))


def crop_frames(mel: np.ndarray, start: int, frames: int) -> np.ndarray:
    """Frames from ``start`` on; a clip that is too short is repeated, which keeps its statistics."""
    if len(mel) >= start + frames:
        return mel[start : start + frames]
    return np.take(mel, np.arange(start, start + frames), axis=0, mode="wrap")


def part_of(speech: Speech, start: int, end: int) -> Speech:
    """An even number of frames, from ``start`` (even) to ``end`` at most."""
    end = start + max(0, min(end, len(speech.mel)) - start) // 2 * 2
    return speech.each(lambda rows, hop: rows[start // hop : end // hop])


def in_voice(speech: Speech, octaves: float) -> Speech:
    """The speech in a voice so much higher."""
    return speech._replace(mel=warp(speech.mel, 2**octaves)) if octaves else speech
