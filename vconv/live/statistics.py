"""What a file conversion measures over the whole file, and live conversion needs beforehand: statistics of a speaker.

They come from an *enrolment*, ten seconds of the person at the microphone, and are then frozen; or they are gathered
while that person speaks, beginning with the population's.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vconv import audio, features
from vconv.errors import InputError
from vconv.features import FRAME_RATE, HOP_LENGTH
from vconv.frontends.pitch import PitchTracker, f0_above, voicing_threshold
from vconv.inference.engine import Engine
from vconv.inference.targets import Speech
from vconv.inference.utterance import Utterance
from vconv.untrusted import check_finite, load_arrays
from vconv.voice import save_arrays

ENROLMENT = "enrolment.npz"  # in a model folder: the population's
SPEECH_FRAMES = 626  # ten seconds of each enrolment are kept, to derive the decoder's statistics for any voice
PIECE_FRAMES = 156  # of a clip, at least, where there are many
LOUDNESS_SECONDS = 30.0  # over which loudness is measured
MELODY_SECONDS = 60.0  # of voiced speech, over which F0's median and spread are measured
SLOWEST_SECONDS = 30.0  # time constant of statistics that have been gathered for long
PRIOR_SECONDS = 8.0  # of speech that statistics known beforehand count for
LOUDNESS_PRIOR_FRAMES = 120  # of speech that the loudness of an enrolment counts for
REFERENCE_PRIOR_FRAMES = 12  # and the reference loudness, where there is none
MEDIAN_PRIOR_FRAMES, SPREAD_PRIOR_FRAMES = 3, 300  # of voiced speech that the population's F0 counts for
ONSET_OCTAVES, ONSET_FRAMES = 0.16, 60  # the first words lie above a speaker's median: by how much, for how long
GLIDE_SECONDS = 0.5  # time constant at which register and gain follow what was measured


# The largest shapes that a file may hold: of any model of this kind.
_LARGEST = {
    "norm_statistics": (2, 1 << 17),
    "content": (1 << 12, 1 << 12),
    "curve": (1 << 13,),
    "voiced": (1 << 13,),
    "log_f0": (),
    "log_f0_spread": (),
    "loudness": (),
    "model": (256,),
}


@dataclass(frozen=True)
class Enrolment:
    """Statistics of a speaker's speech, and some of it. C channels, S of all instance norms, K frames of the code."""

    statistics: np.ndarray | None  # [2, S] mean and variance of the content encoder's instance norms, if it has any
    content: np.ndarray  # [C, K] content code of the speech
    curve: np.ndarray  # [2K] its log2 F0 relative to F0_REFERENCE, bridged
    voiced: np.ndarray  # [2K] 0 or 1
    log_f0: float  # median, octaves above F0_REFERENCE
    log_f0_spread: float  # standard deviation, octaves
    loudness: float  # dBFS
    model: bytes  # ``Converter.model``

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write it to a .npz file that ``load`` and ``vconv live --me`` take; see ``voice.save_file``."""
        save_arrays(
            path,
            overwrite,
            "--me",
            norm_statistics=np.zeros((2, 0), np.float32) if self.statistics is None else self.statistics,
            content=self.content.astype(np.float16),
            curve=self.curve.astype(np.float32),
            voiced=self.voiced.astype(np.uint8),
            log_f0=np.float64(self.log_f0),
            log_f0_spread=np.float64(self.log_f0_spread),
            loudness=np.float64(self.loudness),
            model=np.frombuffer(self.model, np.uint8),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Enrolment:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing or holds no enrolment.
        """
        arrays = load_arrays(path, _LARGEST, "enrolment", "make one with `vconv embed --me`")
        try:
            statistics = arrays["norm_statistics"].astype(np.float32)
            found = cls(
                statistics=statistics if statistics.size else None,
                content=arrays["content"].astype(np.float32),
                curve=arrays["curve"].astype(np.float32),
                voiced=arrays["voiced"].astype(np.float32),
                log_f0=float(arrays["log_f0"]),
                log_f0_spread=float(arrays["log_f0_spread"]),
                loudness=float(arrays["loudness"]),
                model=arrays["model"].tobytes(),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: holds no enrolment; make one with `vconv embed --me`") from error
        numbers = np.array([found.log_f0, found.log_f0_spread, found.loudness])
        check_finite(str(path), {"statistics": found.statistics, "speech": found.content, "register": numbers})
        return found


def enrol(clips: Sequence[audio.Source], engine: Engine, tracker: PitchTracker, model: bytes) -> Enrolment:
    """An enrolment from clips of one speaker, statistics averaged by their length.

    Clips of many speakers give a population's: the average speaker, not the spread between speakers.

    Raises:
        InputError: a clip cannot be read, is silent, too short, or without voiced speech.
    """
    found, frames, medians, spreads, loudnesses = [], [], [], [], []
    contents, curves, flags, kept = [], [], [], 0
    share = max(-(-SPEECH_FRAMES // max(len(clips), 1)), PIECE_FRAMES) // 2 * 2
    for clip in clips:
        speech = Speech.of(clip)
        utterance = Utterance.of(speech.wave)
        total = utterance.frames
        f0 = tracker(speech.wave)[:total]
        if not f0.any():
            raise InputError(f"{speech.name}: no voiced speech found; give a clear recording of speech")
        encoded = engine.content(utterance)
        found.append(encoded.statistics)
        frames.append(total)
        medians.append(features.median_log_f0(f0))
        spreads.append(features.log_f0_spread(f0))
        loudnesses.append(speech.loudness)
        if kept < SPEECH_FRAMES:
            length = min(total, share)
            start = (total - length) // 4 * 2  # from the middle: clips begin and end with silence
            curve, voiced = features.continuous_log_f0(f0)
            contents.append(encoded.content[:, start // 2 : (start + length) // 2])
            curves.append(np.pad(curve, (0, total - len(curve)), mode="edge")[start : start + length] - medians[-1])
            flags.append(np.pad(voiced, (0, total - len(voiced)))[start : start + length])
            kept += length
    if not found:
        raise InputError("no clip given; name ten seconds of your own speech")
    log_f0 = float(np.average(medians, weights=frames))
    known = [spread for spread in spreads if spread]
    return Enrolment(
        statistics=None if found[0] is None else np.average(found, axis=0, weights=frames).astype(np.float32),
        content=np.concatenate(contents, axis=1),
        curve=np.concatenate(curves) + np.float32(log_f0),
        voiced=np.concatenate(flags),
        log_f0=log_f0,
        log_f0_spread=float(np.mean(known)) if known else 0.25,
        loudness=float(np.median(loudnesses)),
        model=model,
    )


class NormEstimate:
    """Running mean and variance [2, S] of instance norms, from those of overlapping windows.

    At first a plain average over the speech so far, later one of ``SLOWEST_SECONDS``: it moves slowly, never jumps.
    """

    def __init__(self, start: np.ndarray | None, frozen: bool) -> None:
        """``start`` [2, S] is where it begins, None the first window."""
        self.value, self._start, self._frozen = start, start, frozen
        self._seconds = 0.0 if start is None else PRIOR_SECONDS

    def restarted(self) -> NormEstimate:
        """The estimate as it began."""
        return NormEstimate(self._start, self._frozen)

    def add(self, own: np.ndarray | None, seconds: float) -> None:
        """Take in the statistics [2, S] of a window with so much new speech in it."""
        if self._frozen or own is None:
            return
        self._seconds = min(self._seconds + seconds, SLOWEST_SECONDS)
        if self.value is None:
            self.value = own
            return
        # Second moments average; variances do not, as windows differ in their means.
        rate = np.float32(seconds / self._seconds)
        mean, power = (one + rate * (two - one) for one, two in zip(_moments(self.value), _moments(own)))
        self.value = np.stack([mean, np.maximum(power - mean**2, 0)])


def _moments(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = statistics
    return mean, variance + mean**2


@dataclass
class Register:
    """Median and spread of a speaker's log F0, octaves: frozen, or gathered over the voiced frames so far."""

    log_f0: float | None = None
    spread: float | None = None
    frozen: bool = False
    _prior: tuple[float | None, float | None] = field(init=False)
    _voiced: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self._prior = self.log_f0, self.spread
        self._voiced = deque(maxlen=round(MELODY_SECONDS * FRAME_RATE))

    def add(self, f0: np.ndarray, seconds: float, ahead: np.ndarray) -> None:
        """Take in the next frames' F0 [n] in Hz, 0 where unvoiced, ``seconds`` after those before.

        The frames known after them, ``ahead`` [m], count as well, and come again. Until the first voiced frame is due
        nothing of the melody has sounded: the register is then set to what is known, and glides from there.
        """
        if self.frozen or not (f0.any() or (ahead.any() and not self._voiced)):
            return
        began = bool(self._voiced)
        self._voiced.extend(_octaves(f0).tolist())
        values, (median, spread) = np.concatenate([self._voiced, _octaves(ahead)]), self._prior
        onset = ONSET_OCTAVES * math.exp(-len(values) / ONSET_FRAMES)
        found = _blend(float(np.median(values)) - onset, median, len(values), MEDIAN_PRIOR_FRAMES)
        self.log_f0 = _glide(self.log_f0, found, seconds) if began else found
        if len(values) >= SPREAD_PRIOR_FRAMES // 10:
            found = _blend(float(np.std(values)), spread, len(values), SPREAD_PRIOR_FRAMES)
            self.spread = _glide(self.spread, found, seconds)


def _octaves(f0: np.ndarray) -> np.ndarray:
    """log2 F0 of the voiced frames, relative to ``F0_REFERENCE``."""
    return np.log2(f0[f0 > 0] / features.F0_REFERENCE)


class Level:
    """Loudness of a speaker, and of the background, over the last ``LOUDNESS_SECONDS``."""

    def __init__(self, loudness: float | None) -> None:
        """``loudness`` in dBFS, where the speaker is known."""
        known = loudness is not None
        self.loudness = self._prior = loudness if known else audio.REFERENCE_LOUDNESS_DB
        self._weight = LOUDNESS_PRIOR_FRAMES if known else REFERENCE_PRIOR_FRAMES
        frames = round(LOUDNESS_SECONDS * FRAME_RATE)
        self._powers: deque[float] = deque(maxlen=frames)
        self._levels: deque[float] = deque(maxlen=frames)

    @property
    def gain(self) -> float:
        """Brings the speaker to the reference loudness."""
        return audio.gain(self.loudness)

    def add_background(self, levels: np.ndarray) -> None:
        """Take in the levels [n] below 1 kHz in dB of the next frames, speech or not."""
        self._levels.extend(levels.tolist())

    def add_speech(self, wave: np.ndarray, fresh: int) -> None:
        """Take in samples [n * HOP_LENGTH] with voice in them, the last ``fresh`` frames of which are new.

        Without voice there is nothing to add: the gain would rise to that of the noise before the first word.
        """
        powers = np.square(wave.reshape(-1, HOP_LENGTH), dtype=np.float64).mean(axis=1)
        self._powers.extend(powers[-fresh if self._powers else 0 :].tolist())
        powers = np.array(self._powers)
        measured = audio.active_loudness(powers)
        if not audio.is_silent(measured):
            goal = _blend(measured, self._prior, np.count_nonzero(audio.is_active(powers)), self._weight)
            self.loudness = _glide(self.loudness, goal, fresh / FRAME_RATE)

    def f0_of(self, track: np.ndarray) -> np.ndarray:
        """As ``PitchTracker.f0``, the background being that of the last half minute: [3, T] -> [T] Hz"""
        return f0_above(track, voicing_threshold(np.array(self._levels)))


def _blend(measured: float, prior: float | None, count: int, weight: int) -> float:
    return measured if prior is None else (count * measured + weight * prior) / (count + weight)


def _glide(value: float | None, goal: float, seconds: float) -> float:
    return goal if value is None else value + (goal - value) * (1 - math.exp(-seconds / GLIDE_SECONDS))
