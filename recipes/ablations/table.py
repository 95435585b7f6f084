"""From what was measured of each configuration to a table (Markdown and CSV) and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vconv.config import ConversionConfig
from vconv.evaluation.probe_figures import CODE_RATE
from vconv.evaluation.results import p_value
from vconv.evaluation.statistics import Estimate, compare
from vconv.evaluation.tables import to_csv
from vconv.files import replacing, write_text

PROBED, JUDGED, SETTINGS = "probe/probe.json", "evaluation/results.json", "config.json"  # in a configuration's folder


@dataclass(frozen=True)
class Column:
    """``key`` of vconv probe's or vconv evaluate's results; people are shown the value times ``factor``."""

    key: str
    title: str
    factor: float = 100.0
    places: int = 0


COLUMNS = (
    Column("rebuilt_error", "rebuilt mel, dB ↓", 1.0, 2),
    Column("speaker_from_code", "speaker accuracy from the code, % ↓"),
    Column("phone_from_code", "phone accuracy from code vectors, % ↑"),
    Column("phone_from_pseudo_labels", "phone accuracy from code indices, % ↑"),
    Column("phone_information", "phone information per codebook, % ↑"),
    Column("sim_target", "SIM ↑", 1.0, 3),
    Column("wer", "WER, % ↓"),
    Column("bits_per_second", "bit/s in use", 1.0),
    Column("bits_at_most", "bit/s at most", 1.0),
)


COMPARED = ("rebuilt_error", "speaker_from_code", "phone_from_code", "phone_from_pseudo_labels")  # with the first row's


@dataclass(frozen=True)
class Row:
    """A configuration; what was not measured of it is not among the figures."""

    name: str
    figures: dict[str, Estimate] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    clips: dict[str, list[float]] = field(default_factory=dict)  # values of single clips, where a figure has them


# ---------------------------------------------------------------- reading


def read_row(folder: Path) -> Row:
    """What lies in a configuration's folder, whose name is the configuration's."""
    figures: dict[str, Estimate] = {}
    chance: dict[str, float] = {}
    clips: dict[str, list[float]] = {}
    for key, found in _json(folder / PROBED).get("figures", {}).items():
        figures[key], clips[key] = _estimate(found), found["rows"]
        if found["chance"] is not None:
            chance[key] = found["chance"]
    for found in _json(folder / JUDGED).get("systems", {}).values():
        figures |= {key: _estimate(estimate) for key, estimate in found.items()}
    # A configuration that has only begun has nothing but settings.
    if figures and (bits := bits_at_most(_json(folder / SETTINGS))) is not None:
        figures["bits_at_most"] = Estimate(bits, math.nan, math.nan, 1)
    return Row(folder.name, figures, chance, clips)


def bits_at_most(settings: dict[str, Any]) -> float | None:
    """Of the code a second, by a training's settings; None where the bottleneck has no codes."""
    from vconv.config import build

    if not settings:
        return None
    bits = build(ConversionConfig, settings.get("model", {})).bottleneck.bits_per_frame
    return bits * CODE_RATE if math.isfinite(bits) else None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _estimate(found: dict[str, Any]) -> Estimate:
    low, high = (math.nan if found.get(name) is None else found[name] for name in ("low", "high"))
    return Estimate(found["value"], low, high, found.get("count", 0))


# ---------------------------------------------------------------- the table


