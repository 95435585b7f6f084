"""The evaluation as one HTML page that holds everything it shows and opens from disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vconv
from vconv import audio, features
from vconv.evaluation import picture
from vconv.evaluation.figures import HEADLINES, METRICS, Metric, Row, by_system
from vconv.evaluation.languages import shown_metrics
from vconv.evaluation.measure import Failure, Report, read_wave
from vconv.evaluation.periodicity import BANDS, key
from vconv.evaluation.results import SIGNIFICANT, arrow, interval, p_value, used_metrics
from vconv.evaluation.statistics import Estimate
from vconv.files import write_text
from vconv.frontends.pitch import PitchTracker

if TYPE_CHECKING:
    from vconv.evaluation.run import Evaluation

_PLOT_WIDTH, _LABEL_WIDTH, _LANE = 640, 170, 26  # px
# By the key of the metric, where its label does not say it all.
MEANINGS = {
    "sim_target": "cosine of the speaker embeddings of conversion and target clip",
    "sim_source": "the same with the source clip; two different speakers have 0.5 to 0.6",
    "target_preferred": "share of conversions that are more similar to the target than to the source",
    "eer": "equal error rate where conversions are verified as the target, with the real sources as impostors",
    "wer": "word errors of Whisper's transcript, against the given transcript or else that of the source by Whisper",
    "cer": "the same in characters: Chinese simplified, kana as hiragana, of Hindi the consonants",
    "cer_loss": "character errors beyond those of the source itself, where a transcript is given",
    "distillmos": "predicted naturalness, a mean opinion score of 1 to 5",
    "dnsmos": "predicted opinion score, P.835 overall, 1 to 5",
    "dnsmos_sig": "the same for the speech alone",
    "dnsmos_bak": "the same for the background: noise lowers it",
    "dnsmos_p808": "predicted opinion score, P.808 overall, 1 to 5",
    "f0_corr": "of log F0 of conversion and source, where both are voiced",
    "f0_rmse": "large where source and target differ in register: conversion moves the melody",
    "f0_shape_rmse": "the same with both melodies moved to one mean: errors of the melody",
    "voicing_error": "share of 10 ms frames voiced in only one of conversion and source",
    "f0_distance": "between the mean log F0 of conversion and target clip",
    **{
        key(band): "of voiced frames; 1 for a pulse train, 0 for noise; well above the recording's, a voice buzzes"
        for band in BANDS
    },
    "mcd": "mel-cepstral distortion to the target speaker's own reading, aligned in time, level left out",
    "lsd": "root mean square over frequency to the target speaker's own reading, aligned in time",
    "real_time_factor": "time to convert over length, the analysis of the target clip included",
    "memory": "largest resident set of the converting process",
}


def write_report(evaluation: Evaluation, path: Path, report: Report = lambda done, total: None) -> None:
    """Write the page.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_text(path, page(evaluation, report))


