"""Units of an ASR encoder for each frame of the code, as a column ``pseudo_labels`` of a manifest.

    python recipes/base/pseudo_labels.py corpus.tsv -o corpus_pseudo_labels.tsv --asr-encoder asr_encoder.onnx

The features of the ASR encoder (asr_encoder.py) are clustered by k-means, and each frame of the content code (31.25 a
second) gets the number of the cluster that they are in at that time: what HuBERT's targets are (Hsu et al. 2021,
section 2.1), and what a content encoder can learn from (van Niekerk et al. 2022, "A Comparison of Discrete and Soft
Speech Units for Improved Voice Conversion"). ``losses.pseudo_labels`` teaches the content encoder to tell them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vconv.data.corpus import PSEUDO_LABELS
from vconv.data.manifest import TRAIN, Clip, open_table, read_manifest, write_manifest
from vconv.data.manifest.table import extra_columns
from vconv.data.store import read_sound
from vconv.errors import InputError, run_script
from vconv.frontends.asr_encoder import AsrEncoder

FITTED_FRAMES = 200_000  # that k-means sees


def encode(asr_encoder: AsrEncoder, clips: Sequence[Clip], file: Path) -> Iterator[tuple[Clip, int]]:
    """Append each clip's features to ``file`` as float16; yields the clips that could be read with their frames.

    Silence is trimmed as it is for training, so that the pseudo-labels lie on the frames of the features.
    """
    with file.open("wb") as out:
        for done, clip in enumerate(clips, 1):
            try:
                sound = read_sound(str(clip.path), trim=not clip.group)
            except InputError as error:
                print(f"no pseudo-labels: {error}", file=sys.stderr)
                continue
            features = np.ascontiguousarray(asr_encoder(sound.narrow).T, np.float16)
            features.tofile(out)
            yield clip, len(features)
            if done % 500 == 0:
                print(f"{done} of {len(clips)} clips", flush=True)


def cluster(features: np.ndarray, learned: np.ndarray, count: int) -> np.ndarray:
    """Numbers of the clusters, [F], of features [F, C], by k-means of those at the places ``learned``."""
    from sklearn.cluster import MiniBatchKMeans

    some = features[learned].astype(np.float32)
    mean, deviation = some.mean(axis=0), some.std(axis=0) + 1e-5
    means = MiniBatchKMeans(count, batch_size=8192, n_init=1, random_state=0).fit((some - mean) / deviation)
    parts = np.array_split(features, max(1, len(features) // 50_000))
    return np.concatenate([means.predict((part.astype(np.float32) - mean) / deviation) for part in parts])


def agreement(encoded: Sequence[Clip], pseudo_labels: Sequence[np.ndarray]) -> float | None:
    """Share of frames that have the same label in the first two voices of an aligned group; None without groups."""
    groups: dict[str, list[np.ndarray]] = {}
    for clip, own in zip(encoded, pseudo_labels):
        if clip.group:
            groups.setdefault(clip.group, []).append(own)
    same = [np.equal(a[: len(b)], b[: len(a)]).mean() for a, b, *_ in (g for g in groups.values() if len(g) > 1)]
    return float(np.mean(same)) if same else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the manifest with the column")
    parser.add_argument("--asr-encoder", type=Path, required=True, help="ONNX file")
    parser.add_argument("--clusters", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    return run_script("error", lambda: make(options))


def make(options: argparse.Namespace) -> None:
    if not options.output.parent.is_dir():
        raise InputError(f"{options.output.parent}: no such folder; make it, or choose another")
    clips = read_manifest(options.manifest)
    extra = [name for name in extra_columns(open_table(options.manifest), {}) if name != PSEUDO_LABELS]
    asr_encoder = AsrEncoder(options.asr_encoder, options.threads)
    with tempfile.TemporaryDirectory(dir=options.output.parent) as folder:
        file = Path(folder) / "features.raw"
        encoded = list(encode(asr_encoder, clips, file))
        if not encoded:
            raise InputError(f"{options.manifest}: no clip could be read")
        counts = [count for _, count in encoded]
        features = np.memmap(file, np.float16, "r").reshape(sum(counts), -1)
        trained = np.repeat([clip.split == TRAIN for clip, _ in encoded], counts).nonzero()[0]
        chosen = np.random.default_rng(0).choice(trained, min(FITTED_FRAMES, len(trained)), replace=False)
        pseudo_labels = cluster(features, np.sort(chosen), options.clusters)
    parts = np.split(pseudo_labels, np.cumsum(counts)[:-1])
    texts = {clip.path: " ".join(map(str, part)) for (clip, _), part in zip(encoded, parts)}
    labelled = (_with_pseudo_labels(clip, texts.get(clip.path, "")) for clip in clips)
    write_manifest(options.output, labelled, [*extra, PSEUDO_LABELS])
    print(f"{options.output}: {len(texts)} clips with {sum(counts)} pseudo-labels of {options.clusters} kinds")
    if (same := agreement([clip for clip, _ in encoded], parts)) is not None:
        print(f"the same unit in two voices of a group: {100 * same:.0f} % of the frames")


def _with_pseudo_labels(clip: Clip, pseudo_labels: str) -> Clip:
    others = tuple(pair for pair in clip.extra if pair[0] != PSEUDO_LABELS)
    return dataclasses.replace(clip, extra=(*others, (PSEUDO_LABELS, pseudo_labels)) if pseudo_labels else others)


if __name__ == "__main__":
    raise SystemExit(main())
