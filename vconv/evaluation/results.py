"""An evaluation on the terminal, as CSV and as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vconv
from vconv.evaluation.figures import HEADLINES, METRICS, Contest, Metric, Row
from vconv.evaluation.languages import shown_metrics
from vconv.evaluation.pairs import FILES
from vconv.evaluation.statistics import Comparison, Estimate
from vconv.evaluation.tables import to_csv
from vconv.files import write_text

if TYPE_CHECKING:
    from rich.table import Table

    from vconv.evaluation.run import Evaluation

SIGNIFICANT = 0.05
_BESIDE = 3  # systems in one table


def write_results(evaluation: Evaluation, folder: Path) -> None:
    """rows.csv, summary.csv and results.json, each whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_text(folder / "rows.csv", rows_csv(evaluation.rows))
    write_text(folder / "summary.csv", summary_csv(evaluation))
    write_text(folder / "results.json", json.dumps(as_json(evaluation), indent=1) + "\n")


# ---------------------------------------------------------------- tables of numbers


def used_metrics(evaluation: Evaluation) -> list[Metric]:
    """Those that at least one system has."""
    return [metric for metric in METRICS if any(metric.key in found for found in evaluation.systems.values())]


def rows_csv(rows: Sequence[Row]) -> str:
    """A line for every judged pair: what it is, every figure in its own unit, and the texts."""
    extra = list(dict.fromkeys(name for row in rows for name, _ in row.pair.extra))
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    taken = {"line", "system", "language", *FILES, *names, "expected", "recognized"}
    of_table = [f"table_{name}" if name in taken else name for name in extra]
    header = ["line", *of_table, "system", "language", *FILES, *names]
    table: list[list[object]] = [[*header, "expected", "recognized"]]
    for row in rows:
        pair, given = row.pair, dict(row.pair.extra)
        files = [getattr(pair, name) or "" for name in FILES]
        figures = [_plain(row.figures.get(name)) for name in names]
        cells = [pair.line, *(given.get(name, "") for name in extra), pair.system, pair.language, *files, *figures]
        table.append([*cells, row.expected, row.recognized])
    return to_csv(table)


def summary_csv(evaluation: Evaluation) -> str:
    """A line for every system and metric, over all languages and of each: value, 95 % interval, number of rows."""
    table: list[list[object]] = [["system", "metric", "value", "low", "high", "rows", "language"]]
    for language, systems in {"all": evaluation.systems, **evaluation.languages}.items():
        for system, found in systems.items():
            for key, e in found.items():
                table.append([system, key, _plain(e.value), _plain(e.low), _plain(e.high), e.count, language])
    return to_csv(table)


def _plain(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything but the clips. Unknown bounds are null."""
    return {
        "vconv": vconv.__version__,
        "judges": evaluation.judges,
        "systems": _systems_as_json(evaluation.systems),
        "languages": {language: _systems_as_json(systems) for language, systems in evaluation.languages.items()},
        "contests": [
            {
                "first": contest.first,
                "second": contest.second,
                "pairs": contest.pairs,
                "metrics": {key: _finite(vars(comparison)) for key, comparison in contest.comparisons.items()},
            }
            for contest in evaluation.contests
        ],
        "rows": [
            {
                "line": row.pair.line,
                **{name: str(getattr(row.pair, name) or "") for name in FILES},
                "system": row.pair.system,
                "language": row.pair.language,
                "table": dict(row.pair.extra),
                "figures": row.figures,
                "expected": row.expected,
                "recognized": row.recognized,
            }
            for row in evaluation.rows
        ],
        "bad_rows": [vars(bad) for bad in evaluation.bad],
        "missing": evaluation.missing,
    }


def _systems_as_json(systems: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    return {name: {key: _finite(vars(estimate)) for key, estimate in found.items()} for name, found in systems.items()}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


# ---------------------------------------------------------------- for people


def show(evaluation: Evaluation) -> None:
    """Print the tables, who beats whom, and what was not measured."""
    from rich.console import Console

    # Where nobody watches, as in a file, a line may be as long as it has to be.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    for table in (*summary_tables(evaluation), *language_tables(evaluation)):
        console.print(table)
    for line in (*contest_lines(evaluation.contests), *evaluation.missing):
        console.print(line, markup=False)


def arrow(metric: Metric) -> str:
    """Which way is better."""
    return {1: " ↑", -1: " ↓", 0: ""}[metric.better]


def interval(metric: Metric, estimate: Estimate) -> str:
    """The 95 % interval as text, empty where there is none."""
    if math.isnan(estimate.low):
        return ""
    return f"{metric.show(estimate.low)} to {metric.show(estimate.high)}"


def summary_tables(evaluation: Evaluation) -> list[Table]:
    """Metrics by systems, each value over its interval; many systems take several tables."""
    names = list(evaluation.systems)
    return [_summary_table(evaluation, names[at : at + _BESIDE]) for at in range(0, len(names), _BESIDE)]


def _summary_table(evaluation: Evaluation, names: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table("mean, 95 % interval")
    for name in names:
        table.add_column(f"{_literal(name)} ({_count(evaluation, name)})", justify="right")
    for metric in used_metrics(evaluation):
        cells = [_cell(metric, evaluation.systems[name].get(metric.key)) for name in names]
        table.add_row(metric.title + arrow(metric), *cells)
    return table


def language_tables(evaluation: Evaluation) -> list[Table]:
    """Languages by metrics, a line for each system; none where all rows are of one language."""
    if not evaluation.languages:
        return []
    from rich.table import Table

    metrics = shown_metrics(evaluation.languages)
    table = Table("language", "system", "pairs")
    for metric in metrics:
        table.add_column(metric.title + arrow(metric), justify="right")
    for language, systems in evaluation.languages.items():
        for name, found in systems.items():
            count = sum((row.pair.language, row.pair.system) == (language, name) for row in evaluation.rows)
            cells = [_cell(metric, found.get(metric.key)) for metric in metrics]
            table.add_row(language, _literal(name), str(count), *cells)
    return [table]


def _cell(metric: Metric, estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    bounds = interval(metric, estimate)
    return f"{metric.show(estimate.value)} [dim]({bounds})[/dim]" if bounds else metric.show(estimate.value)


def contest_lines(contests: Sequence[Contest]) -> list[str]:
    """For every two systems, on which headline metrics they differ beyond chance, and which is better there."""
    lines = []
    for contest in contests:
        wins: dict[str, list[str]] = {contest.first: [], contest.second: []}
        for metric in METRICS:
            comparison = contest.comparisons.get(metric.key) if metric.key in HEADLINES else None
            if comparison is not None and comparison.p < SIGNIFICANT:
                wins[_winner(contest, metric, comparison)].append(
                    f"{metric.label} (by {metric.show(abs(comparison.difference))}, p {p_value(comparison.p)})"
                )
        told = [f"{name} is better in {', '.join(found)}" for name, found in wins.items() if found]
        what = "; ".join(told) or "no difference beyond chance"
        lines.append(f"{contest.first} and {contest.second}, {contest.pairs} pairs: {what}")
    return lines


def _winner(contest: Contest, metric: Metric, comparison: Comparison) -> str:
    return contest.first if comparison.difference * metric.better > 0 else contest.second


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _count(evaluation: Evaluation, system: str) -> int:
    return sum(row.pair.system == system for row in evaluation.rows)


def _literal(text: str) -> str:
    """Text in which rich sees no markup."""
    from rich.markup import escape

    return escape(text)
