"""A corpus as decoded audio and F0, of which other features are made: on the training device, or clip by clip here.

The same face as ``store.Store``. A batch's features are made on the device (``vconv.training.device_batches``); those
of single clips, which validation asks for, on the CPU.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np

from vconv import audio
from vconv.data.store import WAVE_SCALE, Entry, Sound
from vconv.features import OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.asr_encoder import AsrEncoder

REMEMBERED = 32  # clips whose audio stays in memory


class DecodedAudio(Protocol):
    """A feature store's arrays of waves and F0, or a folder of shards."""

    folder: Path
    entries: list[Entry]

    def clip_wave(self, entry: Entry) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16 at 24 kHz, ``WAVE_SCALE`` steps to 1.0"""

    def clip_f0(self, entry: Entry) -> np.ndarray:
        """[frames] Hz"""


class Decoded:
    """Decoded audio with an ASR encoder, whose features batches and clips are to have.

    Raises:
        InputError: the file is no ASR encoder.
    """

    def __init__(self, source: DecodedAudio, asr_encoder: str = "") -> None:
        self.source, self.asr_encoder = source, asr_encoder
        self.folder, self.entries = source.folder, source.entries
        self.asr_channels = AsrEncoder(asr_encoder).channels if asr_encoder else 0

    def clip_wave(self, entry: Entry) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16, ``WAVE_SCALE`` steps to 1.0"""
        return self.source.clip_wave(entry)

    def clip_f0(self, entry: Entry) -> np.ndarray:
        """[frames] Hz"""
        return self.source.clip_f0(entry)

    def clip_mel(self, entry: Entry) -> np.ndarray:
        """[frames, N_MELS] float16"""
        return self._sound(entry).mel()

    def clip_asr_features(self, entry: Entry) -> np.ndarray | None:
        """[ceil(frames / 2), R] float16, None without an ASR encoder"""
        return self._sound(entry).asr_features(self.asr_encoder) if self.asr_encoder else None

    def clip_disturbed(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """The clip disturbed, though without a crowd: mel [frames, N_MELS], an ASR encoder's features [rows, R]"""
        seed = zlib.crc32(entry.path.encode("utf-8", "surrogateescape"))
        return self._sound(entry).disturbed(self.asr_encoder, seed, ())

    def _sound(self, entry: Entry) -> Sound:
        return _sound(self.source, entry)


@functools.lru_cache(REMEMBERED)
def _sound_of(steps: bytes) -> Sound:
    wave = np.frombuffer(steps, np.int16).astype(np.float32) / WAVE_SCALE
    return Sound(audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE), wave, OUTPUT_RATE)


def _sound(source: DecodedAudio, entry: Entry) -> Sound:
    return _sound_of(np.ascontiguousarray(source.clip_wave(entry)).tobytes())
