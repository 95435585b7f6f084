"""Figures of each language in a table that has several."""

from __future__ import annotations

from collections.abc import Iterable

from vconv.evaluation.figures import METRICS, Metric, Row, by_system, estimates
from vconv.evaluation.statistics import Estimate

# In the order in which a table by language shows them: what is said, then who says it and how it sounds.
SHOWN = ("wer", "source_wer", "cer", "source_cer", "cer_loss", "sim_target", "distillmos", "f0_corr")


def by_language(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Every system's metrics on the rows of each language: {language: {system: {metric: estimate}}}.

    Empty where all rows are of one language, as the systems' own figures are the same then.
    """
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.pair.language, []).append(row)
    if len(parts) < 2:
        return {}
    return {
        language: {system: estimates(of_system) for system, of_system in by_system(part).items()}
        for language, part in sorted(parts.items())
    }


def shown_metrics(languages: dict[str, dict[str, dict[str, Estimate]]]) -> list[Metric]:
    """Columns of a table by language: those of ``SHOWN`` that any language has."""
    found = {key for systems in languages.values() for estimates_ in systems.values() for key in estimates_}
    known = {metric.key: metric for metric in METRICS}
    return [known[key] for key in SHOWN if key in found]
