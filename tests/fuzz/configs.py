"""Configurations: config.json of a model folder and the YAML of a training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import soundfile

from tests.conftest import REPOSITORY
from tests.fuzz.kind import base_model, speech
from tests.fuzz.mutate import damage, damage_text, damage_tree, pick
from vconv.config import ConversionConfig, VocoderConfig, build
from vconv.config_files import load_yaml
from vconv.inference.loading import describe, load

NOTHING = {"format": 2, "conversion": {}, "vocoder": {}}


class Configs:
    def __init__(self, folder: Path) -> None:
        self._folder, base = folder, base_model()
        self._model = folder / "model"
        self._model.mkdir(exist_ok=True)
        for file in base.iterdir() if base else ():
            if file.is_file() and file.name not in ("config.json", "population.npz"):
                os.link(file, self._model / file.name)
        self._json = json.loads((base / "config.json").read_text()) if base else NOTHING
        self._yaml = [path.read_text() for path in sorted((REPOSITORY / "recipes" / "base").glob("*.yaml"))]
        for name in ("source", "target"):
            soundfile.write(folder / f"{name}.wav", speech(0.5, seed=len(name)), 16000)

    def make(self, rng: np.random.Generator) -> Path:
        if rng.random() < 0.3:
            path = self._folder / "training.yaml"
            path.write_bytes(damage_text(pick(rng, self._yaml), rng))
            return path
        path = self._model / "config.json"
        if rng.random() < 0.2:
            path.write_bytes(damage(json.dumps(self._json).encode(), rng))
        else:
            tree, keys = damage_tree(self._json, rng), rng.random() < 0.05
            try:
                path.write_text(json.dumps(tree, sort_keys=keys), "utf-8", "surrogatepass")
            except (RecursionError, TypeError, ValueError):
                path.write_text("[" * 100_000)
        return path

    def use(self, path: Path, rng: np.random.Generator) -> None:
        if path.suffix == ".yaml":
            mapping = load_yaml(path)
            build(ConversionConfig, mapping.get("model", {}), str(path))
            build(VocoderConfig, mapping.get("model", {}), str(path))
        else:
            describe(self._model)
            load(self._model, threads=1)

    def command(self, path: Path, output: Path) -> list[str]:
        if path.suffix == ".yaml" or base_model() is None:
            return []
        source, target = (str(self._folder / f"{name}.wav") for name in ("source", "target"))
        return ["convert", source, "-t", target, "--model", str(self._model), "-o", str(output), "--threads", "1"]
