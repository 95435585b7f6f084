"""Recordings: every container that libsndfile writes, damaged, and extreme samples in whole ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from tests.fuzz.kind import Garbled, base_model, check_sound, speech, toy_converter
from tests.fuzz.mutate import damage, pick
from vconv.audio import BlockReader
from vconv.features import SAMPLE_RATE

FORMATS = [  # container, subtype, rate
    ("WAV", "PCM_16", 16000),
    ("WAV", "FLOAT", 44100),
    ("WAV", "ULAW", 8000),
    ("AIFF", "PCM_16", 22050),
    ("AU", "PCM_16", 16000),
    ("W64", "PCM_24", 16000),
    ("CAF", "PCM_16", 16000),
    ("FLAC", "PCM_16", 16000),
    ("OGG", "VORBIS", 24000),
    ("OGG", "OPUS", 48000),
    ("MP3", "MPEG_LAYER_III", 24000),
]
EXTREMES = (0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, np.nan, np.inf, -np.inf)


class Audio:
    def __init__(self, folder: Path) -> None:
        self._folder, self._converter = folder, toy_converter()
        self._seeds = []
        for container, subtype, rate in FORMATS:
            buffer = io.BytesIO()
            soundfile.write(buffer, speech(0.6, rate, seed=rate), rate, subtype, format=container)
            self._seeds.append((container.lower(), buffer.getvalue()))
        self._voice = self._converter.voice((speech(1.0, f0=210), 16000))
        soundfile.write(folder / "target.wav", speech(1.0, f0=210), 16000)

    def make(self, rng: np.random.Generator) -> Path:
        if rng.random() < 0.15:
            return self._extreme(rng)
        container, data = pick(rng, self._seeds)
        path = self._folder / f"source.{container}"
        path.write_bytes(damage(data, rng))
        return path

    def _extreme(self, rng: np.random.Generator) -> Path:
        rate = int(pick(rng, (1, 50, 999, 1000, 8000, 16000, 44100, 192000, 655350)))
        wave = np.array(speech(0.5, 16000, seed=int(rng.integers(9))), np.float64)
        wave = wave * pick(rng, (0.0, 1e-6, 1.0, 1e6)) + pick(rng, (0.0, 0.02, 1.0))
        places = rng.integers(len(wave), size=int(2 ** rng.uniform(0, 13)))
        wave[places] = pick(rng, EXTREMES)
        path = self._folder / "source.wav"
        channels = pick(rng, (1, 2, 7))
        soundfile.write(path, np.tile(wave[:, None], (1, channels)), rate, "DOUBLE")
        return path

    def use(self, path: Path, rng: np.random.Generator) -> None:
        if rng.random() < 0.7:
            for block in BlockReader(path, SAMPLE_RATE):
                if not np.isfinite(block).all():
                    raise Garbled("samples that are not finite")
            return
        target = path if rng.random() < 0.3 else self._voice
        source = (speech(0.5), 16000) if target is path else path
        check_sound(self._converter.convert(source, target))

    def command(self, path: Path, output: Path) -> list[str]:
        if base_model() is None:
            return []
        return ["convert", str(path), "-t", str(self._folder / "target.wav"), "-o", str(output), "--threads", "1"]
