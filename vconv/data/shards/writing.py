"""A manifest's clips into tar files: several at a time, each whole or not there, and none made twice.

Which clip goes into which shard is decided before the first is made, from a pass over the manifest that remembers some
40 bytes a clip. A record beside each finished shard is what a run that was killed goes on from; the index replaces
them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import tarfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from vconv.config import build
from vconv.data.manifest import SPLITS, scan_manifest
from vconv.data.manifest.table import clips_at, line_places
from vconv.data.shards.format import AUDIO, F0, FORMAT, INDEX, LABELS, Shard, ShardIndex, index_json, labels_json
from vconv.data.store import read_sound
from vconv.errors import InputError
from vconv.features import FRAME_RATE, OUTPUT_RATE
from vconv.files import digest, remove_leftovers, replacing, write_text
from vconv.processes import map_in_order
from vconv.untrusted import read_json

MINUTES = 60.0  # of a shard: about 80 MB
UNKNOWN_SECONDS = 5.0  # of a clip whose length the manifest does not tell


@dataclass(frozen=True, eq=False)
class _Part:
    """A shard to make: where its clips' lines begin in the manifest."""

    manifest: Path
    folder: Path
    name: str
    split: str
    plan: str
    numbers: np.ndarray  # of the clips in the manifest, from 0 on
    places: np.ndarray  # bytes

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.tar"

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"


def write_shards(
    manifest: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    minutes: float = MINUTES,
    jobs: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> ShardIndex:
    """Make the shards of a manifest that are not there yet, then their index.

    The same manifest gives the same bytes. A clip that cannot be used is left out, and the index says why.

    Args:
        minutes: of speech in a shard; an aligned group is never divided.
        jobs: shards that are made at a time, each in a process.
        report: called with the clips done so far.

    Raises:
        InputError: the manifest is wrong, no clip can be used, the folder cannot be written to, or it holds the
            shards of another manifest or of other settings.
        VconvError: a worker process died.
    """
    manifest, folder = Path(manifest), Path(folder)
    if not minutes > 0:
        raise InputError(f"shards of {minutes:g} minutes are impossible; use 1 or more")
    plan = hashlib.sha256(f"{FORMAT} {digest(manifest)} {minutes:g}".encode()).hexdigest()
    _check_folder(folder, plan)
    parts = list(_parts(manifest, folder, plan, 60 * minutes))
    shards, done = [], 0
    for part, shard in zip(parts, map_in_order(_make, parts, jobs)):
        shards.append(shard)
        done += len(part.places)
        report(done)
    index = ShardIndex(FORMAT, plan, tuple(shards))
    if not index.clips:
        reasons = (reason for shard in shards for reason in shard.left_out)
        raise InputError(f"no clip could be used; the first problem: {next(reasons, 'no clips')}")
    write_text(folder / INDEX, index_json(index))
    for part in parts:
        part.record.unlink(missing_ok=True)
    return index


def _check_folder(folder: Path, plan: str) -> None:
    """Make it. Raises InputError if it holds the index of other shards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another place") from error
    other = _recorded(folder / INDEX)
    if other is not None and other.get("plan") != plan:
        raise InputError(f"{folder}: holds shards of another manifest or other settings; delete it, or choose another")


def _parts(manifest: Path, folder: Path, plan: str, seconds: float) -> Iterator[_Part]:
    """Clips in random order that depends on the manifest alone, those of a group together, split after split."""
    splits, units, lengths = array("b"), array("Q"), array("f")
    for number, clip in enumerate(scan_manifest(manifest)):
        splits.append(SPLITS.index(clip.split))
        units.append(_hash(f"group {clip.group}" if clip.group else f"clip {number}"))
        lengths.append(clip.seconds or UNKNOWN_SECONDS)
    split, unit, length = np.asarray(splits), np.asarray(units), np.asarray(lengths)
    place = np.fromiter(line_places(manifest), np.int64)
    order = np.lexsort((unit, split))
    for code, name in enumerate(SPLITS):
        own = order[split[order] == code]
        begun = np.cumsum(length[own], dtype=np.float64) - length[own]
        first = np.r_[True, unit[own][1:] != unit[own][:-1]] if len(own) else np.zeros(0, bool)
        # All clips of a unit go where its first one goes.
        shard = (begun[np.maximum.accumulate(np.where(first, np.arange(len(own)), 0))] // seconds).astype(int)
        for count, chosen in enumerate(np.unique(shard)):
            rows = own[shard == chosen]
            yield _Part(manifest, folder, f"{name}-{count:06d}", name, plan, rows, place[rows])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def _make(part: _Part) -> Shard:
    """Write a shard, or take the one that an earlier run has finished."""
    remove_leftovers(part.path)
    if (found := _finished(part)) is not None:
        return found
    clips, seconds, left_out = 0, 0.0, []
    with replacing(part.path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, clip in zip(part.numbers, clips_at(part.manifest, part.places.tolist())):
                try:
                    sound = read_sound(str(clip.path), trim=not clip.group)
                except InputError as error:
                    left_out.append(str(error))
                    continue
                length = sound.frames / FRAME_RATE
                for suffix, content in (
                    (AUDIO, _flac(sound.steps())),
                    (F0, _npy(sound.f0())),
                    (LABELS, labels_json(clip, length)),
                ):
                    _add(tar, f"{number:09d}.{suffix}", content)
                clips, seconds = clips + 1, seconds + length
                tar.members.clear()  # type: ignore[attr-defined]  # its headers, which nobody asks for
        size, sha256 = temporary.stat().st_size, digest(temporary)
    shard = Shard(part.path.name, part.split, clips, round(seconds, 3), size, sha256, tuple(left_out))
    write_text(part.record, json.dumps({"plan": part.plan, "shard": dataclasses.asdict(shard)}))
    return shard


def _finished(part: _Part) -> Shard | None:
    """What is recorded of a shard that is there: in its own record or, after the end, in the index."""
    shards = {}
    for path in (part.folder / INDEX, part.record):
        recorded = _recorded(path) or {}
        if recorded.get("plan") == part.plan:
            some = recorded.get("shards", [recorded.get("shard")])
            shards |= {shard["file"]: shard for shard in some if isinstance(shard, dict) and "file" in shard}
    with contextlib.suppress(OSError, InputError):
        found = build(Shard, shards.get(part.path.name) or {})
        if part.path.stat().st_size == found.bytes:
            return found
    return None


def _recorded(path: Path) -> dict | None:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """With neither time nor owner: the same content gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _flac(steps: np.ndarray) -> bytes:
    """[frames, OUTPUT_HOP] int16, without loss"""
    file = io.BytesIO()
    soundfile.write(file, steps.reshape(-1), OUTPUT_RATE, "PCM_16", format="FLAC")
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array.astype(np.float32))
    return file.getvalue()
