"""Speaker embeddings of a corpus: a row for each clip or each speaker, in several processes, resumable.

Rows are kept in parts beside the output until all clips are done, so an interrupted run goes on where it was; parts
with clips that failed are done again.
Memory holds one part, and at the end the vectors of all clips: 768 bytes each.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vconv.audio import find_audio
from vconv.data.manifest import read_manifest
from vconv.errors import InputError, VconvError
from vconv.files import replacing, write_text
from vconv.inference.converter import Converter
from vconv.inference.loading import load
from vconv.opening import STANDARD_STREAM, check_streams
from vconv.processes import map_in_order
from vconv.voice import save_arrays

By = Literal["clip", "speaker"]
SUFFIXES = (".npz", ".parquet")
PART_CLIPS = 512
_KEY = "run.json"  # in the folder of the parts: of which clips and model they are


@dataclass(frozen=True)
class Item:
    """A clip to embed."""

    path: str
    speaker: str


@dataclass(frozen=True)
class Rows:
    """Columns of equal length; vector is [N, E], each row of unit length."""

    path: list[str]
    speaker: list[str]
    seconds: np.ndarray  # of speech in the clip, without the silence around it
    vector: np.ndarray

    def __len__(self) -> int:
        return len(self.path)


@dataclass
class Embedded:
    """What came of a run: rows written, seconds of speech in them, and an error for each clip left out."""

    rows: int
    seconds: float
    errors: list[VconvError] = field(default_factory=list)


def items_of(inputs: Iterable[Path]) -> list[Item]:
    """The clips of manifests (.tsv), folders and recordings; in a folder, a clip's speaker is the folder it lies in.

    Raises:
        InputError: a manifest or folder cannot be read, or holds no audio.
    """
    found = []
    for place in inputs:
        if place.is_dir():
            found += [Item(str(path), path.parent.name) for path in find_audio(place)]
        elif place.suffix.lower() == ".tsv":
            found += [Item(str(clip.path), clip.speaker) for clip in read_manifest(place)]
        else:
            found.append(Item(str(place), place.resolve().parent.name))
    return found


def embed_corpus(
    inputs: Sequence[Path],
    output: Path,
    *,
    by: By = "clip",
    model: Path | None = None,
    device: str = "cpu",
    jobs: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Write the embeddings of many clips to ``output``, .npz or .parquet; a bad clip is left out, with its error.

    The columns are path, speaker, seconds and vector; by speaker, path is empty, and the vector is the mean of the
    speaker's clips weighted by their seconds, at unit length, as ``vconv embed`` makes it of the same clips.

    Raises:
        InputError: the inputs, the model or the output cannot be used, or no clip could be embedded.
        VconvError: a worker process died.
    """
    check_output(output)
    check_streams(inputs, None)
    jobs = 1 if STANDARD_STREAM in inputs else jobs  # which other processes do not share
    items = items_of(inputs)
    parts = Parts(output, items, load(model, device, 1).model.hex())
    parts.begin()
    work = partial(_embedded, model=model, device=device)
    todo = [number for number in range(parts.count) if not parts.finished(number)]
    clips = (item for number in todo for item in parts.items(number))
    results = map_in_order(work, clips, jobs)
    done = len(items) - sum(len(parts.items(number)) for number in todo)
    report(done, len(items))
    for number in todo:
        found = []
        for _ in parts.items(number):
            found.append(next(results))
            done += 1
            report(done, len(items))
        parts.save(number, found)
    results.close()
    errors = parts.errors()
    rows = parts.rows()
    if not len(rows):
        parts.remove()
        raise InputError(f"no clip could be embedded; the first problem: {errors[0] if errors else 'no clips'}")
    rows = by_speaker(rows) if by == "speaker" else rows
    write(output, rows)
    parts.remove()
    return Embedded(len(rows), float(rows.seconds.sum()), errors)


def check_output(output: Path) -> None:
    """Raises InputError for a name with another suffix, or where pyarrow is missing for a .parquet."""
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{output}: embeddings are written as .npz or .parquet; name it so with -o")
    if output.suffix.lower() == ".parquet":
        _pyarrow()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise InputError("a .parquet needs pyarrow: pip install pyarrow; or write .npz") from error
    return pyarrow


@cache
def _converter(model: Path | None, device: str) -> Converter:
    return load(model, device, 1)


