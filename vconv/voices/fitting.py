"""Fits the population of a model: densities of voices, the verification threshold, the check for speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio, features
from vconv.data.augmentation.wave import band_limited, mix, reverberant
from vconv.data.manifest import Clip
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, N_MELS, SAMPLE_RATE
from vconv.inference.analysis import Rebuilt
from vconv.inference.converter import Converter
from vconv.inference.loading import load
from vconv.model_folder import read_identity
from vconv.voices import sounds
from vconv.voices.check import WINDOW_FRAMES, measure
from vconv.voices.densities import (
    calibrate,
    filled_rows,
    fit_density,
    joint_covariance,
    means_by_speaker,
    principal_axes,
    unit_rows,
)
from vconv.voices.fitting_clips import Disturb, choose_held_out, choose_training, read_clips, speech_window
from vconv.voices.population import Population, Scoring, Verification
from vconv.voices.verification import equal_error_point

SOUND_SEEDS = 8  # of each kind of music and noise
DISTURBED = 150  # clips that the check is also fitted to with noise, reverberation and a telephone band
_COUNTED_CODES = 4096  # a code of more values comes up too rarely to be counted
_LOW_HZ, _HIGH_HZ = (200.0, 1000.0), (2000.0, 5000.0)  # bands whose levels tell dark voices from bright ones
_DISTURBANCES: tuple[Disturb, ...] = (
    lambda wave, rng: mix(wave, rng.standard_normal(len(wave)), 15.0),
    lambda wave, rng: reverberant(wave, 0.5, 3.0, rng),
    lambda wave, rng: band_limited(wave, 300.0, 3400.0),  # a telephone
)
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class RebuiltClip:
    """A clip of speech, rebuilt by the model."""

    clip: Clip
    rebuilt: Rebuilt

    @property
    def attributes(self) -> np.ndarray:
        """[A], of ATTRIBUTES; NaN where they cannot be told."""
        f0, mel = self.rebuilt.f0, self.rebuilt.mel
        known = (features.median_log_f0(f0), features.log_f0_spread(f0), brightness(mel, f0 > 0))
        return np.array([np.nan if value is None else value for value in known])

    @property
    def spectrum(self) -> np.ndarray:
        """Average log-mel of voiced frames around its own mean [N_MELS], nepers; NaN without any."""
        voiced = self.rebuilt.mel[:, self.rebuilt.f0 > 0]
        average = voiced.mean(axis=1) if voiced.size else np.full(N_MELS, np.nan)
        return average - average.mean()


@dataclass(frozen=True)
class Fit:
    """The population, and the clips that could not be used."""

    population: Population
    bad: list[str]


def fit(
    model: Path,
    manifest: Path,
    threads: int,
    report: Report = lambda done, total: None,
    sound_seeds: int = SOUND_SEEDS,
) -> Fit:
    """The population of a model from the clips of a manifest; the same for the same clips.

    ``sound_seeds`` of each kind of music and noise are made.

    Raises:
        InputError: the model or the manifest cannot be used, the model was replaced meanwhile, or there are too few
            speakers, training or held out.
    """
    converter, clips, weights = load(model, threads=threads), read_clips(manifest), read_identity(model)
    seen, held_out = choose_training(clips, manifest), choose_held_out(clips, manifest)
    kinds = [(kind, seed) for kind in sounds.KINDS for seed in range(sound_seeds)]
    total = len(seen) + len(held_out) + min(DISTURBED, len(seen)) + len(kinds)
    bad: list[str] = []
    done = 0

    def rebuild(clip: Clip, disturb: Disturb | None = None) -> list[RebuiltClip]:
        nonlocal done
        done += 1
        report(done, total)
        try:
            return [RebuiltClip(clip, converter.rebuild(speech_window(clip, disturb)))]
        except InputError as error:
            bad.append(str(error))
            return []

    voices = [one for clip in seen for one in rebuild(clip)]
    trials = listen(converter, held_out, lambda count, _: report(done + count, total))
    bad += trials.bad
    done += len(held_out)
    step = -(-len(seen) // DISTURBED)
    disturbed = [
        one
        for number, clip in enumerate(seen[::step])
        for one in rebuild(clip, _DISTURBANCES[number % len(_DISTURBANCES)])
    ]
    other = []
    for kind, seed in kinds:
        wave = sounds.make(kind, seed, WINDOW_FRAMES * HOP_LENGTH / SAMPLE_RATE)
        other.append(converter.rebuild(audio.normalize(wave, SAMPLE_RATE)))
        done += 1
        report(done, total)
    if len({one.clip.speaker for one in voices}) < 4 or not trials.enough:
        why = f"; the first problem: {bad[0]}" if bad else ""
        raise InputError(f"{manifest}: too few speakers' clips could be read{why}")
    if read_identity(model) != weights:
        raise InputError(f"{model}: has other weights now than when the fit began; run it again")
    population = assemble(weights, voices, trials, [one.rebuilt for one in voices + disturbed], other)
    return Fit(population, list(dict.fromkeys(bad)))


def assemble(
    model: str, voices: Sequence[RebuiltClip], trials: Trials, speech: Sequence[Rebuilt], other: Sequence[Rebuilt]
) -> Population:
    """A population from rebuilt clips.

    Args:
        model: what tells it from others (``read_identity``).
        voices: of training speakers.
        trials: of held-out speakers, on whom the threshold of verification is set.
        speech, other: the two classes of the check.
    """
    embeddings, labels = np.stack([one.rebuilt.embedding for one in voices]).astype(np.float64), numbered(voices)
    speakers = unit_rows(means_by_speaker(embeddings, labels))
    attributes = means_by_speaker(filled_rows([one.attributes for one in voices]), labels)
    axes, shares = principal_axes(means_by_speaker(filled_rows([one.spectrum for one in voices]), labels), attributes)
    density = fit_density(speakers)
    clips, code_bits = fit_density(embeddings), surprise([one.rebuilt.codes for one in voices])
    scoring = Scoring(clips.mean)
    projected = scoring.project(speakers)
    return Population(
        model=model,
        voices=density,
        clips=clips,
        attribute_mean=attributes.mean(axis=0),
        joint=joint_covariance(density.scores(speakers), attributes, axes),
        axis_shares=shares,
        speakers=speakers,
        apart=float(np.median(np.max(projected @ projected.T - 4 * np.eye(len(projected)), axis=1))),
        code_bits=code_bits,
        scoring=scoring,
        verification=verification(scoring, trials),
        check=calibrate(
            np.stack([measure(rebuilt, clips, code_bits) for rebuilt in speech]),
            np.stack([measure(rebuilt, clips, code_bits) for rebuilt in other]),
        ),
    )


@dataclass(frozen=True)
class Trials:
    """Clips to compare with one another, as `vconv speakers verify` would."""

    clips: list[Clip]
    embeddings: np.ndarray  # [N, E]
    bad: list[str]  # clips that could not be used

    @property
    def labels(self) -> np.ndarray:
        """The number of each clip's speaker, [N]."""
        return np.unique([clip.speaker for clip in self.clips], return_inverse=True)[1]

    @property
    def speakers(self) -> int:
        return len({clip.speaker for clip in self.clips})

    @property
    def enough(self) -> bool:
        """Whether there are pairs of one speaker, and of two."""
        return 2 <= self.speakers < len(self.clips)

    def scores(self, scoring: Scoring) -> tuple[np.ndarray, np.ndarray]:
        """Of all pairs [P], and which of them are of one speaker [P]."""
        unit, above = scoring.project(self.embeddings), np.triu_indices(len(self.clips), 1)
        return (unit @ unit.T)[above], (self.labels[:, None] == self.labels)[above]


