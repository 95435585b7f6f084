"""What a model's content code and speaker embedding hold, by fresh classifiers on a labelled corpus."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vconv import features
from vconv.data.manifest import Clip, read_manifest
from vconv.errors import InputError
from vconv.evaluation import statistics
from vconv.evaluation.judges import EXTRA
from vconv.evaluation.probe_figures import Figure, code_figures, phone_figures, speaker_figures
from vconv.evaluation.seen import Choice, Seen, choose, look, read_speech
from vconv.files import name_digest, write_text
from vconv.frontends.pitch import PitchTracker
from vconv.inference.engine import OnnxEngine
from vconv.inference.utterance import Utterance
from vconv.model_folder import read_config
from vconv.voice import Reference, Voice

if TYPE_CHECKING:
    from rich.table import Table

    from vconv.inference.engine import Engine


REBUILT = 100  # clips, at most, that are rebuilt: finding their F0 takes longest
Report = Callable[[int, int], None]


@dataclass
class Probe:
    """The results, and what could not be found out."""

    figures: list[Figure]
    clips: int
    speakers: int
    notes: list[str]
    seen: Seen


def probe(
    model: Path,
    manifest: Path,
    choice: Choice,
    threads: int,
    report: Report = lambda d, t: None,
    stages: int | None = None,
) -> Probe:
    """Ask everything; of a quantizer's codes, those of the first ``stages``.

    Raises:
        InputError: the model or the manifest cannot be used, has too few speakers with enough clips, or the
            `eval` extra is missing.
    """
    for package in ("sklearn", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"vconv probe needs {package}; install it with: {EXTRA}")
    config, _ = read_config(model)
    rows = config.bottleneck.codes_of(stages)
    chosen = choose(read_manifest(manifest), choice)
    engine = OnnxEngine(model, threads)
    embeds = config.embeds_speakers
    seen = look(chosen, engine, report, embeds)
    if len({clip.speaker for clip in seen.clips}) < 2:
        why = f"; the first problem: {seen.bad[0]}" if seen.bad else ""
        raise InputError(f"{manifest}: fewer than 2 speakers' clips could be read{why}")
    seen.codes = [codes[:rows] for codes in seen.codes]
    found, notes = ask(seen, config.bottleneck.code_values)
    if embeds:
        found += rebuilt_figures(seen.clips, engine, threads)
    else:
        notes.append("no embedding figures: this model has a table of speakers and embeds no clips")
    return Probe(found, len(seen.clips), len({clip.speaker for clip in seen.clips}), [*seen.bad, *notes], seen)


def ask(seen: Seen, size: int) -> tuple[list[Figure], list[str]]:
    """Everything that can be measured of codes, each of ``size`` values, and of embeddings; and what could not be."""
    found, notes = speaker_figures(seen), []
    if seen.codes:
        found += code_figures(seen, size)
    else:
        notes.append("no code figures: this model's bottleneck has no codes")
    told = phone_figures(seen)
    if not told:
        notes.append("no phone figures: too few clips have phones; vconv prepare --phonemize makes them")
    return found + told, notes


def rebuilt_figures(clips: Sequence[Clip], engine: Engine, threads: int = 1) -> list[Figure]:
    """How far the mel is from a clip's own that is made of its content and F0 and of another clip's voice.

    The other clip is the speaker's next one. Nothing where no speaker has two.
    """
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    able = [clip for clip in clips if len(by_speaker[clip.speaker]) > 1]
    tracker, errors = PitchTracker(threads), []
    for clip in sorted(able, key=lambda clip: name_digest(str(clip.path.name) + clip.speaker))[:REBUILT]:
        own = by_speaker[clip.speaker]
        wave = read_speech(clip.path)
        said, other = Utterance.of(wave), Utterance.of(read_speech(own[(own.index(clip) + 1) % len(own)].path))
        pitch = np.stack(features.continuous_log_f0(tracker(wave)))[:, : said.frames]
        voice = Voice(engine.speaker(other), None, Reference(engine.content(other).content, other.mel))
        made = engine.decode(engine.content(said).content, pitch, voice).mel
        errors.append(float(np.abs(made - said.mel).mean()) * features.DB_PER_NEPER)
    if not errors:
        return []
    return [Figure("rebuilt_error", "error of a rebuilt mel (dB)", statistics.mean(errors), None, -1, errors)]


def write(result: Probe, folder: Path) -> None:
    """probe.json, and maps of embeddings and codes as PNG.

    Raises:
        InputError: the folder cannot be written to.
    """
    from vconv.evaluation.maps import draw_maps

    content: dict[str, Any] = {
        "clips": result.clips,
        "speakers": result.speakers,
        "figures": {f.key: as_json(f) for f in result.figures},
        "notes": result.notes,
    }
    write_text(folder / "probe.json", json.dumps(content, indent=1) + "\n")
    draw_maps(result.seen, folder)


def as_json(figure: Figure) -> dict[str, Any]:
    """Unknown bounds are null."""
    low, high = ((None if np.isnan(bound) else bound) for bound in (figure.estimate.low, figure.estimate.high))
    rows = [round(float(value), 4) for value in figure.rows]
    return {
        "value": figure.value,
        "low": low,
        "high": high,
        "chance": figure.chance,
        "better": figure.better,
        "rows": rows,
    }


def table(result: Probe) -> Table:
    """For the terminal."""
    from rich.table import Table

    out = Table(f"{result.clips} clips of {result.speakers} speakers")
    for name in ("value", "95 % interval", "chance"):
        out.add_column(name, justify="right")
    for figure in result.figures:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[figure.better]
        low, high = (_text(figure, bound) for bound in (figure.estimate.low, figure.estimate.high))
        between = f"{low} to {high}" if low else ""
        out.add_row(figure.label + arrow, _text(figure, figure.value), between, _text(figure, figure.chance))
    return out


def _text(figure: Figure, value: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    if figure.label.endswith("(%)"):
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if figure.label.endswith("(dB)") else f"{value:.1f}"
