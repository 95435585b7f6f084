"""Speech as discrete tokens: damaged files and arrays, and lines of text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.fuzz.arrays import damage_archive
from tests.fuzz.kind import base_model, check_sound, speech, toy_converter
from tests.fuzz.mutate import damage_text, pick
from vconv.tokens import Tokens as Speech


class Tokens:
    def __init__(self, folder: Path) -> None:
        self._folder, self._converter = folder, toy_converter()
        self._tokens = self._converter.encode((speech(0.6), 16000))
        self._whole = folder / "whole.tokens"
        self._tokens.save(self._whole)
        self._converter.voice((speech(1.0, f0=210), 16000)).save(folder / "voice.npz")

    def make(self, rng: np.random.Generator) -> Path:
        if rng.random() < 0.4:
            path = self._folder / "source.txt"
            path.write_bytes(damage_text(self._tokens.text, rng))
            return path
        path = self._folder / "source.tokens"
        damage_archive(self._whole, path, rng)
        return path

    def use(self, path: Path, rng: np.random.Generator) -> None:
        if path.suffix == ".txt":
            tokens = Speech.load_text(path, pick(rng, (None, self._tokens)))
        else:
            tokens = Speech.load(path)
            tokens.save(path.with_name("again.tokens"))
        if tokens.seconds > 60:  # a long one is no fault, but takes long
            return
        target = None if path.suffix == ".tokens" else self._folder / "voice.npz"
        check_sound(self._converter.decode(tokens, target))

    def command(self, path: Path, output: Path) -> list[str]:
        if base_model() is None:
            return []
        return ["decode", str(path), "-o", str(output), "--threads", "1"]
