"""What a kind of file is to the fuzzer, and what all kinds share."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from tests.conftest import BASE_MODEL, ToyEngine, speech
from vconv.inference import Converter


class Garbled(Exception):
    """A result that is not sound."""


class Kind(Protocol):
    """A kind of file. ``folder`` is where its mutations lie, and what belongs to them."""

    def __init__(self, folder: Path) -> None: ...

    def make(self, rng: np.random.Generator) -> Path:
        """Write a mutated file."""

    def use(self, path: Path, rng: np.random.Generator) -> None:
        """Do with it what vconv does with such files.

        Raises:
            VconvError: it was refused, as it may be.
            Garbled: a result is not what it may be.
        """

    def command(self, path: Path, output: Path) -> list[str]:
        """Arguments of a command that reads it and writes to ``output``; an empty list where there is none."""


def check_sound(wave: np.ndarray) -> None:
    """Raise Garbled unless a result's samples are finite and differ."""
    if not len(wave):
        raise Garbled("a result without samples")
    if not np.isfinite(wave).all():
        raise Garbled("samples that are not finite")
    if np.ptp(wave) == 0:
        raise Garbled(f"all {len(wave)} samples are {wave[0]}")


def toy_converter() -> Converter:
    """Reads, tracks F0, cuts and joins as any other; its networks are small functions."""
    engine = ToyEngine()
    return Converter(engine, engine.config, 1)


def base_model() -> Path | None:
    """The shipped weights, for the command line; None in a checkout without them."""
    return BASE_MODEL if (BASE_MODEL / "config.json").is_file() else None


__all__ = ["Garbled", "Kind", "base_model", "check_sound", "speech", "toy_converter"]
