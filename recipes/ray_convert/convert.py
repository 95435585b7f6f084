"""Convert a corpus to one voice on a Ray cluster: paths -> actors that each hold the networks -> files and a table.

    python recipes/ray_convert/convert.py recipes/ray_convert/config.yaml --set target=speaker.wav ...

README.md beside this file says what is needed and what happens when something fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import ray
from pyarrow import csv

from vconv.batch import Conversion, Folders, Job, Plan, attempt
from vconv.config import build
from vconv.config_files import load_yaml
from vconv.data.manifest import scan_manifest
from vconv.errors import InputError, VconvError, run_script
from vconv.evaluation.tables import harmless

SUFFIX = ".wav"
RESULTS = "results.csv"  # in the output folder
SCHEMA = pyarrow.schema(
    [
        ("source", pyarrow.string()),
        ("output", pyarrow.string()),
        ("seconds", pyarrow.float64()),
        ("error", pyarrow.string()),
    ]
)


@dataclass(frozen=True)
class Config:
    sources: tuple[str, ...]  # manifests (.tsv), folders and files
    target: tuple[str, ...]  # clips of the voice, or a saved voice
    output: str  # folder, which every node sees under this name
    model: str = ""  # folder; empty: the weights that come with vconv
    pitch: float = 0.0  # semitones
    keep_pitch: bool = False
    device: str = "cpu"  # of the actors: cpu, or cuda with gpus > 0
    actors: int = 0  # as many as the cluster's CPUs (or GPUs) hold, where 0
    cpus: int = 1  # an actor
    gpus: float = 0.0  # an actor; a fraction shares one
    batch: int = 16  # files that an actor is given at a time
    address: str = ""  # of a running cluster, as "auto"; empty: Ray is started here


class Worker:
    """One actor: converts files one after the other, and says of each how it went."""

    def __init__(self, conversion: Conversion) -> None:
        self._conversion = conversion

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        seconds, errors = [], []
        for source, output in zip(rows["source"], rows["output"]):
            outcome = self._make(Job(Path(source), Path(output)))
            failed = isinstance(outcome, VconvError)
            seconds.append(0.0 if failed else outcome)
            errors.append(str(outcome) if failed else "")
        return {"source": rows["source"], "output": rows["output"], "seconds": seconds, "error": errors}

    def _make(self, job: Job) -> float | VconvError:
        if job.output.exists():  # Ray gives the files of an actor that died to another one, and some were done
            return 0.0
        return attempt(self._conversion, job)


def find(config: Config) -> Iterator[Job | VconvError]:
    """What is to be done: a folder's and a manifest's folders are kept in the output folder."""
    output = Path(config.output)
    label = Path(config.target[0]).stem

    def rename(stem: str) -> str:
        return f"{stem}_as_{label}"

    tables = [Path(source) for source in config.sources if source.endswith(".tsv")]
    others = [Path(source) for source in config.sources if not source.endswith(".tsv")]
    for table in tables:
        for clip in scan_manifest(table):
            inside = (
                clip.path.relative_to(table.parent).parent if clip.path.is_relative_to(table.parent) else clip.speaker
            )
            place = output / inside / f"{rename(clip.path.stem)}{SUFFIX}"
            yield Job(clip.path.absolute(), place, finished=place.exists())
    if others:
        protected = tuple(map(Path, config.target))
        yield from Plan(others, output, rename, SUFFIX, skip_existing=True, protected=protected)


def table_of(jobs: Iterable[Job], rows: int) -> list[pyarrow.Table]:
    """The jobs as blocks of so many absolute paths: a million take some hundred megabytes on the driver."""
    blocks = []
    jobs = iter(jobs)
    while some := list(itertools.islice(jobs, rows)):
        places = [(os.path.abspath(job.source), os.path.abspath(job.output)) for job in some]
        blocks.append(pyarrow.table(dict(zip(("source", "output"), zip(*places)))))
    return blocks


def convert(config: Config) -> dict[str, int]:
    """Run it; returns how many files were made, were there already, and failed.

    Raises:
        InputError: the settings, the model or the target cannot be used.
    """
    for name in ("sources", "target"):
        if not getattr(config, name):
            raise InputError(f"{name}: is empty; name one with --set {name}=[...]")
    counts = {"made": 0, "there": 0, "failed": 0}
    output = Path(config.output)
    bad: list[VconvError] = []
    planned: set[Path] = set()

    with Folders(clean=True) as folders:

        def todo() -> Iterator[Job]:
            for job in find(config):
                if isinstance(job, VconvError):
                    bad.append(job)
                elif job.finished:
                    counts["there"] += 1
                elif job.output in planned:
                    bad.append(InputError(f"{job.source}: would be written to {job.output}, as another is; rename one"))
                else:
                    planned.add(job.output)
                    folders.make(job.output.parent)
                    yield job

        blocks = table_of(todo(), config.batch)
        folders.make(output)
        results = output / f".{RESULTS}.partial"
        with csv.CSVWriter(results, SCHEMA) as writer:
            for error in bad:
                row = {"source": "", "output": "", "seconds": 0.0, "error": str(error)}
                writer.write(_harmless(pyarrow.Table.from_pylist([row], SCHEMA)))
            for rows in _converted(config, blocks) if blocks else ():
                writer.write(_harmless(rows.cast(SCHEMA)))
                failed = sum(map(bool, rows["error"].to_pylist()))
                counts["failed"] += failed
                counts["made"] += len(rows) - failed
        os.replace(results, output / RESULTS)
    counts["failed"] += len(bad)
    return counts


def _harmless(rows: pyarrow.Table) -> pyarrow.Table:
    """The same for a spreadsheet: no name of a file is a formula."""
    safe = [{name: harmless(cell) for name, cell in row.items()} for row in rows.to_pylist()]
    return pyarrow.Table.from_pylist(safe, SCHEMA)


def _converted(config: Config, blocks: list[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """Tables of what became of the jobs, in any order, as they are done."""
    # The driver needs no GPU to know the voice; the actors load the networks for themselves.
    here = Conversion(
        Path(config.model).absolute() if config.model else None,
        "cpu",
        None,
        list(config.target),
        config.pitch,
        config.keep_pitch,
    )
    conversion = here.elsewhere(config.device, config.cpus)
    if config.address:
        ray.init(config.address, log_to_driver=False)
    else:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        whole = ray.cluster_resources()
        fit = whole.get("GPU", 0) // config.gpus if config.gpus else whole["CPU"] // config.cpus
        jobs = sum(len(block) for block in blocks)
        actors = config.actors or max(1, min(int(fit), -(-jobs // config.batch)))
        data = ray.data.from_arrow(blocks)  # a block a batch: nothing else needs a CPU, and actors may take all
        done = data.map_batches(
            Worker,
            fn_constructor_args=(conversion,),
            batch_size=config.batch,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=config.cpus,
            num_gpus=config.gpus or None,
        )
        yield from done.iter_batches(batch_size=None, batch_format="pyarrow")
    finally:
        ray.shutdown()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Convert a corpus to one voice with Ray Data.")
    parser.add_argument("config", type=Path, help="YAML file; see config.yaml")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    return run_script("convert.py", lambda: run(options))


def run(options: argparse.Namespace) -> int:
    counts = convert(build(Config, load_yaml(options.config, options.settings), str(options.config)))
    print(f"made {counts['made']}, there already {counts['there']}, failed {counts['failed']}")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
