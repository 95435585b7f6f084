"""From a target's clips to a voice."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vconv import audio, features
from vconv.errors import InputError, VconvError
from vconv.frontends.pitch import PitchTracker
from vconv.inference import correction
from vconv.inference.engine import Engine
from vconv.inference.output import not_finite
from vconv.inference.register import moved_pitch
from vconv.inference.utterance import Utterance
from vconv.untrusted import all_finite
from vconv.voice import REFERENCE_FRAMES, Reference, Voice, is_saved_voice, rounded

CLIP_SECONDS = 120.0  # of one target clip; a voice is known long before, and memory stays bounded


@dataclass(frozen=True)
class Speech:
    """A clip, read once: a pipe can be read no second time."""

    name: str  # in messages
    wave: np.ndarray  # [N] at 16 kHz and the reference loudness, without the silence around the speech
    loudness: float  # dBFS, of the clip

    @classmethod
    def of(cls, clip: Clip) -> Speech:
        """The first ``CLIP_SECONDS`` of a clip.

        Raises:
            InputError: the clip cannot be read, is silent or too short.
        """
        if isinstance(clip, Speech):
            return clip
        reader, rate = audio.BlockReader(clip, features.SAMPLE_RATE), features.SAMPLE_RATE
        given = audio.join(_beginning(reader))
        loudness = audio.loudness(given, rate)
        wave = audio.trim_silence(audio.without_offset(given), rate)
        if not len(wave):
            rest = len(given) == CLIP_SECONDS * rate  # there may be speech in it
            part = f"its first {CLIP_SECONDS:.0f} s hold no speech: " if rest else ""
            raise InputError(f"{reader.name}: {part}{reader.why_silent(loudness)}")
        check_length(reader.name, len(wave), rate, "of speech")
        return cls(reader.name, audio.normalize(wave, rate), loudness)


Clip = audio.Source | Speech


def clips_in(target: Clip) -> list[Clip]:
    """The clips a target stands for: itself, or the audio files in the folder.

    Raises:
        InputError: a folder without audio, or what is no clip among several targets.
    """
    if isinstance(target, tuple | Speech):
        return [target]
    if not isinstance(target, str | os.PathLike) or is_saved_voice(target):
        what = target if is_saved_voice(target) else type(target).__name__
        raise InputError(f"{what}: only clips and folders can be averaged; give a finished voice alone")
    return [*audio.find_audio(target)] if Path(target).is_dir() else [target]


def make_voice(
    clips: Iterable[Clip], engine: Engine, tracker: PitchTracker, adapter: np.ndarray | None = None
) -> Voice:
    """One voice from clips of it: embeddings averaged by their length, the register of all voiced frames,
    and the first ``REFERENCE_FRAMES`` of the speech, rounded to half precision as a saved voice is. The correction is
    that of these frames, with the ``adapter`` of a tuned voice if there is one.

    Raises:
        InputError: a clip cannot be read, is silent, too short, or without voiced speech.
    """
    embeddings, frames, f0, contents, mels, pitches = [], [], [], [], [], []
    missing = REFERENCE_FRAMES
    for clip in clips:
        speech = Speech.of(clip)
        f0.append(_melody(speech, tracker))
        utterance = Utterance.of(speech.wave)
        embeddings.append(engine.speaker(utterance))
        frames.append(utterance.frames)
        if missing:
            part = utterance.first(missing)
            contents.append(engine.content(part).content)
            mels.append(part.mel)
            pitches.append(moved_pitch(f0[-1][: part.frames], part.frames))
            missing -= part.frames
    if not frames:
        raise InputError("no target given; name at least one clip of the voice to sound like")
    embedding = np.average(embeddings, axis=0, weights=frames)
    reference = Reference(*(rounded(np.concatenate(x, axis=1)).astype(np.float32) for x in (contents, mels)))
    unit = embedding / np.linalg.norm(embedding)
    melody = np.concatenate(f0)
    voice = Voice(unit, features.median_log_f0(melody), reference, features.log_f0_spread(melody), adapter)
    decoded = engine.decode(reference.content, np.concatenate(pitches, axis=1), voice).mel
    voice = replace(voice, correction=correction.measured(reference.mel, decoded, adapter is not None))
    voice.check(f"{speech.name}: the voice that the networks make of it", VconvError)
    return voice


def speech_features(
    clip: Clip, tracker: PitchTracker, engine: Engine
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of a clip, trimmed of silence: mel [N_MELS, T], T even, F0 [T'], ASR features [R, T / 2] if the model has any."""
    speech = Speech.of(clip)
    f0, utterance = _melody(speech, tracker), Utterance.of(speech.wave)
    return utterance.mel, f0, engine.asr_features(utterance)


def speech_of(clip: audio.Source) -> np.ndarray:
    """A clip without the silence around it, at the reference loudness: [N] at 16 kHz"""
    return Speech.of(clip).wave


def embed_clip(clip: audio.Source, engine: Engine) -> tuple[np.ndarray, float]:
    """Speaker embedding [E] of unit length of one recording, and the seconds of speech in it."""
    wave = speech_of(clip)
    embedding = engine.speaker(Utterance.of(wave)).astype(np.float64)
    if not all_finite(embedding):
        raise not_finite()
    return embedding / np.linalg.norm(embedding), len(wave) / features.SAMPLE_RATE


def _melody(speech: Speech, tracker: PitchTracker) -> np.ndarray:
    """F0 [T] of a clip's speech, some of it voiced."""
    f0 = tracker(speech.wave)
    if not f0.any():
        raise InputError(f"{speech.name}: no voiced speech found; give a clear recording of the target speaking")
    return f0


def _beginning(reader: audio.BlockReader) -> Iterator[np.ndarray]:
    """The first CLIP_SECONDS of a clip, in 16 kHz blocks."""
    left = round(CLIP_SECONDS * features.SAMPLE_RATE)
    for block in reader:
        yield block[:left]
        left -= len(block)
        if left <= 0:
            return


def check_length(name: str, samples: int, rate: int, what: str) -> None:
    """Raise InputError if there is less than ``audio.MIN_SECONDS`` of it."""
    if samples < audio.MIN_SECONDS * rate:
        seconds = math.floor(1000 * samples / rate) / 1000  # never rounded up to what is asked for
        raise InputError(f"{name}: {seconds:.3f} s {what} is too short; give at least {audio.MIN_SECONDS} s")