def _embedded(item: Item, model: Path | None, device: str) -> tuple[float, np.ndarray] | VconvError:
    try:
        vector, seconds = _converter(model, device).embed_clip(item.path)
    except VconvError as error:
        return error
    return seconds, vector


class Parts:
    """Results of so many clips each, in a folder beside the output."""

    def __init__(self, output: Path, items: Sequence[Item], model: str) -> None:
        self._items, self._folder = items, output.with_name(output.name + ".parts")
        listing = json.dumps([model, [(item.path, item.speaker) for item in items]])
        self._key = hashlib.sha256(listing.encode()).hexdigest()
        self.count = -(-len(items) // PART_CLIPS)

    def begin(self) -> None:
        """Keep the parts of a run over the same clips with the same model; remove those of another."""
        key = self._folder / _KEY
        if key.is_file() and key.read_text(encoding="utf-8") == self._key:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        with _writing(self._folder):
            self._folder.mkdir(parents=True)
            write_text(key, self._key)

    def path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def finished(self, number: int) -> bool:
        """Whether all clips of a part are embedded; what failed may have been put right since."""
        return self.path(number).exists() and not len(self._load(number)["bad"])

    def items(self, number: int) -> Sequence[Item]:
        return self._items[number * PART_CLIPS : (number + 1) * PART_CLIPS]

    def save(self, number: int, results: Sequence[tuple[float, np.ndarray] | VconvError]) -> None:
        good = [k for k, result in enumerate(results) if not isinstance(result, VconvError)]
        bad = [(k, result) for k, result in enumerate(results) if isinstance(result, VconvError)]
        save_arrays(
            self.path(number),
            good=np.array(good, np.int64),
            seconds=np.array([results[k][0] for k in good], np.float32),
            vector=np.array([results[k][1] for k in good], np.float32),
            bad=np.array([k for k, _ in bad], np.int64),
            message=np.array([str(error) for _, error in bad], np.str_),
            of_input=np.array([isinstance(error, InputError) for _, error in bad], bool),
        )

    def errors(self) -> list[VconvError]:
        found: list[VconvError] = []
        for part in self._loaded():
            kinds = (InputError if of_input else VconvError for of_input in part["of_input"])
            found += [kind(str(message)) for kind, message in zip(kinds, part["message"])]
        return found

    def rows(self) -> Rows:
        items: list[Item] = []
        seconds, vectors = [np.zeros(0, np.float32)], []
        for number, part in enumerate(self._loaded()):
            items += [self.items(number)[k] for k in part["good"]]
            seconds.append(part["seconds"])
            if len(part["vector"]):
                vectors.append(part["vector"])
        vector = np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)
        return Rows([i.path for i in items], [i.speaker for i in items], np.concatenate(seconds), vector)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _loaded(self) -> Iterator[dict[str, np.ndarray]]:
        yield from map(self._load, range(self.count))

    def _load(self, number: int) -> dict[str, np.ndarray]:
        with np.load(self.path(number), allow_pickle=False) as arrays:
            return dict(arrays)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from error


def by_speaker(rows: Rows) -> Rows:
    """One row for each speaker, in the order of their first clips."""
    names = list(dict.fromkeys(rows.speaker))
    place = {name: k for k, name in enumerate(names)}
    numbers = np.array([place[name] for name in rows.speaker])
    seconds = np.bincount(numbers, rows.seconds, len(names)).astype(np.float32)
    sums = np.zeros((len(names), rows.vector.shape[1]))
    np.add.at(sums, numbers, rows.vector * rows.seconds[:, None].astype(float))
    vector = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return Rows([""] * len(names), names, seconds, vector)


def write(output: Path, rows: Rows) -> None:
    """Write the columns path, speaker, seconds and vector, atomically."""
    if output.suffix.lower() == ".npz":
        text = {"path": np.array(rows.path, np.str_), "speaker": np.array(rows.speaker, np.str_)}
        save_arrays(output, **text, seconds=rows.seconds, vector=rows.vector)
        return
    arrow = _pyarrow()
    vectors = arrow.FixedSizeListArray.from_arrays(rows.vector.reshape(-1), rows.vector.shape[1])
    table = arrow.table({"path": rows.path, "speaker": rows.speaker, "seconds": rows.seconds, "vector": vectors})
    with _writing(output), replacing(output) as partial_file:
        arrow.parquet.write_table(table, partial_file)
