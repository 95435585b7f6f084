"""From the judges' answers to figures: of every row, of every system, and between systems."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vconv.evaluation import metrics, statistics
from vconv.evaluation.conversion import Speed
from vconv.evaluation.measure import Answers, Failure, Question
from vconv.evaluation.pairs import BadRow, Pair, Pairs
from vconv.evaluation.periodicity import BANDS, key
from vconv.evaluation.statistics import Comparison, Estimate
from vconv.evaluation.text import text_errors

MIN_COMPARED = 3  # pairs in common, below which no test says anything


@dataclass(frozen=True)
class Metric:
    """One column. ``better`` is 1 where higher is better, -1 where lower is, 0 where neither is.

    ``how`` systems' values are made: the mean of rows, the sum of a count over the sum of another, the equal
    error rate, or the largest row. ``unit`` and ``places`` are for people, who are shown the value times ``factor``.
    """

    key: str
    label: str
    better: int
    places: int
    unit: str = ""
    factor: float = 1.0
    how: Literal["mean", "ratio", "eer", "max"] = "mean"
    counts: tuple[str, str] = ("", "")  # for ratio and eer: the two figures of a row

    @property
    def title(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def show(self, value: float) -> str:
        return f"{value * self.factor:.{self.places}f}"


METRICS = (
    Metric("sim_target", "SIM to target", 1, 3),
    Metric("sim_source", "SIM to source", -1, 3),
    Metric("target_preferred", "nearer to target", 1, 1, "%", 100),
    Metric("eer", "EER", -1, 1, "%", 100, "eer", ("sim_target", "sim_real")),
    Metric("wer", "WER", -1, 1, "%", 100, "ratio", ("word_errors", "words")),
    Metric("cer", "CER", -1, 1, "%", 100, "ratio", ("character_errors", "characters")),
    Metric("source_wer", "source's own WER", 0, 1, "%", 100, "ratio", ("source_word_errors", "words")),
    Metric("source_cer", "source's own CER", 0, 1, "%", 100, "ratio", ("source_character_errors", "characters")),
    Metric("cer_loss", "CER above the source's", -1, 1, "%", 100, "ratio", ("added_character_errors", "characters")),
    Metric("distillmos", "DistillMOS", 1, 2),
    Metric("source_distillmos", "source's DistillMOS", 0, 2),
    Metric("dnsmos", "DNSMOS overall", 1, 2),
    Metric("dnsmos_sig", "DNSMOS speech", 1, 2),
    Metric("dnsmos_bak", "DNSMOS background", 1, 2),
    Metric("dnsmos_p808", "DNSMOS P.808", 1, 2),
    Metric("source_dnsmos", "source's DNSMOS overall", 0, 2),
    Metric("f0_corr", "log-F0 correlation", 1, 2),
    Metric("f0_rmse", "F0 RMSE to source", 0, 0, "cents"),
    Metric("f0_shape_rmse", "F0 RMSE, registers aligned", -1, 0, "cents"),
    Metric("voicing_error", "voicing error", -1, 1, "%", 100),
    Metric("f0_distance", "mean F0 to target", -1, 2, "semitones"),
    *(Metric(key(band), f"periodicity {band[0]:g}-{band[1]:g} kHz", 0, 2) for band in BANDS),
    Metric("mcd", "MCD to reference", -1, 2, "dB"),
    Metric("lsd", "log-spectral distance", -1, 2, "dB"),
    Metric("duration_ratio", "length over source's", 0, 3),
    Metric("real_time_factor", "real-time factor", -1, 3),
    Metric("memory", "peak memory", -1, 0, "MiB", how="max"),
)

# Where there is room for few.
HEADLINES = ("sim_target", "sim_source", "wer", "cer", "distillmos", "dnsmos", "f0_corr", "f0_distance", "mcd")

# What --metrics takes, and the judges each needs.
GROUPS = {
    "speaker": ("voice",),
    "words": ("text",),
    "distillmos": ("distillmos",),
    "dnsmos": ("dnsmos",),
    "melody": ("f0", "warp"),
    "periodicity": ("periodicity",),
    "reference": ("spectra",),
}


@dataclass
class Row:
    """A judged pair."""

    pair: Pair
    figures: dict[str, float] = field(default_factory=dict)
    recognized: str = ""  # in the conversion
    expected: str = ""  # the transcript, or the ASR model's text of the source


@dataclass(frozen=True)
class Contest:
    """Two systems and how they compare on the pairs that both have, by metric."""

    first: str
    second: str
    pairs: int
    comparisons: dict[str, Comparison]


# ---------------------------------------------------------------- what to ask


def questions(pairs: Iterable[Pair], judges: Sequence[str]) -> list[Question]:
    """Everything that the figures of the pairs need, but for ``warp`` (see ``warp_questions``)."""
    out = []
    for pair in pairs:
        assert pair.converted is not None
        for judge, clips in (
            ("voice", (pair.converted, pair.source, pair.target)),
            ("distillmos", (pair.converted, pair.source)),
            ("dnsmos", (pair.converted, pair.source)),
            ("f0", pair.files()),
            ("periodicity", (pair.converted,)),
        ):
            if judge in judges:
                out += [Question(judge, (clip,)) for clip in clips]
        if "text" in judges:
            out += [Question("text", (clip,), pair.language) for clip in (pair.converted, pair.source)]
        if "spectra" in judges and pair.reference is not None:
            out.append(Question("spectra", (pair.converted, pair.reference)))
    return out


def warp_questions(pairs: Iterable[Pair], answers: Answers) -> list[Question]:
    """Alignments of the conversions that are not as long as their source, known once F0 curves are."""
    out = []
    for pair in pairs:
        assert pair.converted is not None
        curves = [answers.get("f0", clip) for clip in (pair.source, pair.converted)]
        if not any(isinstance(curve, Failure) for curve in curves) and not metrics.same_length(*map(len, curves)):
            out.append(Question("warp", (pair.source, pair.converted)))
    return out


# ---------------------------------------------------------------- rows


def make_rows(
    pairs: Pairs, answers: Answers, judges: Sequence[str], speed: dict[int, Speed]
) -> tuple[list[Row], Pairs]:
    """The judged rows, and the pairs without those on which a judge failed, which are listed as bad."""
    rows, rest = [], Pairs(bad=list(pairs.bad), seconds=pairs.seconds)
    for pair in pairs.good:
        try:
            row = _Judged(pair, answers, judges).row(speed.get(pair.line))
            row.figures["duration_ratio"] = pairs.seconds[pair.converted] / pairs.seconds[pair.source]
            rows.append(row)
            rest.good.append(pair)
        except _FailedError as error:
            rest.bad.append(BadRow(pair.line, str(error)))
    rest.bad.sort(key=lambda bad: bad.line)
    return rows, rest


class _FailedError(Exception):
    """A judge failed on a clip of the row."""


class _Judged:
    """What the judges said about one pair, put together."""

    def __init__(self, pair: Pair, answers: Answers, judges: Sequence[str]) -> None:
        self.pair, self.answers, self.judges = pair, answers, judges

    def row(self, speed: Speed | None) -> Row:
        row = Row(self.pair)
        if "voice" in self.judges:
            row.figures |= self._speaker()
        if "text" in self.judges:
            self._words(row)
        for judge in ("distillmos", "dnsmos"):
            if judge in self.judges:
                row.figures |= self._quality(judge)
        if "f0" in self.judges:
            row.figures |= self._melody()
        if "periodicity" in self.judges:
            row.figures |= self._answer("periodicity", self.pair.converted)
        if "spectra" in self.judges and self.pair.reference is not None:
            row.figures |= self._answer("spectra", self.pair.converted, self.pair.reference)
        if speed is not None:
            row.figures["real_time_factor"] = speed.real_time_factor
            if speed.memory is not None:
                row.figures["memory"] = speed.memory
        return row

    def _answer(self, judge: str, *clips: object, language: str = "") -> object:
        value = self.answers.get(judge, *clips, language=language)
        if isinstance(value, Failure):
            raise _FailedError(value.reason)
        return value

    def _speaker(self) -> dict[str, float]:
        pair = self.pair
        result, source, target = (self._answer("voice", clip) for clip in (pair.converted, pair.source, pair.target))
        to_target, to_source = metrics.cosine(result, target), metrics.cosine(result, source)
        return {
            "sim_target": to_target,
            "sim_source": to_source,
            "target_preferred": float(to_target > to_source),
            "sim_real": metrics.cosine(source, target),
        }

    def _words(self, row: Row) -> None:
        """Errors in words where the language has spaces between them, and in characters."""
        pair = self.pair
        row.recognized, of_source = (
            self._answer("text", c, language=pair.language) for c in (pair.converted, pair.source)
        )
        row.expected = pair.transcript or of_source
        errors = text_errors(row.expected, row.recognized, pair.language)
        own = text_errors(pair.transcript, of_source, pair.language) if pair.transcript else None
        if errors.reference_words:
            row.figures |= _share("wer", "word_errors", errors.words, "words", errors.reference_words)
            if own is not None:
                row.figures |= _share("source_wer", "source_word_errors", own.words, "words", errors.reference_words)
        if errors.reference_characters:
            of = ("characters", errors.reference_characters)
            row.figures |= _share("cer", "character_errors", errors.characters, *of)
            if own is not None:
                added = errors.characters - own.characters
                row.figures |= _share("source_cer", "source_character_errors", own.characters, *of)
                row.figures |= _share("cer_loss", "added_character_errors", added, *of)

    def _quality(self, judge: str) -> dict[str, float]:
        result, source = (self._answer(judge, clip) for clip in (self.pair.converted, self.pair.source))
        if isinstance(result, dict):
            return {**result, f"source_{judge}": source[judge]}
        return {judge: result, f"source_{judge}": source}

    def _melody(self) -> dict[str, float]:
        pair = self.pair
        source, result, target = (self._answer("f0", clip) for clip in (pair.source, pair.converted, pair.target))
        out: dict[str, float] = {}
        if metrics.same_length(len(source), len(result)):
            out |= metrics.melody(source, result, metrics.linear_warp(len(source), len(result)))
        elif "warp" in self.judges:
            first, second, frames = self._answer("warp", pair.source, pair.converted)
            out |= metrics.melody(
                source, result, (on_curve(first, frames[0], source), on_curve(second, frames[1], result))
            )
        distance = metrics.register_distance(result, target)
        return out if distance is None else out | {"f0_distance": distance}


def _share(metric: str, part: str, count: int, whole: str, size: int) -> dict[str, float]:
    """A metric of how="ratio" and the two counts that it is made of."""
    return {part: count, whole: size, metric: count / size}


def on_curve(path: Sequence[int], frames: int, curve: Sequence[float]) -> np.ndarray:
    """Frame numbers of an alignment as those of an F0 curve, whose grid begins and ends a little later and earlier."""
    return np.clip(np.asarray(path) * len(curve) // frames, 0, len(curve) - 1)


# ---------------------------------------------------------------- systems


def by_system(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by system, systems in the order of their first row."""
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row.pair.system, []).append(row)
    return out


