"""Training checkpoints: damaged files, and whole ones, with a right checksum, that hold something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.fuzz.mutate import damage, damage_tree
from vconv.config import VocoderConfig
from vconv.models.vocoder import Vocoder
from vconv.training import checkpoint
from vconv.training.trained import load_vocoder

SMALL = {"channels": 8, "expansion": 1, "blocks": 1}


class Checkpoints:
    def __init__(self, folder: Path) -> None:
        import vconv.export  # noqa: F401 (takes seconds: not within the time of a mutation)

        torch.set_num_threads(1)
        self._path = folder / "checkpoint.safetensors"
        weights = Vocoder(VocoderConfig(**SMALL)).state_dict()
        self._state = {
            "task": "vocoder",
            "step": 3,
            "config": {"task": "vocoder", "model": SMALL},
            "ema": dict(weights),
        }
        checkpoint.save(self._path, self._state)
        self._whole = self._path.read_bytes()

    def make(self, rng: np.random.Generator) -> Path:
        if rng.random() < 0.6:
            self._path.write_bytes(damage(self._whole, rng))
            return self._path
        tree = damage_tree(self._state, rng)
        try:
            checkpoint.save(self._path, tree)
        except (RecursionError, TypeError, ValueError):  # what no training would have saved
            self._path.write_bytes(self._whole[: int(rng.integers(len(self._whole)))])
        return self._path

    def use(self, path: Path, rng: np.random.Generator) -> None:
        checkpoint.load_latest(path)
        load_vocoder(path)

    def command(self, path: Path, output: Path) -> list[str]:
        return ["export", str(path), str(path), "-o", str(output.with_suffix(""))]
