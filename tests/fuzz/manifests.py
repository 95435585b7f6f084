"""Tables: manifests of a corpus, and pairs to evaluate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from tests.fuzz.kind import speech
from tests.fuzz.mutate import damage_text, pick
from vconv.data.manifest import read_manifest
from vconv.data.manifest.table import write_manifest
from vconv.evaluation.pairs import read_pairs

MANIFEST = "path\tspeaker\tseconds\tsample_rate\tsplit\ttranscript\taccent\n" + "".join(
    f"{name}.wav\t{name}\t0.{number + 5}\t16000\t{split}\tsome words\tnorth\n"
    for number, (name, split) in enumerate((("a", "train"), ("b", "valid"), ("c", "test"), ("d", "")))
)
PAIRS = "source,target,converted,transcript,system,remark\n" + '"a.wav",b.wav,,"words, said",ours,"=1"\n' * 4


class Manifests:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in "abcd":
            soundfile.write(folder / f"{name}.wav", speech(0.4), 16000)

    def make(self, rng: np.random.Generator) -> Path:
        name, text = pick(rng, (("corpus.tsv", MANIFEST), ("pairs.csv", PAIRS)))
        path = self._folder / name
        path.write_bytes(damage_text(text, rng))
        return path

    def use(self, path: Path, rng: np.random.Generator) -> None:
        if path.suffix == ".csv":
            read_pairs(path)
        else:
            write_manifest(path.with_name("again.tsv"), read_manifest(path))

    def command(self, path: Path, output: Path) -> list[str]:
        again = output.with_suffix(".tsv")
        return ["prepare", "tsv", str(path), "-o", str(again), "--jobs", "1"] if path.suffix == ".tsv" else []
