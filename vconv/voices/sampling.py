"""With a population of voices: verify and identify speakers, sample new voices, move a voice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.errors import InputError, VconvError
from vconv.features import F0_REFERENCE
from vconv.inference.converter import Converter, Target
from vconv.voice import VOICE_SUFFIX, Voice
from vconv.voices.population import BRIGHTER, HIGHER, Population

NAMED_FROM = 0.4  # correlation with what a direction is named after
_DRAWS = 1000
_LONGEST_STEP = 10.0  # standard deviations
_NAMES = {HIGHER: "higher", BRIGHTER: "brighter"}


# ---------------------------------------------------------------- who is who


@dataclass(frozen=True)
class Decision:
    """``score`` from -1 to 1; ``same`` where it reaches ``threshold``."""

    score: float
    threshold: float

    @property
    def same(self) -> bool:
        return self.score >= self.threshold


def verify(
    converter: Converter, population: Population, first: Target | list[Target], second: Target | list[Target]
) -> Decision:
    """Whether two targets are one speaker; which of them is the first makes no difference.

    Raises:
        InputError: a target cannot be used.
    """
    projected = population.scoring.project(
        np.stack([converter.voice(first).embedding, converter.voice(second).embedding])
    )
    return Decision(float(projected[0] @ projected[1]), population.verification.threshold)


def enroll(converter: Converter, folder: Path) -> dict[str, np.ndarray]:
    """Embeddings [E] of the people in a folder, by name: each folder in it, clip or saved voice is one of them.

    Raises:
        InputError: no such folder, nobody in it, two of one name, or what stands for somebody cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with a folder, a clip or a saved voice for each person")
    people: dict[str, np.ndarray] = {}
    for place in sorted(place for place in folder.iterdir() if not place.name.startswith(".")):
        if place.is_dir():
            name = place.name
        elif audio.is_audio_name(place.name) or place.suffix.lower() == VOICE_SUFFIX:
            name = place.stem
        else:
            continue
        if name in people:
            raise InputError(f"{place}: there is another '{name}' in {folder}; rename one of them")
        people[name] = converter.embed(place)
    if not people:
        raise InputError(
            f"{folder}: nobody is enrolled here; put a folder, a clip or a saved voice of each person in it"
        )
    return people


def identify(
    converter: Converter, population: Population, clip: Target | list[Target], people: Mapping[str, np.ndarray]
) -> list[tuple[str, Decision]]:
    """Rank ``people`` (see ``enroll``) by similarity to a target, the most similar first.

    ``Decision.same`` tells whether a score reaches the threshold.

    Raises:
        InputError: the target cannot be used.
    """
    scores = population.scoring.project(np.stack(list(people.values()))) @ population.scoring.project(
        converter.embed(clip)
    )
    found = [(name, Decision(float(score), population.verification.threshold)) for name, score in zip(people, scores)]
    return sorted(found, key=lambda entry: (-entry[1].score, entry[0]))


# ---------------------------------------------------------------- new voices


@dataclass(frozen=True)
class Invented:
    """A drawn voice, and its score with the most alike of the population's speakers."""

    voice: Voice
    nearest: float


def invent(population: Population, seed: int) -> Invented:
    """A voice drawn from the density of voices, its register with it; the same for the same seed.

    Draws go on until one is no more alike to any training speaker than these are to one another: than is, for half
    of them, whoever is most alike.

    Raises:
        VconvError: none was found.
    """
    rng = np.random.default_rng(seed)
    speakers = population.scoring.project(population.speakers)
    for _ in range(_DRAWS):
        embedding, attributes = population.draw(rng)
        nearest = float((speakers @ population.scoring.project(embedding)).max())
        if nearest <= population.apart:
            log_f0, spread, _ = attributes
            return Invented(Voice(embedding.astype(np.float32), float(log_f0), None, float(max(spread, 0.02))), nearest)
    raise VconvError(f"none of {_DRAWS} voices drawn was unlike all speakers; fit the population on more of them")


# ---------------------------------------------------------------- directions


@dataclass(frozen=True)
class Direction:
    """A direction in which voices differ, found by PCA of how speakers' average spectra look."""

    number: int  # from 1, that with the most variance first
    share: float  # of the variance between speakers
    correlations: tuple[float, ...]  # with ATTRIBUTES
    name: str  # what it is about, where that is known


def directions(population: Population) -> list[Direction]:
    """The axes with the most variance, named where they go along with register or brightness.

    They are not principal axes of the embeddings themselves: the speaker head spreads these alike in all directions,
    none of which sounds like anything.
    """
    return [
        Direction(number, float(share), tuple(map(float, correlations)), _name(correlations))
        for number, (share, correlations) in enumerate(zip(population.axis_shares, population.correlations), 1)
    ]


def _name(correlations: Sequence[float]) -> str:
    strongest = max(_NAMES, key=lambda place: abs(correlations[place]))
    return _NAMES[strongest] if abs(correlations[strongest]) >= NAMED_FROM else ""


def move(
    voice: Voice,
    population: Population,
    *,
    higher: float = 0.0,
    brighter: float = 0.0,
    axes: Mapping[int, float] | None = None,
) -> Voice:
    """A voice some way off, in standard deviations between speakers.

    ``higher`` and ``brighter`` each keep the other as it is: what voices that differ in it alone differ by on the
    whole. ``axes`` are numbers of ``directions``. The register goes along. The reference speech, the
    correction and what `vconv finetune` found for that speaker do not: they belong to the voice that it was.

    Raises:
        InputError: a step is too long, or there is no such direction.
    """
    axes = axes or {}
    count = len(population.axis_shares)
    for step in (higher, brighter, *axes.values()):
        if not abs(step) <= _LONGEST_STEP:  # also NaN
            raise InputError(f"a step of {step:g} is out of range; use -{_LONGEST_STEP:g} to {_LONGEST_STEP:g}")
    for number in axes:
        if not 1 <= number <= count:
            raise InputError(f"there is no direction {number}; this population has 1 to {count}")
    embedding = voice.embedding + higher * population.slopes[HIGHER] + brighter * population.slopes[BRIGHTER]
    for number, step in axes.items():
        embedding = embedding + step * population.axis_slopes[number - 1]
    length = float(np.linalg.norm(embedding))
    if not length > 1e-6:
        raise InputError("this step leads out of the space of voices; take a shorter one")
    along = sum(step * population.correlations[number - 1, HIGHER] for number, step in axes.items())
    octaves = (higher + along) * population.attribute_deviation[HIGHER]
    return dataclasses.replace(
        voice,
        embedding=(embedding / length).astype(np.float32),
        log_f0=None if voice.log_f0 is None else voice.log_f0 + float(octaves),
        reference=None,
        adapter=None,
        correction=None,
    )


def hertz(log_f0: float) -> float:
    """Of a register in octaves above ``features.F0_REFERENCE``."""
    return F0_REFERENCE * 2**log_f0
