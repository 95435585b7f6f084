#!/usr/bin/env python3
"""Pairs of unseen speakers to evaluate, from a manifest: ``make_pairs.py MANIFEST PAIRS.csv --split test``.

Every speaker of the split without training clips is source and target of every other one as often as the next.
Where both have read a sentence, the target speaker's own reading is the reference. The same manifest gives the same
pairs.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import os
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vconv.data.manifest import TEST, VALID, Clip, read_manifest, unseen
from vconv.errors import InputError
from vconv.files import write_text

COLUMNS = ("source", "target", "reference", "transcript", "language")
SOURCE_SECONDS = (1.5, 12.0)  # shorter ones hold few words to judge by, longer ones only cost time
TARGET_SECONDS = 3.0  # of a target's clip at least, where there is one


@dataclass(frozen=True)
class Pair:
    source: Clip
    target: Clip
    reference: Clip | None

    def row(self) -> list[str]:
        clips = (self.source, self.target, self.reference)
        paths = ("" if clip is None else os.path.abspath(clip.path) for clip in clips)
        return [*paths, self.source.transcript, self.source.language]


def make_pairs(clips: Sequence[Clip], count: int, seed: int = 0) -> list[Pair]:
    """At most ``count`` pairs of different source clips.

    Raises:
        InputError: there are fewer than two speakers.
    """
    by_speaker: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: str(clip.path)):
        by_speaker.setdefault(clip.speaker, []).append(clip)
    if len(by_speaker) < 2:
        raise InputError(
            f"{len(by_speaker)} speakers of this split have no training clips; two are needed to convert between: "
            "keep more out"
        )
    rng = random.Random(seed)
    couples = list(itertools.permutations(sorted(by_speaker), 2))
    rng.shuffle(couples)
    pairs: list[Pair] = []
    used: set[tuple[Path, str]] = set()
    for source, target in itertools.islice(itertools.cycle(couples), max(count, len(couples)) * 3):
        fresh = [clip for clip in by_speaker[source] if (clip.path, target) not in used]
        if fresh and len(pairs) < count:
            pairs.append(_make_pair(fresh, by_speaker[target], rng))
            used.add((pairs[-1].source.path, target))
    return pairs


def _make_pair(sources: list[Clip], targets: list[Clip], rng: random.Random) -> Pair:
    readings = {clip.transcript: clip for clip in targets if clip.transcript}
    low, high = SOURCE_SECONDS
    sources = [clip for clip in sources if low <= (clip.seconds or low) <= high] or sources
    source = rng.choice([clip for clip in sources if clip.transcript in readings] or sources)
    reference = readings.get(source.transcript)
    # The target's clip must not be the answer.
    others = [clip for clip in targets if clip.path != (reference and reference.path)]
    if not others:
        others, reference = targets, None
    target = rng.choice([clip for clip in others if (clip.seconds or 0) >= TARGET_SECONDS] or others)
    return Pair(source, target, reference)


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """The table for ``vconv evaluate``, whole or not at all.

    Raises:
        InputError: the folder is not writable.
    """
    write_table(path, COLUMNS, (pair.row() for pair in pairs))


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file, whole or not at all; raises InputError where the folder is not writable."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, out.getvalue())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--split", choices=(VALID, TEST), default=TEST)
    parser.add_argument("--count", type=int, default=100, help="pairs, at most")
    arguments = parser.parse_args()
    try:
        pairs = make_pairs(unseen(read_manifest(arguments.manifest), arguments.split), arguments.count)
    except InputError as error:
        print(f"make_pairs: {arguments.manifest}: {error}", file=sys.stderr)
        return error.exit_code
    try:
        write_pairs(arguments.pairs, pairs)
    except InputError as error:
        print(f"make_pairs: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(pairs)} pairs, {sum(pair.reference is not None for pair in pairs)} with a reference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
