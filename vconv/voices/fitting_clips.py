"""The clips that a population is fitted to, and a stretch of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.data.manifest import TRAIN, VALID, Clip, read_manifest, unseen
from vconv.errors import InputError
from vconv.features import SAMPLE_RATE
from vconv.files import name_digest
from vconv.voices.check import loudest, read_beginning, stretch

SPEAKERS = 1000  # of the training part, at most
Disturb = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # wave [N] -> [N]
CLIPS = 2  # of each, at most: many speakers tell more of voices than many clips
TRIAL_CLIPS = 12  # of each held-out speaker, at most


def read_clips(manifest: Path) -> list[Clip]:
    """The clips of a manifest; those of aligned groups only where there are no others: their melody is borrowed.

    Raises:
        InputError: the file is missing or no manifest.
    """
    clips = read_manifest(manifest)
    return [clip for clip in clips if not clip.group] or clips


def choose_training(clips: Sequence[Clip], manifest: Path) -> list[Clip]:
    """Some clips of training speakers; which ones depends on names alone.

    Raises:
        InputError: too few speakers.
    """
    by_speaker = _grouped(clip for clip in clips if clip.split == TRAIN)
    if len(by_speaker) < 4:
        raise InputError(
            f"{manifest}: {len(by_speaker)} training speakers are too few to tell how voices differ; use 4 or more"
        )
    names = sorted(by_speaker, key=name_digest)[:SPEAKERS]
    return [clip for name in names for clip in by_speaker[name][:CLIPS]]


def choose_held_out(clips: Sequence[Clip], manifest: Path, split: str = VALID, most: int = TRIAL_CLIPS) -> list[Clip]:
    """Some clips of speakers of a split that have several and none in the training part.

    Raises:
        InputError: fewer than two such speakers.
    """
    by_speaker = _grouped(unseen(clips, split))
    able = {name: found for name, found in by_speaker.items() if len(found) >= 2}
    if len(able) < 2:
        raise InputError(
            f"{manifest}: 2 speakers or more are needed who have 2 clips in the split '{split}' and none in training, "
            f"and there are {len(able)}; prepare it with a larger --valid-percent, or take a manifest of others"
        )
    return [clip for name in sorted(by_speaker, key=name_digest) for clip in by_speaker[name][:most]]


def _grouped(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    by_speaker: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: name_digest(clip.path.name)):
        by_speaker.setdefault(clip.speaker, []).append(clip)
    return by_speaker


def speech_window(clip: Clip, disturb: Disturb | None = None) -> np.ndarray:
    """The loudest seconds of a clip, as the check takes them, at the reference loudness: 16 kHz [N].

    Raises:
        InputError: the clip cannot be read, is too short or silent.
    """
    wave = read_beginning(clip.path)
    wave = stretch(wave, loudest(wave))
    if audio.is_silent(audio.loudness(wave, SAMPLE_RATE)):
        raise InputError(f"{clip.path}: only silence")
    if disturb:
        rng = np.random.default_rng(int(name_digest(clip.path.name)[:8], 16))
        wave = disturb(wave, rng).astype(np.float32)
    return audio.normalize(wave, SAMPLE_RATE)
