"""A corpus as features in a folder of flat arrays, memory-mapped: built once, read by crops.

    mel.raw   [total frames, N_MELS] float16    log-mel
    f0.raw    [total frames] float32            Hz, 0 where unvoiced
    wave.raw  [total frames, OUTPUT_HOP] int16  24 kHz, frame t starting at the centre of mel frame t
    index.json                                  the clips and where each one's frames are

With an ASR encoder, its features, one row for two frames, an odd last one included; and a second version of each clip,
augmented by ``augmentation.recording``:

    asr_features.raw            [total rows, R] float16
    disturbed_mel.raw       [total frames, N_MELS] float16
    disturbed_asr_features.raw  [total rows, R] float16

The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.data.augmentation import recording as disturb
from vconv.data.manifest import TRAIN, Clip
from vconv.errors import InputError
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE, code_frames, frame_count, log_mel
from vconv.files import digest, remove_stale
from vconv.frontends.asr_encoder import AsrEncoder
from vconv.frontends.grid import at_places
from vconv.frontends.pitch import PitchTracker
from vconv.processes import map_in_order

FORMAT = 2
MIN_FRAMES = 32  # half a second; shorter clips are of no use in training
WAVE_SCALE = 16384.0  # int16 steps to 1.0: a clip at the reference loudness may peak above full scale


@dataclass(frozen=True, slots=True)  # there may be millions
class Entry:
    """One clip's place in the arrays."""

    path: str
    start: int  # frames
    frames: int
    row: int = 0  # of the ASR encoder's features

    @property
    def rows(self) -> int:
        return code_frames(self.frames)


