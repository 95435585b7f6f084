"""What shards hold: the files of a sample, and the index of a folder."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from vconv.config import build
from vconv.data.manifest import Clip
from vconv.data.manifest.table import COLUMNS, clip_of
from vconv.data.store import WAVE_SCALE
from vconv.errors import InputError
from vconv.features import OUTPUT_HOP, OUTPUT_RATE
from vconv.untrusted import parse_json, read_json

FORMAT = 1
INDEX = "index.json"
AUDIO, F0, LABELS = "flac", "f0.npy", "json"  # suffixes of a sample's files
NUMBERS = ("seconds", "sample_rate")  # columns that are numbers in the JSON file


@dataclass(frozen=True)
class Shard:
    """One tar file of a folder."""

    file: str
    split: str
    clips: int
    seconds: float
    bytes: int
    sha256: str
    left_out: tuple[str, ...] = ()  # why clips of the manifest are not in it


@dataclass(frozen=True)
class ShardIndex:
    """A finished folder of shards."""

    format: int
    plan: str  # digest of the manifest and the settings that the shards were made with
    shards: tuple[Shard, ...]

    @property
    def clips(self) -> int:
        return sum(shard.clips for shard in self.shards)

    @property
    def seconds(self) -> float:
        return sum(shard.seconds for shard in self.shards)


def open_index(folder: Path) -> ShardIndex:
    """The index of a folder, its files' sizes compared with it.

    Raises:
        InputError: there is none, it is of another format, or a shard is missing or of another size.
    """
    path = folder / INDEX
    try:
        index = build(ShardIndex, read_json(path), str(path))
    except (OSError, ValueError):
        raise InputError(f"{folder}: holds no finished shards; run 'vconv prepare --shards {folder}' again") from None
    if index.format != FORMAT:
        raise InputError(f"{path}: shards of format {index.format}, not {FORMAT}; make them again")
    for shard in index.shards:
        if not _is_plain_name(shard.file):
            raise InputError(f"{path}: '{shard.file[:80]}' is no name of a shard; make the shards again")
        place = folder / shard.file
        if not place.is_file() or place.stat().st_size != shard.bytes:
            raise InputError(f"{place}: is missing or not as {INDEX} records it; delete {path} and make it again")
    return index


def index_json(index: ShardIndex) -> str:
    return json.dumps(dataclasses.asdict(index), indent=1) + "\n"


def _is_plain_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and not any(c in name for c in "/\\\0")


@dataclass(frozen=True)
class Sample:
    """Files of one key, as bytes by suffix."""

    shard: str  # name of the tar file, for messages
    key: str
    files: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    @property
    def where(self) -> str:
        return f"{self.shard}: {self.key}"

    def steps(self) -> np.ndarray:
        """The decoded audio: [frames, OUTPUT_HOP] int16 at 24 kHz, ``WAVE_SCALE`` steps to 1.0.

        Raises:
            InputError: there is none, or it is no mono FLAC file at 24 kHz.
        """
        try:
            wave, rate = soundfile.read(io.BytesIO(self._file(AUDIO)), dtype="int16")
        except soundfile.LibsndfileError as error:
            raise InputError(f"{self.where}.{AUDIO}: cannot be decoded ({error.error_string})") from None
        if wave.ndim != 1 or rate != OUTPUT_RATE or not len(wave) or len(wave) % OUTPUT_HOP:
            raise InputError(f"{self.where}.{AUDIO}: is no mono clip of whole frames at {OUTPUT_RATE} Hz")
        return wave.reshape(-1, OUTPUT_HOP)

    def wave(self) -> np.ndarray:
        """The decoded audio at the reference loudness: [N] float32 at 24 kHz"""
        return self.steps().reshape(-1).astype(np.float32) / WAVE_SCALE

    def f0(self) -> np.ndarray:
        """[frames] float32, Hz, 0 where unvoiced. Raises InputError where there is none, or a damaged one."""
        try:
            f0 = np.load(io.BytesIO(self._file(F0)), allow_pickle=False)
            if f0.dtype != np.float32 or f0.ndim != 1 or not np.isfinite(f0).all():
                raise ValueError("no row of finite float32 numbers")
        except (ValueError, EOFError, OSError, SyntaxError) as error:
            raise InputError(f"{self.where}.{F0}: is no array of F0 ({' '.join(str(error).split())[:80]})") from None
        return f0

    def clip(self) -> Clip:
        """Its line of the manifest. Raises InputError where that is missing or damaged."""
        where = f"{self.where}.{LABELS}"
        try:
            values = parse_json(self._file(LABELS))
            if not isinstance(values, dict):
                raise ValueError("expected a mapping")
        except ValueError as error:
            raise InputError(f"{where}: is no JSON object ({' '.join(str(error).split())[:80]})") from None
        texts = {name: str(value) for name, value in values.items() if isinstance(value, (str, int, float))}
        return clip_of(where, texts | {"path": f"{self.shard}/{self.key}"})

    def _file(self, suffix: str) -> bytes:
        if suffix not in self.files:
            raise InputError(f"{self.where}: has no file .{suffix}; make the shards with 'vconv prepare --shards'")
        return self.files[suffix]


def labels_json(clip: Clip, seconds: float) -> bytes:
    """The manifest's columns of a clip that have a value, but for its path; its length in the shard."""
    columns = (*COLUMNS, *dict(clip.extra))
    values = {name: clip.text(name) for name in columns if name != "path" and clip.text(name)}
    values |= {name: value for name in NUMBERS if (value := getattr(clip, name)) is not None}
    return json.dumps(values | {"seconds": round(seconds, 3)}, ensure_ascii=False).encode()
