"""Stretches of a clip's mel and ASR features, with frames that stay aligned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vconv.data.augmentation.mel import warp


@dataclass(frozen=True)
class Speech:
    """The content encoder's input for a clip or a part of it: mel [T, N_MELS] and ASR features [T / 2, R]."""

    mel: np.ndarray
    asr_features: np.ndarray

    def crop(self, start: int, frames: int) -> Speech:
        """Frames from ``start`` on, both even, in float32; see ``crop_frames``."""
        asr_features = crop_frames(self.asr_features, start // 2, frames // 2)
        return Speech(crop_frames(self.mel, start, frames).astype(np.float32), asr_features.astype(np.float32))


def stack(speeches: Sequence[Speech]) -> tuple[np.ndarray, np.ndarray]:
    """Speeches of one length: mel [B, N_MELS, T] and features [B, R, T / 2]"""
    mels, asr_features = ([getattr(speech, name) for speech in speeches] for name in ("mel", "asr_features"))
    return np.stack(mels).transpose(0, 2, 1), np.stack(asr_features).transpose(0, 2, 1)


def crop_frames(mel: np.ndarray, start: int, frames: int) -> np.ndarray:
    """Frames from ``start`` on; a clip that is too short is repeated, which keeps its statistics."""
    if len(mel) >= start + frames:
        return mel[start : start + frames]
    return np.take(mel, np.arange(start, start + frames), axis=0, mode="wrap")


def part_of(speech: Speech, start: int, end: int) -> Speech:
    """An even number of frames, from ``start`` (even) to ``end`` at most."""
    end = start + max(0, min(end, len(speech.mel)) - start) // 2 * 2
    return Speech(speech.mel[start:end], speech.asr_features[start // 2 : end // 2])


def in_voice(speech: Speech, octaves: float) -> Speech:
    """The speech in a voice so much higher."""
    return dataclasses.replace(speech, mel=warp(speech.mel, 2**octaves)) if octaves else speech
