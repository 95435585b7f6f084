#!/usr/bin/env python3
"""A Markdown table of an evaluation's figures by language, from the results.json that ``vconv evaluate`` wrote."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vconv.errors import InputError, run_script
from vconv.evaluation.figures import METRICS, Metric

SHOWN = ("source_cer", "cer", "cer_loss", "wer", "sim_target", "distillmos")
TITLES = {
    "source_cer": "CER of the source, %",
    "cer": "CER, %",
    "cer_loss": "loss of CER",
    "wer": "WER, %",
    "sim_target": "SIM",
    "distillmos": "DistillMOS",
}
BY_KEY = {metric.key: metric for metric in METRICS}


def table(results: Mapping[str, Any]) -> str:
    """A line for each language, and for each system where there are several.

    Raises:
        InputError: all rows are of one language.
    """
    if not results.get("languages"):
        raise InputError("all rows are of one language; name each row's in the column 'language'")
    counts = Counter((row["language"], row["system"]) for row in results["rows"])
    several = len(results["systems"]) > 1
    head = ["language", *(["system"] if several else []), "pairs", *(TITLES[key] for key in SHOWN)]
    lines = [head, ["---", *(["---"] if several else []), *["---:"] * (1 + len(SHOWN))]]
    for language, systems in results["languages"].items():
        for system, found in systems.items():
            cells = [_cell(BY_KEY[key], found.get(key)) for key in SHOWN]
            lines.append([language, *([system] if several else []), str(counts[language, system]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(metric: Metric, estimate: Mapping[str, float] | None) -> str:
    return "-" if estimate is None else metric.show(estimate["value"])


def read(path: Path) -> dict[str, Any]:
    """An evaluation's results.

    Raises:
        InputError: they cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not the results.json of an evaluation ({error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, metavar="results.json")
    options = parser.parse_args(arguments)
    return run_script("table_by_language.py", lambda: print(table(read(options.results))))


if __name__ == "__main__":
    sys.exit(main())
