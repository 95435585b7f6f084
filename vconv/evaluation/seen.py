"""Clips of a corpus through a model's encoders: content, codes, embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vconv import audio, features
from vconv.data.manifest import SPLITS, Clip
from vconv.errors import InputError
from vconv.evaluation import metrics
from vconv.files import name_digest
from vconv.inference.utterance import Utterance

if TYPE_CHECKING:
    from vconv.inference.engine import Engine

MIN_CLIPS = 4  # of a speaker, some for training the classifiers and some for testing them
MAX_SECONDS = 20.0  # of a clip: what the model takes at once
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """Which clips of the manifest."""

    split: str = "valid"  # train, valid, test or all
    speakers: int = 50  # at most
    clips: int = 20  # of each, at most


@dataclass
class Seen:
    """What the model made of the clips that could be read."""

    clips: list[Clip] = field(default_factory=list)
    content: list[np.ndarray] = field(default_factory=list)  # [C, T / 2]
    codes: list[np.ndarray] = field(default_factory=list)  # [G, T / 2], no rows without a bottleneck
    embeddings: list[np.ndarray] = field(default_factory=list)  # [E]; none of a model with a table of speakers
    spectra: list[np.ndarray] = field(default_factory=list)  # [50, T], for the phones' places
    bad: list[str] = field(default_factory=list)


def choose(clips: Sequence[Clip], choice: Choice) -> list[Clip]:
    """Clips of speakers that have enough of them; which ones depends on names alone, not on their order.

    Raises:
        InputError: fewer than two such speakers.
    """
    if choice.split not in (*SPLITS, "all"):
        raise InputError(f"--split {choice.split}: use {', '.join(SPLITS)} or all")
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        if choice.split in (clip.split, "all"):
            by_speaker.setdefault(clip.speaker, []).append(clip)
    able = {name: found for name, found in by_speaker.items() if len(found) >= MIN_CLIPS}
    if len(able) < 2:
        raise InputError(
            f"the manifest has {len(able)} speakers with {MIN_CLIPS} clips or more in the split '{choice.split}'; "
            "2 are needed (--split all takes every clip)"
        )
    names = sorted(able, key=name_digest)[: choice.speakers]
    picked = [
        sorted(able[name], key=lambda clip: name_digest(sentence(clip)))[: choice.clips] for name in sorted(names)
    ]
    return list(itertools.chain.from_iterable(picked))


def sentence(clip: Clip) -> str:
    """What is said: clips of an aligned group are one sentence, and lie in one fold."""
    return clip.group or clip.path.name


def look(clips: Sequence[Clip], engine: Engine, report: Report = lambda d, t: None, embeds: bool = True) -> Seen:
    """Codes and embeddings of every clip; unusable clips are listed. ``embeds``: the model embeds speakers."""
    seen = Seen()
    for done, clip in enumerate(clips, 1):
        try:
            wave = read_speech(clip.path)
        except InputError as error:
            seen.bad.append(str(error))
            continue
        utterance = Utterance.of(wave)
        encoded = engine.content(utterance)
        seen.clips.append(clip)
        seen.content.append(encoded.content)
        if encoded.codes is not None:
            seen.codes.append(encoded.codes)
        if embeds:
            seen.embeddings.append(engine.speaker(utterance))
        seen.spectra.append(spectra(utterance.mel))
        report(done, len(clips))
    return seen


def read_speech(path: Path) -> np.ndarray:
    """A clip's speech [N] at 16 kHz as analysis takes it: at most ``MAX_SECONDS``, without the silence around it.

    Raises:
        InputError: it cannot be read, or has too little speech.
    """
    wave, _ = audio.read(path, features.SAMPLE_RATE)
    wave = audio.trim_silence(wave, features.SAMPLE_RATE)[: round(MAX_SECONDS * features.SAMPLE_RATE)]
    if len(wave) < audio.MIN_SECONDS * features.SAMPLE_RATE:
        raise InputError(f"{path}: too little speech in it")
    return audio.normalize(wave, features.SAMPLE_RATE)


def spectra(mel: np.ndarray) -> np.ndarray:
    """What phones are placed by: cepstra, level, and how they move, each scaled over the clip: [80, T] -> [50, T].

    Scaled, they are alike for all speakers and microphones.
    """
    static = np.concatenate([metrics.mel_cepstrum(mel), mel.mean(axis=0, keepdims=True)])
    both = np.concatenate([static, np.gradient(static, axis=1)])
    return (both - both.mean(axis=1, keepdims=True)) / (both.std(axis=1, keepdims=True) + 1e-6)


def pooled(content: Sequence[np.ndarray]) -> np.ndarray:
    """Means and deviations over time of every clip's content: [C, T] -> [clips, 2 C]."""
    return np.stack([np.concatenate([z.mean(axis=1), z.std(axis=1)]) for z in content])
