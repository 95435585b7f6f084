"""A corpus as features in a folder of flat arrays, memory-mapped: built once, read by crops.

    mel.raw   [total frames, N_MELS] float16    log-mel
    f0.raw    [total frames] float32            Hz, 0 where unvoiced
    wave.raw  [total frames, OUTPUT_HOP] int16  24 kHz, frame t starting at the centre of mel frame t
    index.json                                  the clips and where each one's frames are

The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.errors import InputError
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE, PitchTracker, frame_count, log_mel
from vconv.files import remove_stale
from vconv.manifest import Clip
from vconv.processes import map_in_order

FORMAT = 1
MIN_FRAMES = 32  # half a second; shorter clips teach nothing
WAVE_SCALE = 16384.0  # int16 steps to 1.0: a clip at the reference loudness may peak above full scale


@dataclass(frozen=True, slots=True)  # there may be millions
class Entry:
    """One clip's place in the arrays."""

    path: str
    start: int  # frames
    frames: int


@dataclass(frozen=True)
class Store:
    folder: Path
    entries: list[Entry]
    mel: np.ndarray
    f0: np.ndarray
    wave: np.ndarray

    def clip_mel(self, entry: Entry) -> np.ndarray:
        """[frames, N_MELS] float16"""
        return self.mel[entry.start : entry.start + entry.frames]

    def clip_f0(self, entry: Entry) -> np.ndarray:
        """[frames] Hz"""
        return self.f0[entry.start : entry.start + entry.frames]

    def clip_wave(self, entry: Entry) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16, ``WAVE_SCALE`` steps to 1.0"""
        return self.wave[entry.start : entry.start + entry.frames]

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        return open_store, (self.folder,)  # to another process goes the place, not the arrays


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
        global _tracker
        if _tracker is None:
            _tracker = PitchTracker()
        return _tracker(self.narrow)

    def steps(self) -> np.ndarray:
        """[frames, OUTPUT_HOP] int16 at 24 kHz, ``WAVE_SCALE`` steps to 1.0"""
        wide = np.zeros(self.frames * OUTPUT_HOP, np.float32)
        resampled = audio.resample(self.wave, self.rate, OUTPUT_RATE)[: len(wide)]
        wide[: len(resampled)] = resampled
        return np.clip(np.round(wide * WAVE_SCALE), -32768, 32767).astype(np.int16).reshape(-1, OUTPUT_HOP)


def read_sound(path: str, trim: bool) -> Sound:
    """Read a clip, without the silence around it if ``trim``.

    Raises:
        InputError: it cannot be read, is silent, or too short.
    """
    wave, rate = audio.read(path)
    if trim:
        wave = audio.trim_silence(wave, rate)
    level = audio.loudness(wave, rate) if len(wave) else -np.inf
    if audio.is_silent(level):
        raise InputError(f"{path}: only silence")
    wave = wave * audio.gain(level)
    sound = Sound(audio.resample(wave, rate, SAMPLE_RATE), wave, rate)
    if sound.frames < MIN_FRAMES:
        raise InputError(f"{path}: too short")
    return sound


def extract(path: str, trim: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    """Features of one clip, (mel [T, N_MELS], f0 [T], wave [T, OUTPUT_HOP]), or why it has none."""
    try:
        sound = read_sound(path, trim)
    except InputError as error:
        return str(error)
    return sound.mel(), sound.f0(), sound.steps()


_tracker: PitchTracker | None = None  # one a process; it takes 20 ms to load


def _extract_task(task: tuple[str, bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | str:
    return extract(*task)


def build(
    clips: Iterable[Clip],
    folder: Path,
    processes: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Extract the features of all clips into ``folder``; returns one line for each clip left out.

    Clips of a parallel group keep their silence, which holds them aligned; the others are trimmed.

    Raises:
        InputError: no clip has any features.
        VconvError: a worker process died.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    remove_stale(folder.parent, f"{glob.escape(folder.name)}.partial-*")
    tasks = [(str(clip.path), not clip.group) for clip in clips]
    entries: list[Entry] = []
    skipped: list[str] = []
    total = 0
    try:
        with (
            (partial / "mel.raw").open("wb") as mel,
            (partial / "f0.raw").open("wb") as f0,
            (partial / "wave.raw").open("wb") as wave,
        ):
            for done, (task, result) in enumerate(zip(tasks, map_in_order(_extract_task, tasks, processes)), 1):
                if isinstance(result, str):
                    skipped.append(result)
                else:
                    for file, array in zip((mel, f0, wave), result):
                        array.tofile(file)
                    entries.append(Entry(task[0], total, len(result[0])))
                    total += len(result[0])
                report(done)
        if not entries:
            raise InputError(f"no clip could be used; the first problem: {skipped[0] if skipped else 'no clips'}")
        _write_index(partial, entries, total)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return skipped


def _write_index(folder: Path, entries: list[Entry], total: int) -> None:
    index = {"format": FORMAT, "frames": total, "clips": [[e.path, e.start, e.frames] for e in entries]}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def open_store(folder: Path) -> Store:
    """Map a built folder. Raises InputError where there is none or it is of another format."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder}: no feature store here; it is built when a training run starts") from None
    if index["format"] != FORMAT:
        raise InputError(f"{folder}: feature store of format {index['format']}, not {FORMAT}; delete it")
    total = index["frames"]

    def mapped(name: str, kind: type, *shape: int) -> np.ndarray:
        return np.memmap(folder / name, kind, "r", shape=(total, *shape))

    return Store(
        folder,
        [Entry(*clip) for clip in index["clips"]],
        mapped("mel.raw", np.float16, N_MELS),
        mapped("f0.raw", np.float32),
        mapped("wave.raw", np.int16, OUTPUT_HOP),
    )