def page(evaluation: Evaluation, report: Report = lambda done, total: None) -> str:
    """The whole document."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("vconv.evaluation", "."), autoescape=True, undefined=StrictUndefined)
    metrics, row_metrics = used_metrics(evaluation), _row_metrics(evaluation.rows)
    language_metrics = shown_metrics(evaluation.languages) if evaluation.languages else []
    return environment.get_template("report.html.jinja").render(
        version=vconv.__version__,
        meanings=[f"{metric.label}: {MEANINGS[metric.key]}" for metric in metrics if metric.key in MEANINGS],
        judges=[f"{name}: {version}" for name, version in evaluation.judges.items()],
        titles=_titles(metrics),
        systems=_system_rows(evaluation, metrics),
        language_titles=_titles(language_metrics),
        languages=_language_rows(evaluation, language_metrics),
        problems=[("Rows that could not be judged", evaluation.bad), ("Not measured", evaluation.missing)],
        plots=[_plot(metric, evaluation) for metric in metrics],
        contests=list(_contest_rows(evaluation)),
        row_titles=_titles(row_metrics),
        rows=[_row(row, row_metrics) for row in evaluation.rows],
        f0_range=" to ".join(f"{hz:.0f}" for hz in picture.F0_RANGE),
        pairs=_pairs(evaluation, report),
    )


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Cell:
    """``value`` is what a cell is sorted by in place of its text, NaN being unknown."""

    text: str
    value: float | None = None
    small: str = ""
    link: str = ""


def _titles(metrics: Iterable[Metric]) -> list[str]:
    return [metric.title + arrow(metric) for metric in metrics]


def _system_rows(evaluation: Evaluation, metrics: Sequence[Metric]) -> list[list[_Cell]]:
    return [
        [_Cell(name), _Cell(str(len(rows)), len(rows)), *_estimates(metrics, evaluation.systems[name])]
        for name, rows in by_system(evaluation.rows).items()
    ]


def _language_rows(evaluation: Evaluation, metrics: Sequence[Metric]) -> list[list[_Cell]]:
    """Empty where all rows are of one language."""
    return [
        [_Cell(language), _Cell(name), *_estimates(metrics, found)]
        for language, systems in evaluation.languages.items()
        for name, found in systems.items()
    ]


def _estimates(metrics: Sequence[Metric], found: dict[str, Estimate]) -> Iterable[_Cell]:
    for metric in metrics:
        estimate = found.get(metric.key)
        if estimate is None:
            yield _Cell("–", math.nan)
        else:
            yield _Cell(metric.show(estimate.value), estimate.value, interval(metric, estimate))


def _contest_rows(evaluation: Evaluation) -> Iterable[list[_Cell]]:
    for contest in evaluation.contests:
        for metric in METRICS:
            found = contest.comparisons.get(metric.key)
            if found is None:
                continue
            bounds = "" if math.isnan(found.low) else f"{metric.show(found.low)} to {metric.show(found.high)}"
            better = contest.first if found.difference * metric.better > 0 else contest.second
            yield [
                _Cell(contest.first),
                _Cell(contest.second),
                _Cell(metric.title),
                _Cell(str(found.count), found.count),
                _Cell(metric.show(found.difference), found.difference, bounds),
                _Cell(p_value(found.p), found.p),
                _Cell(better if found.p < SIGNIFICANT else "–"),
            ]


def _row_metrics(rows: Sequence[Row]) -> list[Metric]:
    return [m for m in METRICS if m.key in HEADLINES and any(m.key in row.figures for row in rows)]


def _row(row: Row, metrics: Sequence[Metric]) -> list[_Cell]:
    pair = row.pair
    cells = [_Cell(str(pair.line), pair.line, link=f"row{pair.line}")]
    cells += map(_Cell, (pair.system, pair.source.stem, pair.target.stem))
    for metric in metrics:
        value = row.figures.get(metric.key, math.nan)
        cells.append(_Cell("–" if math.isnan(value) else metric.show(value), value))
    return cells


# ---------------------------------------------------------------- plots


def _plot(metric: Metric, evaluation: Evaluation) -> dict[str, Any]:
    """A lane for every system: its rows as dots, its estimate as a mark."""
    lanes = []
    for name, rows in by_system(evaluation.rows).items():
        if metric.key in evaluation.systems[name]:
            dots = [row.figures[metric.key] for row in rows if metric.key in row.figures]
            lanes.append((name, evaluation.systems[name][metric.key], dots))
    shown = [value for _, e, dots in lanes for value in (*dots, e.value, e.low, e.high) if not math.isnan(value)]
    low, high = min(shown), max(shown)
    margin = 0.05 * (high - low) or 0.05 * max(abs(high), 1e-3)
    scale = _scale(low - margin, high + margin)
    ticks = {metric.show(value): value for value in (low, (low + high) / 2, high)}  # one where all are alike
    anchors = {low: "start", high: "end"} if len(ticks) > 1 else {}
    return {
        "title": metric.title + arrow(metric),
        "width": _PLOT_WIDTH,
        "left": _LABEL_WIDTH,
        "height": _LANE * len(lanes) + 22,
        "lanes": [_lane(metric, place, *lane, scale) for place, lane in enumerate(lanes)],
        "ticks": [
            {"label": label, "x": scale(value), "anchor": anchors.get(value, "middle")}
            for label, value in ticks.items()
        ],
    }


def _scale(low: float, high: float) -> Callable[[float], float]:
    """From a value to its place in px."""
    return lambda value: round(_LABEL_WIDTH + (_PLOT_WIDTH - _LABEL_WIDTH - 8) * (value - low) / (high - low), 1)


def _lane(
    metric: Metric, place: int, name: str, estimate: Estimate, dots: Sequence[float], scale: Callable[[float], float]
) -> dict[str, Any]:
    middle = _LANE * place + _LANE / 2
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(dots)) * _LANE  # or equal values would hide one another
    return {
        "title": f"{name}: {metric.show(estimate.value)} {interval(metric, estimate)}",
        "name": _short(name),
        "y": middle,
        "dots": [(scale(value), round(middle + offset, 1)) for value, offset in zip(dots, spread)],
        "interval": None if math.isnan(estimate.low) else (scale(estimate.low), scale(estimate.high)),
        "mean": scale(estimate.value),
    }


def _short(name: str, longest: int = 21) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


# ---------------------------------------------------------------- pairs


def _pairs(evaluation: Evaluation, report: Report) -> Iterable[dict[str, Any]]:
    """Every pair of clips, with the conversions of all systems."""
    groups: dict[tuple[Path, Path, Path | None], list[Row]] = {}
    for row in evaluation.rows:
        groups.setdefault((row.pair.source, row.pair.target, row.pair.reference), []).append(row)
    clips = _Clips(evaluation)
    for done, ((source, target, reference), rows) in enumerate(groups.items(), 1):
        cards = [clips.card("source", source), clips.card("target", target)]
        if reference is not None:
            cards.append(clips.card("reference", reference))
        cards += [clips.card(row.pair.system, row.pair.converted, row) for row in rows]
        yield {"title": f"{source.stem} → {target.stem}", "expected": rows[0].expected, "cards": cards}
        report(done, len(groups))


class _Clips:
    """Clips as players over their pictures."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._answers = evaluation.answers
        self._has_f0 = "f0" in evaluation.judges
        self._tracker: PitchTracker | None = None

    def card(self, title: str, path: Path, row: Row | None = None) -> dict[str, Any]:
        wave, rate = audio.read(path)
        judged = read_wave(path)
        figures = row.figures if row else {}
        return {
            "title": title,
            "row": row,
            "image": picture.data_uri("image/png", picture.spectrogram_png(judged)),
            "f0": self._path(path, judged),
            "sound": picture.data_uri("audio/mpeg", picture.mp3(wave, rate)),
            "figures": [(m.label, m.show(figures[m.key])) for m in METRICS if m.key in HEADLINES and m.key in figures],
        }

    def _path(self, path: Path, wave: np.ndarray) -> str:
        """F0 as the judge had it, or else by vconv's own tracker."""
        if self._has_f0:
            curve = self._answers.get("f0", path)
            return "" if isinstance(curve, Failure) else picture.f0_path(curve)
        if self._tracker is None:
            self._tracker = PitchTracker()
        return picture.f0_path(self._tracker(audio.normalize(wave, features.SAMPLE_RATE)))
