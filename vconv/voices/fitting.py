"""Fits the population of a model: densities of voices, the verification threshold, the check for speech."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio, features
from vconv.data.augmentation.wave import band_limited, mix, reverberant
from vconv.data.manifest import TRAIN, Clip, read_manifest
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, N_MELS, SAMPLE_RATE
from vconv.inference.converter import Converter, Rebuilt
from vconv.inference.loading import load
from vconv.model_folder import read_identity
from vconv.voices import sounds
from vconv.voices.check import WINDOW_FRAMES, loudest, measure, read_beginning, stretch
from vconv.voices.population import Calibration, Density, Population, Scoring, Verification
from vconv.voices.verification import equal_error_point

SPEAKERS = 1000  # of the training part, at most
Disturb = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # wave [N] -> [N]

CLIPS = 2  # of each, at most: many speakers tell more of voices than many clips
TRIAL_CLIPS = 12  # of each held-out speaker, at most
SOUND_SEEDS = 8  # of each kind of music and noise
DISTURBED = 150  # clips that the check is also fitted to with noise, reverberation and a telephone band
DIRECTIONS = 64  # of the densities, at most
AXES = 8  # of the average spectra
_COUNTED_CODES = 4096  # a code of more values comes up too rarely to be counted
_LOW_HZ, _HIGH_HZ = (200.0, 1000.0), (2000.0, 5000.0)  # bands whose levels tell dark voices from bright ones
_DISTURBANCES: tuple[Disturb, ...] = (
    lambda wave, rng: mix(wave, rng.standard_normal(len(wave)), 15.0),
    lambda wave, rng: reverberant(wave, 0.5, 3.0, rng),
    lambda wave, rng: band_limited(wave, 300.0, 3400.0),  # a telephone
)
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Heard:
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

    def hear(clip: Clip, disturb: Disturb | None = None) -> list[Heard]:
        nonlocal done
        done += 1
        report(done, total)
        try:
            return [Heard(clip, converter.rebuild(speech_window(clip, disturb)))]
        except InputError as error:
            bad.append(str(error))
            return []

    voices = [heard for clip in seen for heard in hear(clip)]
    trials = listen(converter, held_out, lambda count, _: report(done + count, total))
    bad += trials.bad
    done += len(held_out)
    step = -(-len(seen) // DISTURBED)
    disturbed = [
        heard
        for number, clip in enumerate(seen[::step])
        for heard in hear(clip, _DISTURBANCES[number % len(_DISTURBANCES)])
    ]
    other = []
    for kind, seed in kinds:
        wave = sounds.make(kind, seed, WINDOW_FRAMES * HOP_LENGTH / SAMPLE_RATE)
        other.append(converter.rebuild(audio.normalize(wave, SAMPLE_RATE)))
        done += 1
        report(done, total)
    if len({heard.clip.speaker for heard in voices}) < 4 or not trials.enough:
        why = f"; the first problem: {bad[0]}" if bad else ""
        raise InputError(f"{manifest}: too few speakers' clips could be read{why}")
    if read_identity(model) != weights:
        raise InputError(f"{model}: has other weights now than when the fit began; run it again")
    population = assemble(weights, voices, trials, [heard.rebuilt for heard in voices + disturbed], other)
    return Fit(population, list(dict.fromkeys(bad)))


def assemble(
    model: str, voices: Sequence[Heard], trials: Trials, speech: Sequence[Rebuilt], other: Sequence[Rebuilt]
) -> Population:
    """A population from rebuilt clips.

    Args:
        model: what tells it from others (``read_identity``).
        voices: of training speakers.
        trials: of held-out speakers, on whom the threshold of verification is set.
        speech, other: the two classes of the check.
    """
    embeddings, labels = np.stack([one.rebuilt.embedding for one in voices]).astype(np.float64), numbered(voices)
    speakers = _unit(_by_speaker(embeddings, labels))
    attributes = _by_speaker(_filled([one.attributes for one in voices]), labels)
    axes, shares = principal_axes(_by_speaker(_filled([one.spectrum for one in voices]), labels), attributes)
    density = fit_density(speakers)
    clips, code_bits = fit_density(embeddings), surprise([heard.rebuilt.codes for heard in voices])
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


# ---------------------------------------------------------------- clips


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


def read_clips(manifest: Path) -> list[Clip]:
    """The clips of a manifest; those of parallel groups only where there are no others: their melody is borrowed.

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
    names = sorted(by_speaker, key=_shuffled)[:SPEAKERS]
    return [clip for name in names for clip in by_speaker[name][:CLIPS]]


def choose_held_out(clips: Sequence[Clip], manifest: Path, split: str = "valid", most: int = TRIAL_CLIPS) -> list[Clip]:
    """Some clips of speakers of a split that have several and none in the training part.

    Raises:
        InputError: fewer than two such speakers.
    """
    trained = {clip.speaker for clip in clips if clip.split == TRAIN}
    by_speaker = _grouped(clip for clip in clips if clip.split == split and clip.speaker not in trained)
    able = {name: found for name, found in by_speaker.items() if len(found) >= 2}
    if len(able) < 2:
        raise InputError(
            f"{manifest}: {len(able)} speakers of the split '{split}' have 2 clips or more and none to train on; "
            "2 are needed to see how well voices are told apart"
        )
    return [clip for name in sorted(by_speaker, key=_shuffled) for clip in by_speaker[name][:most]]


