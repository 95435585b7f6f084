"""The evaluation as one HTML page that holds everything it shows and opens from disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import vconv
from vconv import audio, features
from vconv.evaluation import picture
from vconv.evaluation.figures import HEADLINES, METRICS, Metric, Row, by_system
from vconv.evaluation.languages import shown_metrics
from vconv.evaluation.measure import Failure, Report, read_wave
from vconv.evaluation.page import SCRIPT, STYLE
from vconv.evaluation.results import arrow, interval, p_value, used_metrics
from vconv.evaluation.statistics import Estimate
from vconv.files import write_text
from vconv.frontends.pitch import PitchTracker

if TYPE_CHECKING:
    from vconv.evaluation.run import Evaluation

_PLOT_WIDTH, _LABEL_WIDTH, _LANE = 640, 170, 26  # px
# By the key of the metric, where its label does not say it all.
MEANINGS = {
    "sim_target": "cosine of the speaker embeddings of conversion and target clip",
    "sim_source": "the same with the source; two different speakers lie at 0.5 to 0.6",
    "target_preferred": "share of conversions that are more similar to the target than to the source",
    "eer": "where as many conversions are refused as the target as real sources are taken for it",
    "wer": "word errors of Whisper's transcript, against the given transcript or else Whisper's own of the source",
    "cer": "the same in characters: Chinese simplified, kana as hiragana, of Hindi the consonants",
    "cer_loss": "character errors beyond those of the source itself, where a transcript is given",
    "distillmos": "predicted opinion score of the sound, 1 to 5",
    "dnsmos": "predicted opinion score, P.835 overall, 1 to 5",
    "f0_corr": "of log F0 of conversion and source, where both are voiced",
    "f0_rmse": "with the change of register that a conversion is to make",
    "f0_shape_rmse": "what is left when both melodies are moved to one mean",
    "voicing_error": "share of 10 ms frames voiced in only one of conversion and source",
    "f0_distance": "between the mean log F0 of conversion and target clip",
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
    f0_range = " to ".join(f"{hz:.0f}" for hz in picture.F0_RANGE)
    parts = [
        _head(evaluation),
        "<h2>Systems</h2>",
        _systems_table(evaluation),
        _languages_table(evaluation),
        _problems(evaluation),
        "<h2>Metrics</h2><p>A dot is a pair; the mark is the mean with its 95 % bootstrap interval.</p>",
        f'<div class="plots">{"".join(_plot(metric, evaluation) for metric in used_metrics(evaluation))}</div>',
        _contests(evaluation),
        "<h2>Rows</h2>",
        _rows_table(evaluation.rows),
        f"<h2>Pairs</h2><p>Mel spectrograms up to 8 kHz; the line is F0, on a log scale of {f0_range} Hz.</p>",
        *_pair_sections(evaluation, report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>vconv evaluation</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><main>'
        + "\n".join(parts)
        + f"</main><script>{SCRIPT}</script></body></html>\n"
    )


# ---------------------------------------------------------------- what is known in all


def _head(evaluation: Evaluation) -> str:
    counts = f"{len(evaluation.rows)} conversions by {len(evaluation.systems)} systems"
    described = [(metric.label, MEANINGS[metric.key]) for metric in used_metrics(evaluation) if metric.key in MEANINGS]
    meanings = "".join(f"<li>{escape(label)}: {escape(meaning)}</li>" for label, meaning in described)
    judges = "".join(f"<li>{escape(name)}: {escape(version)}</li>" for name, version in evaluation.judges.items())
    return (
        f"<h1>Evaluation</h1><p>{counts}, vconv {vconv.__version__}</p>"
        f"<details><summary>What the metrics are</summary><ul>{meanings}</ul></details>"
        f"<details><summary>Judges</summary><ul>{judges}</ul></details>"
    )


def _problems(evaluation: Evaluation) -> str:
    out = ""
    for title, lines in (("Rows that could not be judged", evaluation.bad), ("Not measured", evaluation.missing)):
        if lines:
            items = "".join(f"<li>{escape(str(line))}</li>" for line in lines)
            out += f'<section class="problems"><h3>{title}</h3><ul>{items}</ul></section>'
    return out


def _systems_table(evaluation: Evaluation) -> str:
    metrics = used_metrics(evaluation)
    header = ["system", "pairs", *(metric.title + arrow(metric) for metric in metrics)]
    body = []
    for name, rows in by_system(evaluation.rows).items():
        cells = [_cell(name), _cell(str(len(rows)), len(rows))]
        body.append(cells + [_estimate_cell(metric, evaluation.systems[name].get(metric.key)) for metric in metrics])
    return _table(header, body)


def _languages_table(evaluation: Evaluation) -> str:
    """Empty where all rows are of one language."""
    if not evaluation.languages:
        return ""
    metrics = shown_metrics(evaluation.languages)
    body = [
        [_cell(language), _cell(name), *(_estimate_cell(metric, found.get(metric.key)) for metric in metrics)]
        for language, systems in evaluation.languages.items()
        for name, found in systems.items()
    ]
    header = ["language", "system", *(metric.title + arrow(metric) for metric in metrics)]
    return "<h2>Languages</h2>" + _table(header, body)


def _estimate_cell(metric: Metric, estimate: Estimate | None) -> str:
    if estimate is None:
        return _cell("–", math.nan)
    return _cell(metric.show(estimate.value), estimate.value, interval(metric, estimate))


def _contests(evaluation: Evaluation) -> str:
    body = []
    for contest in evaluation.contests:
        for metric in METRICS:
            found = contest.comparisons.get(metric.key)
            if found is None:
                continue
            bounds = "" if math.isnan(found.low) else f"{metric.show(found.low)} to {metric.show(found.high)}"
            better = contest.first if found.difference * metric.better > 0 else contest.second
            body.append(
                [
                    _cell(contest.first),
                    _cell(contest.second),
                    _cell(metric.title),
                    _cell(str(found.count), found.count),
                    _cell(metric.show(found.difference), found.difference, bounds),
                    _cell(p_value(found.p), found.p),
                    _cell(better if found.p < 0.05 else "–"),
                ]
            )
    if not body:
        return ""
    header = ["first", "second", "metric", "pairs", "first minus second", "p", "better"]
    return (
        "<h2>System against system</h2><p>On the pairs that both converted: the mean difference and a two-sided "
        "sign-flip test, p as it is; of twenty comparisons of equals one falls below 0.05.</p>" + _table(header, body)
    )


def _rows_table(rows: Sequence[Row]) -> str:
    metrics = [m for m in METRICS if m.key in HEADLINES and any(m.key in row.figures for row in rows)]
    body = []
    for row in rows:
        link = f'<a href="#row{row.pair.line}">{row.pair.line}</a>'
        names = (row.pair.system, row.pair.source.stem, row.pair.target.stem)
        cells = [f'<td data-value="{row.pair.line}">{link}</td>', *map(_cell, names)]
        for metric in metrics:
            value = row.figures.get(metric.key, math.nan)
            cells.append(_cell("–" if math.isnan(value) else metric.show(value), value))
        body.append(cells)
    return _table(["line", "system", "source", "target", *(m.title + arrow(m) for m in metrics)], body)


def _cell(text: str, value: float | None = None, small: str = "") -> str:
    """A table cell; ``value`` is what it is sorted by in place of its text."""
    sort = "" if value is None else f' class="number" data-value="{"" if math.isnan(value) else value}"'
    return f"<td{sort}>{escape(text)}{f'<small>{escape(small)}</small>' if small else ''}</td>"


def _table(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    heads = "".join(f'<th><button type="button" class="sort">{escape(name)}</button></th>' for name in header)
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


# ---------------------------------------------------------------- plots


def _plot(metric: Metric, evaluation: Evaluation) -> str:
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
    drawing = [_lane(metric, place, *lane, scale) for place, lane in enumerate(lanes)]
    bottom = _LANE * len(lanes) + 6
    ticks = {metric.show(value): value for value in (low, (low + high) / 2, high)}  # one where all are alike
    for label, value in ticks.items():
        anchor = "middle" if len(ticks) == 1 or value not in (low, high) else "start" if value == low else "end"
        place = f'x="{scale(value):.1f}" y="{bottom + 12}" text-anchor="{anchor}"'
        drawing.append(f'<text class="tick" {place}>{label}</text>')
    return (
        f'<figure class="plot"><figcaption>{escape(metric.title + arrow(metric))}</figcaption>'
        f'<svg viewBox="0 0 {_PLOT_WIDTH} {bottom + 16}" role="img" aria-label="{escape(metric.title)}">'
        f"{''.join(drawing)}</svg></figure>"
    )


def _scale(low: float, high: float) -> Callable[[float], float]:
    """From a value to its place in px."""
    return lambda value: _LABEL_WIDTH + (_PLOT_WIDTH - _LABEL_WIDTH - 8) * (value - low) / (high - low)


def _lane(
    metric: Metric, place: int, name: str, estimate: Estimate, dots: Sequence[float], scale: Callable[[float], float]
) -> str:
    middle = _LANE * place + _LANE / 2
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(dots)) * _LANE  # or equal values would hide one another
    out = [f'<text class="name" x="{_LABEL_WIDTH - 10}" y="{middle + 4}">{escape(_short(name))}</text>']
    out.append(f'<line class="lane" x1="{_LABEL_WIDTH}" x2="{_PLOT_WIDTH}" y1="{middle}" y2="{middle}"/>')
    out += [f'<circle cx="{scale(v):.1f}" cy="{middle + d:.1f}" r="2.2"/>' for v, d in zip(dots, spread)]
    if not math.isnan(estimate.low):
        ends = scale(estimate.low), scale(estimate.high)
        out.append(f'<line class="interval" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{middle}" y2="{middle}"/>')
    at = scale(estimate.value)
    out.append(f'<line class="mean" x1="{at:.1f}" x2="{at:.1f}" y1="{middle - 7}" y2="{middle + 7}"/>')
    title = f"{name}: {metric.show(estimate.value)} {interval(metric, estimate)}"
    return f"<g><title>{escape(title)}</title>{''.join(out)}</g>"


def _short(name: str, longest: int = 21) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


# ---------------------------------------------------------------- pairs


def _pair_sections(evaluation: Evaluation, report: Report) -> Iterable[str]:
    """A section for every pair of clips, with the conversions of all systems in it."""
    groups: dict[tuple[Path, Path, Path | None], list[Row]] = {}
    for row in evaluation.rows:
        groups.setdefault((row.pair.source, row.pair.target, row.pair.reference), []).append(row)
    clips = _Clips(evaluation)
    for done, ((source, target, reference), rows) in enumerate(groups.items(), 1):
        cards = [clips.card("source", source), clips.card("target", target)]
        if reference is not None:
            cards.append(clips.card("reference", reference))
        cards += [clips.card(row.pair.system, row.pair.converted, row) for row in rows]
        expected = f'<p class="text">{escape(rows[0].expected)}</p>' if rows[0].expected else ""
        title = f"{escape(source.stem)} → {escape(target.stem)}"
        yield f'<section class="pair"><h3>{title}</h3>{expected}<div class="cards">{"".join(cards)}</div></section>'
        report(done, len(groups))


class _Clips:
    """Clips as players over their pictures."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._answers = evaluation.answers
        self._has_f0 = "f0" in evaluation.judges
        self._tracker: PitchTracker | None = None

    def card(self, title: str, path: Path, row: Row | None = None) -> str:
        wave, rate = audio.read(path)
        heard = read_wave(path)
        image = picture.data_uri("image/png", picture.spectrogram_png(heard))
        sound = picture.data_uri("audio/mpeg", picture.mp3(wave, rate))
        name = escape(title)
        identity = f' id="row{row.pair.line}"' if row else ""
        return (
            f'<figure class="clip"{identity}><figcaption>{name}</figcaption>'
            f'<div class="picture"><img alt="spectrogram of {name}" src="{image}">'
            f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none"><path d="{self._path(path, heard)}"/></svg></div>'
            f'<audio controls preload="none" src="{sound}"></audio>{_figures(row) if row else ""}</figure>'
        )

    def _path(self, path: Path, wave: np.ndarray) -> str:
        """F0 as the judge had it, or else by vconv's own tracker."""
        if self._has_f0:
            curve = self._answers.get("f0", path)
            return "" if isinstance(curve, Failure) else picture.f0_path(curve)
        if self._tracker is None:
            self._tracker = PitchTracker()
        return picture.f0_path(self._tracker(audio.normalize(wave, features.SAMPLE_RATE)))


def _figures(row: Row) -> str:
    shown = [(metric.label, metric.show(row.figures[metric.key])) for metric in METRICS if _is_shown(metric, row)]
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in shown)
    heard = f'<p class="text">{escape(row.heard)}</p>' if row.heard else ""
    return f"{heard}<dl>{items}</dl>"


def _is_shown(metric: Metric, row: Row) -> bool:
    return metric.key in HEADLINES and metric.key in row.figures
