"""Features computed from the audio when a batch needs them: nothing is built before the training.

The same face as ``store.Store``, with one difference: an entry's ``frames`` come from the manifest and are only
about right, as silence is trimmed when the audio is read. What an array's length is, the array says.

It is made on the CPU, in ``corpus.workers`` processes, though a log-mel is soon made on a GPU too: of the work for a
batch, tracking F0 is about half, reading and decoding a third or more, and all log-mels together a tenth. What saves
work is the cache.

With a cache folder each clip's features are made once. A clip's file there appears whole, whoever makes it,
so any number of processes and machines can share the folder:

    ab/cdef....npz   mel [T, N_MELS] float16, f0 [T] float32, wave [T, OUTPUT_HOP] int16, as in a store
    .partial/        what is being written
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sys
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from vconv.data.manifest import Clip
from vconv.data.store import FORMAT, MIN_FRAMES, Entry, Sound, read_sound
from vconv.errors import InputError
from vconv.features import SAMPLE_RATE, frame_count
from vconv.files import digest, remove_stale
from vconv.frontends.asr_encoder import AsrEncoder

ASR_FEATURES = ("asr_features", "disturbed_mel", "disturbed_asr_features")  # features that only an ASR encoder gives
REMEMBERED = 32  # clips whose audio stays in memory, as a batch needs several features of each
PARTIAL = ".partial"


class OnTheFly:
    """Features of the clips of a manifest, made on the fly.

    A clip that cannot be used is reported once, on stderr, and replaced by half a second of faint noise: in millions
    of files some go bad while a training runs.

    Args:
        clips: with their lengths; those of an aligned group keep their silence, which holds them aligned.
        cache: folder to keep features in.
        asr_encoder: ONNX file whose features are among them.

    Raises:
        InputError: a clip's length is not known.
    """

    def __init__(self, clips: Iterable[Clip], cache: Path | None = None, asr_encoder: str = "") -> None:
        self._cache = cache
        self._asr_encoder = asr_encoder
        self._digest = digest(asr_encoder) if asr_encoder else ""
        self.asr_channels = AsrEncoder(asr_encoder).channels if asr_encoder else 0
        if cache:
            (cache / PARTIAL).mkdir(parents=True, exist_ok=True)
            remove_stale(cache / PARTIAL, "*")
        self.entries: list[Entry] = []
        self._aligned: set[str] = set()
        for clip in clips:
            if clip.seconds is None:
                raise InputError(
                    f"{clip.path}: the manifest has no length for it; make the manifest with vconv prepare"
                )
            frames = max(frame_count(round(clip.seconds * SAMPLE_RATE)), MIN_FRAMES)
            self.entries.append(Entry(str(clip.path), 0, frames))
            if clip.group:
                self._aligned.add(str(clip.path))

    def clip_mel(self, entry: Entry) -> np.ndarray:
        """[frames, N_MELS] float16"""
        return self._feature(entry, "mel")

    def clip_f0(self, entry: Entry) -> np.ndarray:
        """[frames] Hz"""
        return self._feature(entry, "f0")

    def clip_wave(self, entry: Entry) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16, ``WAVE_SCALE`` steps to 1.0"""
        return self._feature(entry, "wave")

    def clip_asr_features(self, entry: Entry) -> np.ndarray | None:
        """[ceil(frames / 2), R] float16, None without an ASR encoder"""
        return self._feature(entry, "asr_features") if self._asr_encoder else None

    def clip_disturbed(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """The clip disturbed, though without a crowd: mel [frames, N_MELS], an ASR encoder's features [rows, R]"""
        return self._feature(entry, "disturbed_mel"), self._feature(entry, "disturbed_asr_features")

    def _feature(self, entry: Entry, name: str) -> np.ndarray:
        trim = entry.path not in self._aligned
        if self._cache is None:
            return _make(_sound(entry.path, trim), name, self._asr_encoder)
        path = self._cache / _cache_name(entry.path, trim, self._digest)
        # Missing, or a disk has failed: then it is made again.
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as arrays:
            return arrays[name]
        sound = _sound(entry.path, trim)
        names = ("mel", "f0", "wave", *(ASR_FEATURES if self._asr_encoder else ()))
        features = {key: _make(sound, key, self._asr_encoder) for key in names}
        if sound is not _NOISE:  # the file may be whole again tomorrow
            self._write(path, features)
        return features[name]

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        path.parent.mkdir(exist_ok=True)
        partial = self._cache / PARTIAL / secrets.token_hex(8)
        try:
            with partial.open("xb") as file:
                np.savez(file, **arrays)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@lru_cache(REMEMBERED)
def _sound(path: str, trim: bool) -> Sound:
    try:
        return read_sound(path, trim)
    except InputError as error:
        if path not in _told:
            _told.add(path)
            print(f"vconv: left out: {error}", file=sys.stderr, flush=True)
        return _NOISE


_told: set[str] = set()


def _noise() -> Sound:
    wave = 1e-3 * np.random.default_rng(0).standard_normal(SAMPLE_RATE // 2).astype(np.float32)
    return Sound(wave, wave, SAMPLE_RATE)


_NOISE = _noise()


@lru_cache((3 + len(ASR_FEATURES)) * REMEMBERED)
def _make(sound: Sound, name: str, asr_encoder: str) -> np.ndarray:
    makers = {
        "mel": sound.mel,
        "f0": sound.f0,
        "wave": sound.steps,
        "asr_features": lambda: sound.asr_features(asr_encoder),
        "disturbed_mel": lambda: _disturbed(sound, asr_encoder)[0],
        "disturbed_asr_features": lambda: _disturbed(sound, asr_encoder)[1],
    }
    return makers[name]()


@lru_cache(REMEMBERED)
def _disturbed(sound: Sound, asr_encoder: str) -> tuple[np.ndarray, np.ndarray]:
    return sound.disturbed(asr_encoder, zlib.crc32(sound.narrow.tobytes()), ())


def _cache_name(path: str, trim: bool, asr_encoder: str) -> str:
    """Another name for a file that has changed, and for features of another format."""
    try:
        stat = Path(path).stat()
        version = (stat.st_size, stat.st_mtime_ns)
    except OSError:
        version = (0, 0)
    name = hashlib.sha256(repr((FORMAT, os.path.abspath(path), trim, version, asr_encoder)).encode()).hexdigest()
    return f"{name[:2]}/{name[2:40]}.npz"