@dataclass(frozen=True)
class Store:
    folder: Path
    asr_encoder: str  # the file whose features are in use, if any
    entries: list[Entry]
    unusable: frozenset[str]  # paths of clips that no features could be made of
    mel: np.ndarray
    f0: np.ndarray
    wave: np.ndarray
    asr_features: np.ndarray | None = None  # [rows, R] with an ASR encoder, as are the two that follow
    disturbed_mel: np.ndarray | None = None
    disturbed_asr_features: np.ndarray | None = None

    @property
    def asr_channels(self) -> int:
        """R"""
        return 0 if self.asr_features is None else self.asr_features.shape[1]

    def clip_mel(self, entry: Entry) -> np.ndarray:
        """[frames, N_MELS] float16"""
        return self.mel[entry.start : entry.start + entry.frames]

    def clip_f0(self, entry: Entry) -> np.ndarray:
        """[frames] Hz"""
        return self.f0[entry.start : entry.start + entry.frames]

    def clip_wave(self, entry: Entry) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16, ``WAVE_SCALE`` steps to 1.0"""
        return self.wave[entry.start : entry.start + entry.frames]

    def clip_asr_features(self, entry: Entry) -> np.ndarray | None:
        """[rows, R] float16, None without an ASR encoder"""
        return None if self.asr_features is None else self.asr_features[entry.row : entry.row + entry.rows]

    def clip_disturbed(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """The clip disturbed, where there is an ASR encoder: mel [frames, N_MELS] and its features [rows, R]"""
        frames, rows = (slice(start, start + n) for start, n in ((entry.start, entry.frames), (entry.row, entry.rows)))
        return self.disturbed_mel[frames], self.disturbed_asr_features[rows]

    def __reduce__(self) -> tuple[Callable[[Path, str], Store], tuple[Path, str]]:
        return open_store, (self.folder, self.asr_encoder)  # to another process goes the place, not the arrays


@dataclass(frozen=True, eq=False)
class Sound:
    """A clip at the reference loudness, from which its features are made."""

    narrow: np.ndarray  # [N] at 16 kHz
    wave: np.ndarray  # [M] at its own rate
    rate: int  # Hz

    @property
    def frames(self) -> int:
        return frame_count(len(self.narrow))

    def mel(self) -> np.ndarray:
        """[frames, N_MELS] float16"""
        return log_mel(self.narrow).T.astype(np.float16)

    def f0(self) -> np.ndarray:
        """[frames] Hz"""
        return _tracker()(self.narrow)

    def steps(self) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16 at 24 kHz, ``WAVE_SCALE`` steps to 1.0"""
        wide = np.zeros(self.frames * OUTPUT_HOP, np.float32)
        resampled = audio.resample(self.wave, self.rate, OUTPUT_RATE)[: len(wide)]
        wide[: len(resampled)] = resampled
        return np.clip(np.round(wide * WAVE_SCALE), -32768, 32767).astype(np.int16).reshape(-1, OUTPUT_HOP)

    def asr_features(self, asr_encoder: str) -> np.ndarray:
        """An ASR encoder's features: [rows, R] float16"""
        return _asr_encoder(asr_encoder)(self.narrow).T.astype(np.float16)

    def disturbed(self, asr_encoder: str, seed: int, others: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The same of the sound disturbed, on its own frames: mel [frames, N_MELS] and features [rows, R] float16"""
        rng = np.random.default_rng(seed)
        rate = disturb.voice_rate(rng)
        wave = disturb.surround(disturb.faster(self.narrow, rate), rng, others)
        wave = audio.normalize(wave, SAMPLE_RATE)
        frames, rows = np.arange(self.frames) / rate, np.arange(code_frames(self.frames)) / rate
        mel, asr_features = at_places(log_mel(wave).T, frames), at_places(_asr_encoder(asr_encoder)(wave).T, rows)
        return mel.astype(np.float16), asr_features.astype(np.float16)


def read_sound(path: str, trim: bool) -> Sound:
    """Read a clip, without the silence around it if ``trim``.

    Raises:
        InputError: it cannot be read, is silent, or too short.
    """
    reader = audio.BlockReader(path)
    wave, rate = audio.without_offset(audio.join(reader)), reader.rate
    if trim:
        wave = audio.trim_silence(wave, rate)
    level = audio.loudness(wave, rate) if len(wave) else -np.inf
    if audio.is_silent(level):
        raise InputError(f"{path}: {reader.why_silent(level)}")
    wave = wave * audio.gain(level)
    sound = Sound(audio.resample(wave, rate, SAMPLE_RATE), wave, rate)
    if sound.frames < MIN_FRAMES:
        raise InputError(f"{path}: too short")
    return sound


@dataclass(frozen=True)
class Task:
    """A clip to extract the features of, and clips whose speakers may talk behind it."""

    path: str
    trim: bool
    asr_encoder: str = ""
    others: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        return zlib.crc32(
            "/".join(Path(self.path).parts[-2:]).encode("utf-8", "surrogateescape")
        )  # of files that are all called 1.wav, too


def extract(task: Task) -> dict[str, np.ndarray] | str:
    """Features of one clip by the names of the arrays they go into, or why it has none."""
    try:
        sound = read_sound(task.path, task.trim)
    except InputError as error:
        return str(error)
    found = {"mel": sound.mel(), "f0": sound.f0(), "wave": sound.steps()}
    if task.asr_encoder:
        found["asr_features"] = sound.asr_features(task.asr_encoder)
        mel, asr_features = sound.disturbed(task.asr_encoder, task.seed, list(_crowd(task.others)))
        found |= {"disturbed_mel": mel, "disturbed_asr_features": asr_features}
    return found


def _crowd(paths: Iterable[str]) -> Iterator[np.ndarray]:
    """The clips that can be read: waves [N] at 16 kHz"""
    for path in paths:
        with contextlib.suppress(InputError):
            yield read_sound(path, trim=True).narrow


@functools.cache
def _tracker() -> PitchTracker:
    return PitchTracker()


@functools.lru_cache(1)
def _asr_encoder(path: str) -> AsrEncoder:
    return AsrEncoder(path)


def build(
    clips: Iterable[Clip],
    folder: Path,
    processes: int = 1,
    report: Callable[[int], None] = lambda done: None,
    asr_encoder: str = "",
) -> list[str]:
    """Extract the features of all clips into ``folder``; returns one line for each clip left out.

    Clips of an aligned group keep their silence, which holds them aligned; the others are trimmed. With a
    ``asr_encoder``, an ONNX file, its features are among them.

    Raises:
        InputError: no clip has any features, or the ASR encoder is none.
        VconvError: a worker process died.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    remove_stale(folder.parent, f"{glob.escape(folder.name)}.partial-*")
    tasks = _tasks(list(clips), asr_encoder)
    channels = _asr_encoder(asr_encoder).channels if asr_encoder else 0
    entries: list[Entry] = []
    skipped: list[str] = []
    unusable: list[str] = []
    total = 0
    try:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((partial / f"{name}.raw").open("wb")) for name in _arrays(channels)}
            for done, (task, result) in enumerate(zip(tasks, map_in_order(extract, tasks, processes)), 1):
                if isinstance(result, str):
                    skipped.append(result)
                    unusable.append(task.path)
                else:
                    for name, file in files.items():
                        result[name].tofile(file)
                    entries.append(Entry(task.path, total, len(result["mel"])))
                    total += len(result["mel"])
                report(done)
        if not entries:
            raise InputError(f"no clip could be used; the first problem: {skipped[0] if skipped else 'no clips'}")
        _write_index(partial, entries, unusable, total, channels, digest(asr_encoder) if asr_encoder else "")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return skipped


