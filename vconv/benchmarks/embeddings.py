"""``python -m vconv.benchmarks.embeddings``: `vconv embed --each` in clips a second, and its speaker encoder alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from vconv.benchmarks.prepare import CLIPS
from vconv.benchmarks.speed import machine
from vconv.errors import VconvError
from vconv.frontends.fbank import fbank
from vconv.frontends.speaker_encoder import windows
from vconv.graphs import open_graph, run_graph
from vconv.inference.loading import load
from vconv.inference.targets import speech_of
from vconv.model_folder import SPEAKER_ENCODER, default_model
from vconv.voices.corpus import Item, items_of

SAMPLE = 20  # clips whose rows are compared with `vconv embed` of each


def graph_seconds(items: Sequence[Item], model: Path | None) -> float:
    """What the speaker encoder's graph takes by itself, on one thread, for the inputs of these clips."""
    path = (model or default_model()) / SPEAKER_ENCODER
    session, seconds = open_graph(path, 1), 0.0
    for item in items:
        inputs = [fbank(window)[None] for window in windows(speech_of(item.path))]
        begun = time.perf_counter()
        for one in inputs:
            run_graph(session, path, {"fbank": one})
        seconds += time.perf_counter() - begun
    return seconds


def each_seconds(items: Sequence[Item], model: Path | None, jobs: int, output: Path) -> float:
    """Of the command `vconv embed --each` over these clips, its start included.

    Raises:
        VconvError: the command fails.
    """
    table = output.with_suffix(".tsv")
    lines = ["path\tspeaker", *(f"{Path(item.path).resolve()}\t{item.speaker}" for item in items)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "vconv", "embed", "--each", str(table), "-o", str(output), "--jobs", str(jobs)]
    if model is not None:
        command += ["--model", str(model)]
    begun = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise VconvError(f"vconv embed --each: {run.stderr.strip()}")
    return time.perf_counter() - begun


def largest_difference(table: Path, model: Path | None) -> float:
    """Between rows of the table and the embeddings of `vconv embed`, clip by clip, evenly over the table."""
    with np.load(table, allow_pickle=False) as rows:
        paths, vectors = rows["path"], rows["vector"]
    converter = load(model, "cpu", 1)
    chosen = np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(int))
    return max(float(np.abs(converter.voice(str(paths[k])).embedding - vectors[k]).max()) for k in chosen)


def benchmark(
    clips: Annotated[
        list[Path] | None, typer.Argument(help="Manifests, folders, recordings; default: examples.")
    ] = None,
    count: Annotated[int, typer.Option(min=SAMPLE, help="Clips, drawn evenly; repeated where there are fewer.")] = 500,
    jobs: Annotated[str, typer.Option(help="Numbers of processes, divided by commas.")] = "1,2",
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the included model.")] = None,
) -> None:
    """Print a Markdown table of clips a second."""
    try:
        numbers = [int(number) for number in jobs.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--jobs {jobs}: expected numbers, for example 1,2") from None
    print(f"{machine()}\n\n| | clips a second |\n| --- | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = items_of(clips or CLIPS)
            items = [found[k % len(found)] for k in np.linspace(0, max(count, len(found)) - 1, count).astype(int)]
            print(f"| speaker encoder alone | {count / graph_seconds(items, model):.1f} |", flush=True)
            for number in numbers:
                seconds = each_seconds(items, model, number, Path(folder) / f"{number}.npz")
                print(f"| `vconv embed --each --jobs {number}` | {count / seconds:.1f} |", flush=True)
            difference = largest_difference(Path(folder) / f"{numbers[-1]}.npz", model)
            print(f"\nLargest difference to `vconv embed` of {SAMPLE} clips, by element: {difference:.1e}")
        except VconvError as error:
            print(f"vconv.benchmarks: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(benchmark)