def _grouped(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    by_speaker: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: _shuffled(clip.path.name)):
        by_speaker.setdefault(clip.speaker, []).append(clip)
    return by_speaker


def _shuffled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


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
        rng = np.random.default_rng(int(_shuffled(clip.path.name)[:8], 16))
        wave = disturb(wave, rng).astype(np.float32)
    return audio.normalize(wave, SAMPLE_RATE)


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


# ---------------------------------------------------------------- how voices differ


def fit_density(points: np.ndarray, most: int = DIRECTIONS) -> Density:
    """Probabilistic PCA of points [N, D], by its maximum likelihood (Tipping and Bishop 1999, equation 8).

    It keeps no more directions than an eighth of the points, so that each is known from several.
    """
    count, size = points.shape
    mean = points.mean(axis=0)
    _, values, basis = np.linalg.svd(points - mean, full_matrices=False)
    variances = values**2 / max(count - 1, 1)
    kept = max(1, min(most, count // 8, size - 1))
    floor = max(variances.sum() / size * 1e-3, 1e-12)
    rest = max(variances[kept:].sum() / (size - kept), floor)
    return Density(mean, basis[:kept], np.sqrt(np.maximum(variances[:kept], floor)), float(np.sqrt(rest)))


def principal_axes(rows: np.ndarray, attributes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of rows [N, V] along their first principal axes [N, P], and the axes' shares of the variance [P].

    Each is turned so that the attribute [N, A] that it goes along with most grows in it.
    """
    left, values, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    count = min(AXES, len(rows) - 1)
    places = left[:, :count] * values[:count]
    along = places.T @ ((attributes - attributes.mean(axis=0)) / (attributes.std(axis=0) + 1e-9))
    signs = np.sign(along[np.arange(count), np.abs(along).argmax(axis=1)])
    return places * np.where(signs == 0, 1, signs), values[:count] ** 2 / max(np.sum(values**2), 1e-12)


def joint_covariance(scores: np.ndarray, attributes: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Of the columns of all three: [N, K], [N, A], [N, P] -> [K + A + P, K + A + P]."""
    covariance = np.cov(np.concatenate([scores, attributes, axes], axis=1), rowvar=False)
    floor = np.full(len(covariance), 1e-9)
    floor[scores.shape[1] :] = 1e-4  # for what does not vary at all
    return covariance + np.diag(floor)


def verification(scoring: Scoring, trials: Trials) -> Verification:
    """The threshold at the equal error rate over all pairs of held-out clips."""
    scores, same = trials.scores(scoring)
    error, threshold = equal_error_point(scores[same], scores[~same])
    return Verification(threshold, error, trials.speakers, len(trials.labels))


def numbered(heard: Sequence[Heard]) -> np.ndarray:
    """The number of each clip's speaker, [N]."""
    return np.unique([one.clip.speaker for one in heard], return_inverse=True)[1]


def _filled(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows as [N, V]; the mean of the others in place of NaN."""
    values = np.stack(rows)
    known = np.isfinite(values)
    means = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values, means)


def _by_speaker(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Means over each speaker's clips: [N, V] -> [S, V]."""
    return np.stack([values[labels == label].mean(axis=0) for label in np.unique(labels)])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---------------------------------------------------------------- the check


def surprise(codes: Sequence[np.ndarray]) -> np.ndarray:
    """How many bits each code is worth, by how often speech has it: codes [G, n] of clips -> [G, K], or [0, 0]."""
    together = np.concatenate(codes, axis=1)
    if not together.size or together.max() >= _COUNTED_CODES:
        return np.zeros((0, 0))
    size = int(together.max()) + 2  # one more stands for those that never came up
    counts = np.stack([np.bincount(row, minlength=size) for row in together]) + 0.5  # none is impossible
    return -np.log2(counts / counts.sum(axis=1, keepdims=True))


def calibrate(speech: np.ndarray, other: np.ndarray, penalty: float = 1.0, rounds: int = 50) -> Calibration:
    """Logistic regression of speech [N, M] against all else [N', M], as if both were as frequent.

    By Newton's method on the likelihood less ``penalty / 2`` times the squared weights.
    """
    measures = np.concatenate([speech, other])
    mean, deviation = speech.mean(axis=0), np.maximum(speech.std(axis=0), 1e-3)
    inputs = np.column_stack([np.clip((measures - mean) / deviation, -6, 6), np.ones(len(measures))])
    truth = np.r_[np.ones(len(speech)), np.zeros(len(other))]
    share = np.where(truth > 0, 0.5 / len(speech), 0.5 / len(other)) * len(measures)
    ridge = np.diag([penalty] * measures.shape[1] + [1e-6])
    weights = np.zeros(inputs.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (share * (truth - chance)) - ridge @ weights
        curve = (inputs * (share * chance * (1 - chance))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curve, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-6:
            break
    return Calibration(mean, deviation, weights[:-1], float(weights[-1]))
