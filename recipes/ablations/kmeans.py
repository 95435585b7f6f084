"""A code without any network, at the rate and with the bits of the vq configuration: k-means of the mel.

    python recipes/ablations/kmeans.py corpus.tsv -o runs/ablations/kmeans/probe

It is fitted on the training clips and asked what `vconv probe` asks of a model's code.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vconv.data.manifest import TRAIN, Clip, read_manifest
from vconv.errors import InputError, run_script
from vconv.evaluation import probe, statistics
from vconv.evaluation.probe_figures import CODE_RATE, Figure
from vconv.evaluation.seen import look, read_speech
from vconv.features import N_MELS
from vconv.inference.engine import Encoded
from vconv.inference.utterance import Utterance

GROUPS, CODES = 2, 512
TRAINING_CLIPS = 400
FRAMES_PER_CODE = 2  # two mel frames are one of the code


def vectors(mel: np.ndarray) -> np.ndarray:
    """mel [N_MELS, T] -> [GROUPS, T / 2, D]: low and high bands of two frames side by side.

    Each band has mean 0 and deviation 1 over the clip, as after an instance norm: without that, k-means would find
    speakers and microphones first.
    """
    scaled = (mel - mel.mean(axis=1, keepdims=True)) / (mel.std(axis=1, keepdims=True) + 1e-5)
    frames = mel.shape[1] // FRAMES_PER_CODE
    parts = scaled.reshape(GROUPS, N_MELS // GROUPS, frames, FRAMES_PER_CODE)
    return parts.transpose(0, 2, 1, 3).reshape(GROUPS, frames, -1)


class KMeansCode:
    """Stands where an engine does that takes the mel alone: nearest centroids and their numbers."""

    def __init__(self, mels: Sequence[np.ndarray], codes: int = CODES, seed: int = 0) -> None:
        from sklearn.cluster import MiniBatchKMeans

        learned = np.concatenate([vectors(mel) for mel in mels], axis=1)
        self._books = [
            MiniBatchKMeans(codes, batch_size=4096, n_init=1, random_state=seed).fit(part) for part in learned
        ]

    def content(self, utterance: Utterance) -> Encoded:
        """Centroids [2 N_MELS, T / 2] and their numbers [GROUPS, T / 2]."""
        codes = np.stack([book.predict(part) for book, part in zip(self._books, vectors(utterance.mel))])
        centroids = [book.cluster_centers_[numbers] for book, numbers in zip(self._books, codes)]
        return Encoded(np.concatenate(centroids, axis=1).T, codes, None)


def training_mels(clips: Sequence[Clip], count: int) -> list[np.ndarray]:
    """Mels of so many training clips, evenly from the list; what cannot be used is passed over."""
    able = [clip for clip in clips if clip.split == TRAIN]
    found = []
    for place in np.linspace(0, len(able) - 1, min(count, len(able))).round().astype(int):
        try:
            found.append(Utterance.of(read_speech(able[place].path)).mel)
        except InputError:
            continue
    return found


def measure(manifest: Path, choice: probe.Choice) -> probe.Probe:
    """Fit it and ask it.

    Raises:
        InputError: the manifest cannot be used.
    """
    clips = read_manifest(manifest)
    chosen = probe.choose(clips, choice)
    seen = look(chosen, KMeansCode(training_mels(clips, TRAINING_CLIPS)), embeds=False)
    figures, notes = probe.ask(seen, CODES)
    bits = statistics.Estimate(GROUPS * math.log2(CODES) * CODE_RATE, math.nan, math.nan, 1)
    figures.append(Figure("bits_at_most", "bits a second at most", bits))
    return probe.Probe(figures, len(seen.clips), len({clip.speaker for clip in seen.clips}), [*seen.bad, *notes], seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for probe.json and maps")
    parser.add_argument("--speakers", type=int, default=50)
    parser.add_argument("--clips", type=int, default=20)
    arguments = parser.parse_args()
    choice = probe.Choice("valid", arguments.speakers, arguments.clips)
    return run_script("kmeans", lambda: probe.write(measure(arguments.manifest, choice), arguments.output))


if __name__ == "__main__":
    sys.exit(main())
