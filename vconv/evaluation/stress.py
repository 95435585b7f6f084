"""What a conversion loses when its source is disturbed or its target short: the same pairs under each condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import vconv
from vconv import audio
from vconv.data.augmentation import wave as disturbances
from vconv.errors import InputError
from vconv.evaluation.conversion import make_folder
from vconv.evaluation.measure import Report
from vconv.evaluation.pairs import BadRow, Pairs
from vconv.features import SAMPLE_RATE
from vconv.inference import Converter

BABBLE_VOICES = 6
Wave = np.ndarray  # 16 kHz mono, [N]
Disturb = Callable[[Wave, "Surroundings"], Wave]


@dataclass(frozen=True)
class Surroundings:
    """What a disturbance is made of: other people's speech [N], and a generator of its own for each pair."""

    speech: Sequence[Wave]
    rng: np.random.Generator


@dataclass(frozen=True)
class Condition:
    """A name, what happens to the source, and how much of the target is left."""

    name: str
    source: Disturb = lambda wave, surroundings: wave
    target_seconds: float | None = None


def babble(snr_db: float) -> Disturb:
    """Several other people at the same time."""

    def disturb(wave: Wave, around: Surroundings) -> Wave:
        chosen = around.rng.permutation(len(around.speech))[:BABBLE_VOICES]
        voices = [around.speech[k] for k in chosen]
        return disturbances.mix(wave, disturbances.crowd(voices, len(wave), around.rng), snr_db)

    return disturb


def white_noise(snr_db: float) -> Disturb:
    return lambda wave, around: disturbances.mix(wave, around.rng.standard_normal(len(wave)), snr_db)


def reverberation(seconds: float) -> Disturb:
    return lambda wave, around: disturbances.reverberant(wave, seconds, 3.0, around.rng)


def telephone(wave: Wave, around: Surroundings) -> Wave:
    return disturbances.band_limited(wave, 300.0, 3400.0)


def clipped(wave: Wave, around: Surroundings) -> Wave:
    return disturbances.clipped(wave, 0.25)


CLEAN = Condition("clean")
CONDITIONS = (
    CLEAN,
    Condition("babble 15 dB", babble(15.0)),
    Condition("white noise 15 dB", white_noise(15.0)),
    Condition("reverberation 0.5 s", reverberation(0.5)),
    Condition("telephone", telephone),
    Condition("clipped", clipped),
    Condition("target 3 s", target_seconds=3.0),
    Condition("target 2 s", target_seconds=2.0),
)


def choose(names: str | None) -> list[Condition]:
    """Conditions by their names, separated by commas; all without. The clean one always comes first.

    Raises:
        InputError: there is no such condition.
    """
    if names is None:
        return list(CONDITIONS)
    known = {condition.name: condition for condition in CONDITIONS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise InputError(f"--conditions {name}: there is no such condition; use {', '.join(known)}")
    return [CLEAN, *(known[name] for name in wanted if name != CLEAN.name)]


def convert_all(
    converter: Converter, todo: Pairs, conditions: Sequence[Condition], folder: Path, report: Report
) -> Pairs:
    """Every pair under every condition, into ``folder``: rows to be judged, the condition in the place of the system.

    They are judged against the clean source, and against the whole target.

    Raises:
        InputError: the folder cannot be written to.
    """
    make_folder(folder)
    made, speech = Pairs(bad=list(todo.bad)), {}
    for pair in todo.good:
        try:
            speech[pair.line] = _read(pair.source), _read(pair.target)
        except InputError as error:
            made.bad.append(BadRow(pair.line, str(error)))
    usable = [pair for pair in todo.good if pair.line in speech]
    for count, pair in enumerate(usable, 1):
        others = [source for line, (source, _) in speech.items() if line != pair.line]
        for number, condition in enumerate(conditions):
            place = folder / f"{pair.line:04d}_{condition.name.replace(' ', '_')}.wav"
            around = Surroundings(others or [speech[pair.line][1]], np.random.default_rng([pair.line, number]))
            try:
                _convert(converter, *speech[pair.line], condition, around, place)
                line = len(made.good) + 1
                made.good.append(replace(pair, line=line, converted=place, system=condition.name))
            except InputError as error:
                made.bad.append(BadRow(pair.line, f"{condition.name}: {error}"))
        report(count, len(usable))
    return made


def _convert(
    converter: Converter, source: Wave, target: Wave, condition: Condition, around: Surroundings, place: Path
) -> None:
    if condition.target_seconds is not None:
        target = audio.trim_silence(target, SAMPLE_RATE)[: round(condition.target_seconds * SAMPLE_RATE)]
    disturbed = condition.source(source, around).astype(np.float32)
    converter.convert_file((disturbed, SAMPLE_RATE), (target, SAMPLE_RATE), place)


def _read(path: Path) -> Wave:
    wave, rate = audio.read(path)
    return audio.resample(wave, rate, SAMPLE_RATE)


def prepare(
    model: Path | None, todo: Pairs, conditions: Sequence[Condition], folder: Path, threads: int, report: Report
) -> Pairs:
    """All conditions of a model on a table's pairs.

    Raises:
        InputError: the model or the folder cannot be used.
    """
    return convert_all(vconv.load(model, threads=threads), todo, conditions, folder, report)
