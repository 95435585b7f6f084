"""Shards read at random: which clips there are is read once, each clip's audio when a batch needs it.

On a local disk a batch can then be a function of (seed, step, rank), as with a feature store. ``reading.stream`` is for
what is read from the beginning to the end.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from vconv.data.manifest import Clip
from vconv.data.shards.format import AUDIO, F0, LABELS, Sample, open_index
from vconv.data.shards.tar import Member, scan_members
from vconv.data.store import Entry
from vconv.errors import InputError
from vconv.features import FRAME_RATE

REMEMBERED = 64  # clips whose audio stays in memory, as a batch needs it and its F0


class ShardStore:
    """The clips of a folder of shards: ``entries`` with ``clips``, their lines of the manifest.

    Memory grows with the clips' labels, not with their audio.

    Raises:
        InputError: the folder holds no finished shards, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.clips: list[Clip] = []
        self._members: dict[str, dict[str, Member]] = {}  # by the entry's path
        for shard in open_index(folder).shards:
            self._scan(folder / shard.file)

    def _scan(self, path: Path) -> None:
        found: dict[str, dict[str, Member]] = {}
        for member in scan_members(path):
            found.setdefault(member.key, {})[member.suffix] = member
        for key, members in found.items():
            if missing := {AUDIO, F0, LABELS} - members.keys():
                raise InputError(f"{path}: {key}: has no file .{min(missing)}; make the shards again")
            clip = Sample(path.name, key, {LABELS: _content(path, members[LABELS])}).clip()
            if clip.seconds is None:
                raise InputError(f"{path}: {key}: its length is not known; make the shards again")
            entry = Entry(str(clip.path), 0, round(clip.seconds * FRAME_RATE))
            self.clips.append(clip)
            self.entries.append(entry)
            self._members[entry.path] = {suffix: members[suffix] for suffix in (AUDIO, F0)}

    def clip_wave(self, entry: Entry) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16 at 24 kHz, ``WAVE_SCALE`` steps to 1.0"""
        return self._decoded(entry)[0]

    def clip_f0(self, entry: Entry) -> np.ndarray:
        """[frames] Hz"""
        return self._decoded(entry)[1]

    def _decoded(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        shard, _, key = entry.path.partition("/")
        members = self._members[entry.path]
        return _decode(self.folder / shard, key, members[AUDIO], members[F0])


def _content(path: Path, member: Member) -> bytes:
    with path.open("rb") as file:
        file.seek(member.place)
        return file.read(member.size)


@functools.lru_cache(REMEMBERED)
def _decode(path: Path, key: str, wave: Member, f0: Member) -> tuple[np.ndarray, np.ndarray]:
    sample = Sample(path.name, key, {AUDIO: _content(path, wave), F0: _content(path, f0)})
    steps, pitch = sample.steps(), sample.f0()
    if len(steps) != len(pitch):
        raise InputError(f"{path}: {key}: {len(pitch)} frames of F0 for {len(steps)} of audio; make the shards again")
    return steps, pitch
