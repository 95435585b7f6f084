"""Saved voices: damaged archives, and whole ones with other numbers, shapes and kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from tests.fuzz.arrays import damage_archive
from tests.fuzz.kind import base_model, check_sound, speech, toy_converter
from vconv.voice import Voice


class Voices:
    def __init__(self, folder: Path) -> None:
        self._folder, self._converter = folder, toy_converter()
        self._whole = folder / "whole.npz"
        self._converter.voice((speech(1.0, f0=210), 16000)).save(self._whole)
        soundfile.write(folder / "source.wav", speech(0.5), 16000)

    def make(self, rng: np.random.Generator) -> Path:
        path = self._folder / "voice.npz"
        damage_archive(self._whole, path, rng)
        return path

    def use(self, path: Path, rng: np.random.Generator) -> None:
        voice = Voice.load(path)
        if rng.random() < 0.1:
            voice.save(path.with_name("again.npz"))
        if rng.random() < 0.3:
            check_sound(self._converter.convert((speech(0.4), 16000), voice))
        else:
            self._converter.voice(voice)

    def command(self, path: Path, output: Path) -> list[str]:
        if base_model() is None:
            return []
        source = self._folder / "source.wav"
        return ["convert", str(source), "-t", str(path), "-o", str(output), "--threads", "1"]