def estimates(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Every metric that any of the rows has."""
    found = {metric.key: _estimate(metric, [row.figures for row in rows]) for metric in METRICS}
    return {key: estimate for key, estimate in found.items() if estimate is not None}


def _estimate(metric: Metric, figures: Sequence[dict[str, float]]) -> Estimate | None:
    if metric.how in ("ratio", "eer"):
        values = [tuple(f[name] for name in metric.counts) for f in figures if all(n in f for n in metric.counts)]
    else:
        values = [f[metric.key] for f in figures if metric.key in f]
    if not values:
        return None
    if metric.how == "max":
        return Estimate(max(values), np.nan, np.nan, len(values))
    make = {"mean": statistics.mean, "ratio": statistics.ratio, "eer": statistics.pooled_equal_error_rate}
    return make[metric.how](values)


def contests(rows: Iterable[Row], answers: Answers) -> list[Contest]:
    """Every two systems on the pairs of clips that both have converted. Of a pair that a system has twice, the last."""
    systems = {name: {_identity(row.pair, answers): row for row in part} for name, part in by_system(rows).items()}
    found = []
    for (first, one), (second, other) in itertools.combinations(systems.items(), 2):
        common = [(one[key].figures, other[key].figures) for key in one if key in other]
        compared = {m.key: _compare(m, common) for m in METRICS if m.better and m.how in ("mean", "ratio")}
        compared = {key: comparison for key, comparison in compared.items() if comparison is not None}
        if compared:
            found.append(Contest(first, second, len(common), compared))
    return found


def _identity(pair: Pair, answers: Answers) -> tuple[str, str]:
    return answers.digest(pair.source), answers.digest(pair.target)


def _compare(metric: Metric, common: Sequence[tuple[dict[str, float], dict[str, float]]]) -> Comparison | None:
    values = [(a[metric.key], b[metric.key]) for a, b in common if metric.key in a and metric.key in b]
    return statistics.compare(*zip(*values)) if len(values) >= MIN_COMPARED else None