def _tasks(clips: Sequence[Clip], asr_encoder: str) -> list[Task]:
    """One for each clip, in order; with an ASR encoder, some other clips' speakers go with it."""
    rng = np.random.default_rng(0)
    pool = [str(clip.path) for clip in clips if clip.split == TRAIN] if asr_encoder else []
    crowds = rng.integers(len(pool), size=(len(clips), disturb.BABBLE_VOICES)) if pool else [()] * len(clips)
    return [
        Task(os.path.abspath(clip.path), not clip.group, asr_encoder, tuple(pool[k] for k in crowd))
        for clip, crowd in zip(clips, crowds)
    ]


def _arrays(asr_channels: int) -> dict[str, tuple[type, tuple[int, ...], bool]]:
    """Of a store: type, shape of a row, and whether there is one for two frames."""
    found = {
        "mel": (np.float16, (N_MELS,), False),
        "f0": (np.float32, (), False),
        "wave": (np.int16, (OUTPUT_HOP,), False),
    }
    if asr_channels:
        found["asr_features"] = found["disturbed_asr_features"] = (np.float16, (asr_channels,), True)
        found["disturbed_mel"] = found["mel"]
    return found


def _write_index(
    folder: Path, entries: list[Entry], unusable: list[str], total: int, channels: int, asr_encoder: str
) -> None:
    clips = [[e.path, e.start, e.frames] for e in entries]
    index = {
        "format": FORMAT,
        "frames": total,
        "asr_channels": channels,
        "asr_encoder": asr_encoder,
        "clips": clips,
        "unusable": unusable,
    }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def open_store(folder: Path, asr_encoder: str = "") -> Store:
    """Map a built folder, with the features of the ``asr_encoder`` if one is given.

    Raises:
        InputError: there is none, or it is of another format, or of another ASR encoder.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder}: no feature store here; it is built when a training run starts") from None
    if index["format"] != FORMAT:
        raise InputError(f"{folder}: feature store of format {index['format']}, not {FORMAT}; delete it")
    if asr_encoder and index["asr_encoder"] != digest(asr_encoder):
        raise InputError(f"{folder}: feature store without the features of {asr_encoder}; delete it, or give another")
    entries, rows = [], 0
    for path, start, frames in index["clips"]:
        entries.append(Entry(path, start, frames, rows))
        rows += code_frames(frames)
    channels = index["asr_channels"] if asr_encoder else 0
    arrays = {}
    for name, (kind, shape, halved) in _arrays(channels).items():
        shape = (rows if halved else index["frames"], *shape)
        arrays[name] = np.memmap(folder / f"{name}.raw", kind, "r", shape=shape)
    unusable = frozenset(index.get("unusable", ()))
    return Store(folder, asr_encoder, entries, unusable, **arrays)


def clips_outside(store: Store, clips: Iterable[Clip]) -> int:
    """How many clips of a manifest the store has no features of, though it was never told of them."""
    known = {os.path.abspath(entry.path) for entry in store.entries} | store.unusable
    return sum(os.path.abspath(clip.path) not in known for clip in clips)
