"""How well a model separates speakers, beside a judge, and how well its check separates speech from other sounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.errors import InputError
from vconv.evaluation.judges import JUDGES, RATE, Panel, Settings
from vconv.evaluation.statistics import Estimate, weighted_bootstrap
from vconv.inference.loading import load
from vconv.voices import fitting
from vconv.voices.check import UNUSUAL, Checker
from vconv.voices.fitting import Trials
from vconv.voices.population import Scoring, population_of

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What was measured, in percent, and what there is to say about it."""

    figures: dict[str, Estimate]
    notes: list[str]


def examine(
    model: Path,
    manifest: Path,
    split: str,
    other: Sequence[Path],
    threads: int,
    report: Report = lambda done, total: None,
) -> Outcome:
    """Equal error rates on speakers of a split that none of the training clips is of; the check on ``other`` sounds.

    Raises:
        InputError: the model has no population, or the manifest or ``other`` cannot be used.
    """
    population, converter = population_of(model), load(model, threads=threads)
    clips = fitting.choose_held_out(fitting.read_clips(manifest), manifest, split)
    sounds = [found for place in other for found in (audio.find_audio(place) if place.is_dir() else [place])]
    trials = fitting.listen(converter, clips, report)
    if not trials.enough:
        raise InputError(f"{manifest}: too few clips could be read; the first problem: {trials.bad[0]}")
    scores, same = trials.scores(population.scoring)
    notes = [
        f"{trials.speakers} speakers, {len(trials.clips)} clips: {same.sum()} pairs of one, {(~same).sum()} of two",
        *trials.bad,
    ]
    systems = {"EER": scores}
    absent = JUDGES["voice"].missing(Settings())
    if absent:
        notes.append(absent)
    else:
        systems["EER of Resemblyzer"] = judged(trials, report)
    figures = equal_error_rates(systems, trials.labels)
    if sounds:
        checker = Checker(converter, population)
        speech = check_scores(checker, [clip.path for clip in trials.clips], notes, report)
        rest = check_scores(checker, sounds, notes, report)
        figures |= separation(speech, rest)
        notes.append(f"check: {len(speech)} clips of speech against {len(rest)} others")
    return Outcome(figures, notes)


def judged(trials: Trials, report: Report) -> np.ndarray:
    """The judge's scores of all pairs, [P]."""
    panel, embeddings = Panel(Settings()), []
    for done, clip in enumerate(trials.clips, 1):
        embeddings.append(panel.ask("voice", audio.read(clip.path, RATE)[0]))
        report(done, len(trials.clips))
    cosine = Scoring(np.zeros(len(embeddings[0])))
    return Trials(trials.clips, np.array(embeddings), []).scores(cosine)[0]


def equal_error_rates(systems: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Estimate]:
    """Of the scores [P] of each system over the same pairs of clips, whose speakers have ``labels`` [N], and by how
    much the first differs from each other one. Percent; intervals by a bootstrap over speakers.
    """
    above = np.triu_indices(len(labels), 1)
    first, second = labels[above[0]], labels[above[1]]
    same = first == second
    ranked = {name: np.argsort(scores, kind="stable") for name, scores in systems.items()}

    def rates(taken: np.ndarray) -> np.ndarray:
        # A speaker who is taken twice stands for two people: their clips are no pairs of one.
        weights = np.where(same, taken[first], taken[first] * taken[second]).astype(float)
        found = [100 * _weighted_error(weights[order], same[order]) for order in ranked.values()]
        return np.array([*found, *(found[0] - rate for rate in found[1:])])

    names = [*systems, *(f"difference to {name.removeprefix('EER of ')}" for name in list(systems)[1:])]
    return dict(zip(names, weighted_bootstrap(int(labels.max()) + 1, rates, centred=False)))


def _weighted_error(weights: np.ndarray, same: np.ndarray) -> float:
    """Equal error rate of pairs in the order of their scores, each counted so many times; NaN without both kinds."""
    genuine, impostor = weights * same, weights * ~same
    if not genuine.any() or not impostor.any():
        return float("nan")
    rejected = np.r_[0.0, np.cumsum(genuine)] / genuine.sum()
    accepted = 1 - np.r_[0.0, np.cumsum(impostor)] / impostor.sum()
    closest = np.argmin(np.abs(rejected - accepted))
    return float((rejected[closest] + accepted[closest]) / 2)


def check_scores(checker: Checker, clips: Sequence[Path], notes: list[str], report: Report) -> np.ndarray:
    """Of the clips that can be read, [n]; ``notes`` learns of the others."""
    scores = []
    for done, clip in enumerate(clips, 1):
        try:
            scores.append(checker.clip(clip).score)
        except InputError as error:
            notes.append(str(error))
        report(done, len(clips))
    return np.array(scores)


def separation(speech: np.ndarray, other: np.ndarray) -> dict[str, Estimate]:
    """How the check's scores of speech [n] lie to those of all else [m]. Percent; intervals by a bootstrap over clips.

    AUC: how often speech has the higher score of the two, a tie counting half.
    """
    if not len(speech) or not len(other):
        raise InputError("no clip of speech, or none of the others, could be checked")
    wins = (speech[:, None] > other) + 0.5 * (speech[:, None] == other)

    def shares(taken: np.ndarray) -> np.ndarray:
        mine, theirs = taken[: len(speech)].astype(float), taken[len(speech) :].astype(float)
        mine, theirs = mine / max(mine.sum(), 1), theirs / max(theirs.sum(), 1)
        return 100 * np.array([mine @ wins @ theirs, mine @ (speech < UNUSUAL), theirs @ (other >= UNUSUAL)])

    names = ("AUC of the check", "speech that a conversion warns of", "other sounds that it does not warn of")
    return dict(zip(names, weighted_bootstrap(len(speech) + len(other), shares, centred=False)))