def markdown(rows: Sequence[Row]) -> str:
    """A line for each row that has any figures, intervals in brackets."""
    lines = ["| | " + " | ".join(column.title for column in COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    lines += [
        f"| {row.name} | " + " | ".join(_cell(column, row.figures.get(column.key)) for column in COLUMNS) + " |"
        for row in rows
        if row.figures
    ]
    told = {column.key: _chances(rows, column) for column in COLUMNS}
    guesses = [
        f"{column.title.rstrip(' ↓↑').removesuffix(', %')} {told[column.key]}" for column in COLUMNS if told[column.key]
    ]
    if guesses:
        lines += ["", f"Guessing gives, in %: {'; '.join(guesses)}. In brackets: 95 % intervals over clips."]
    return "\n".join(lines) + "\n"


def differences(rows: Sequence[Row]) -> str:
    """How far each row lies from the first one on the same clips, with the p of a sign-flip test."""
    columns = [column for column in COLUMNS if column.key in COMPARED]
    first, *others = rows
    header = [title for column in columns for title in (column.title, "p")]
    lines = [f"| less {first.name} | " + " | ".join(header) + " |", "| --- |" + " ---: |" * len(header)]
    for row in others:
        cells = [cell for column in columns for cell in _difference(column, row, first)]
        if any(cell != "–" for cell in cells):
            lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(column: Column, row: Row, first: Row) -> tuple[str, str]:
    """The difference with its interval, and p; the clips' mean, where the table has a ratio over their frames."""
    own, other = row.clips.get(column.key, []), first.clips.get(column.key, [])
    if not own or len(own) != len(other):
        return "–", "–"
    found = compare(own, other)
    value, low, high = (f"{column.factor * x:+.{column.places}f}" for x in (found.difference, found.low, found.high))
    return f"{value} ({low} to {high})", p_value(found.p)


def _chances(rows: Sequence[Row], column: Column) -> str:
    """What guessing gives, where that is more than nothing."""
    found = sorted({f"{100 * row.chance[column.key]:.0f}" for row in rows if row.chance.get(column.key)})
    return " or ".join(found)


def _cell(column: Column, estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "–"
    value, low, high = (
        f"{column.factor * number:.{column.places}f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return value if math.isnan(estimate.low) else f"{value} ({low}–{high})"


def comma_separated(rows: Sequence[Row]) -> str:
    """A line for every figure of every configuration, in its own unit; unknown bounds are empty."""
    table = [["configuration", "figure", "value", "low", "high", "chance"]]
    for row in rows:
        for key, estimate in row.figures.items():
            numbers = estimate.value, estimate.low, estimate.high, row.chance.get(key, math.nan)
            table.append([row.name, key, *("" if math.isnan(number) else f"{number:.5g}" for number in numbers)])
    return to_csv(table)


# ---------------------------------------------------------------- the plot

PANELS: tuple[tuple[str, str, Callable[[float], float]], ...] = (
    ("phone_from_code", "phone accuracy from code vectors (%)", lambda share: 100 * share),
    ("wer", "words kept by conversion: 100 % − WER (%)", lambda share: 100 * (1 - share)),
)


def plot(rows: Sequence[Row], path: Path) -> None:
    """What of the words is kept against what of the speaker is removed, a point a configuration, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    named = []
    for axes, (key, label, convert) in zip(figure.subplots(1, len(PANELS)), PANELS):
        points = [row for row in rows if key in row.figures and "speaker_from_code" in row.figures]
        axes.set(xlabel="speaker removed: 100 % − speaker accuracy (%)", ylabel=label)
        axes.grid(alpha=0.3)
        places = []
        for number, row in enumerate(points):
            x, y = row.figures["speaker_from_code"], row.figures[key]
            place = 100 * (1 - x.value), convert(y.value)
            spread = (_reach(x, lambda share: 100 * (1 - share)), _reach(y, convert))
            axes.errorbar(*place, xerr=spread[0], yerr=spread[1], fmt="o", ms=5, color=_color(number), ecolor="0.8")
            places.append(place)
        named.append((axes, [row.name for row in points], places))
    figure.draw_without_rendering()  # until then nobody knows which point of the data is where
    for axes, names, places in named:
        _name(axes, names, places)
    _save(figure, path)


def _reach(estimate: Estimate, convert: Callable[[float], float]) -> list[list[float]]:
    """How far the interval reaches below and above the value, as matplotlib takes it."""
    value, *ends = (convert(number) for number in (estimate.value, estimate.low, estimate.high))
    return [[max(0.0, value - min(ends))], [max(0.0, max(ends) - value)]]


def _name(axes: Any, names: Sequence[str], places: Sequence[tuple[float, float]]) -> None:
    """Write each point's name right of it, moved up as far as others' names ask for, with a line to it."""
    transform, taken = axes.transData.transform, []
    for k in sorted(range(len(names)), key=lambda k: places[k][1]):
        x, y = transform(places[k])
        right = x + 6 * len(names[k]) + 8
        while any(abs(y - other) < 11 and x < ends and begins < right for begins, ends, other in taken):
            y += 1
        taken.append((x, right, y))
        move = (6 * 72 / axes.figure.dpi, (y - transform(places[k])[1]) * 72 / axes.figure.dpi - 3)
        line = {"arrowstyle": "-", "lw": 0.5, "color": _color(k), "shrinkA": 0}
        style = {"textcoords": "offset points", "fontsize": 7.5, "color": _color(k), "arrowprops": line}
        axes.annotate(names[k].replace("_", " "), places[k], move, **style)


def _color(number: int) -> str:
    """Of a point and its name"""
    return f"C{number % 10}"


def _save(figure: Any, path: Path) -> None:
    """The picture appears whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def write(rows: Sequence[Row], folder: Path) -> None:
    """table.md with what differs from the first row, table.csv and plot.png, all of the rows that have figures.

    Raises:
        InputError: the folder cannot be written to.
    """
    measured = [row for row in rows if row.figures]
    if not measured:
        return
    write_text(folder / "table.md", f"{markdown(measured)}\n{differences(measured)}")
    write_text(folder / "table.csv", comma_separated(measured))
    plot(measured, folder / "plot.png")
