"""Stretches of a clip's mel and ASR features, with frames that stay aligned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from vconv.data.augmentation.mel import warp

Array = TypeVar("Array")  # np.ndarray, and Tensor on the training device


class Speech(NamedTuple, Generic[Array]):
    """The content encoder's input for a clip or a part of it; ``transposed``, and in batches, with channels first."""

    mel: Array  # [T, N_MELS]
    asr_features: Array | None  # [T / 2, R] with an ASR encoder

    def each(self, change: Callable[[np.ndarray, int], np.ndarray]) -> Speech:
        """Both changed by a function of the array and of the mel frames that a row of it spans."""
        return Speech(change(self.mel, 1), None if self.asr_features is None else change(self.asr_features, 2))

    def transposed(self) -> Speech:
        """As networks take it: [N_MELS, T] and [R, T / 2]"""
        return self.each(lambda rows, _: rows.T)

    def crop(self, start: int, frames: int) -> Speech:
        """Frames from ``start`` on, both even, in float32; see ``crop_frames``."""
        return self.each(lambda rows, hop: crop_frames(rows, start // hop, frames // hop).astype(np.float32))


def joined(parts: Sequence[Any], join: Callable[[Sequence[np.ndarray]], np.ndarray] = np.stack) -> Any:
    """Named tuples of arrays, of None and of further ones, as one such: stacked to a batch, or joined otherwise."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], tuple):
        return type(parts[0])(*(joined(column, join) for column in zip(*parts)))
    return np.ascontiguousarray(join(parts))


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