def listen(converter: Converter, clips: Sequence[Clip], report: Report = lambda done, total: None) -> Trials:
    """Embeddings of whole clips."""
    used, embeddings, bad = [], [], []
    for done, clip in enumerate(clips, 1):
        try:
            embeddings.append(converter.embed(clip.path))
            used.append(clip)
        except InputError as error:
            bad.append(str(error))
        report(done, len(clips))
    return Trials(used, np.array(embeddings, np.float64), bad)


def brightness(mel: np.ndarray, voiced: np.ndarray) -> float | None:
    """How far the level above 2 kHz lies over that below 1 kHz in voiced frames, nepers; None without any.

    mel [N_MELS, T], voiced [T].
    """
    if not voiced.any():
        return None
    centres = features.mel_filterbank().argmax(axis=1) * SAMPLE_RATE / features.N_FFT
    assert len(centres) == N_MELS
    levels = [mel[(centres >= low) & (centres < high)][:, voiced].mean() for low, high in (_HIGH_HZ, _LOW_HZ)]
    return float(levels[0] - levels[1])


def verification(scoring: Scoring, trials: Trials) -> Verification:
    """The threshold at the equal error rate over all pairs of held-out clips."""
    scores, same = trials.scores(scoring)
    error, threshold = equal_error_point(scores[same], scores[~same])
    return Verification(threshold, error, trials.speakers, len(trials.labels))


def numbered(one: Sequence[RebuiltClip]) -> np.ndarray:
    """The number of each clip's speaker, [N]."""
    return np.unique([one.clip.speaker for one in one], return_inverse=True)[1]


def surprise(codes: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """How many bits each code is worth, by how often speech has it: codes [G, n] of clips -> [G, K].

    None where the model has no codes, or too many to count.
    """
    if codes[0] is None or (together := np.concatenate(codes, axis=1)).max() >= _COUNTED_CODES:
        return None
    size = int(together.max()) + 2  # one more stands for those that never came up
    counts = np.stack([np.bincount(row, minlength=size) for row in together]) + 0.5  # none is impossible
    return -np.log2(counts / counts.sum(axis=1, keepdims=True))
