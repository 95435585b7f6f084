"""Start-up, speed and memory of the `vconv` program, each measured on a process from its start to its exit."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import vconv
from vconv import audio
from vconv.errors import VconvError
from vconv.inference.loading import available_cores

EXAMPLES = Path(vconv.__file__).resolve().parent.parent / "examples"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# What the project promises on a 2-core machine.
HELP_SECONDS = 0.4
SHORT_CLIP, SHORT_CLIP_SECONDS = 5, 1.5
LONG_CLIP, REAL_TIME_FACTOR = 60, 0.08
PEAK_MEMORY_MIB = 1024


@dataclass(frozen=True)
class Run:
    """What one process took."""

    seconds: float  # wall clock, start to exit
    memory: float | None  # peak resident set in MiB; None where the system does not tell


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    unit: str
    limit: float
    how: str


def run_vconv(*arguments: object) -> Run:
    """Run `vconv` with one thread.

    Raises:
        VconvError: it failed.
    """
    command = [sys.executable, "-m", "vconv", *map(str, arguments)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    memory = None
    if hasattr(os, "wait4"):  # for this one process; getrusage would give the largest of all children
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    _, errors = process.communicate()
    if process.returncode:
        raise VconvError(f"{' '.join(command)} failed: {errors.strip()}")
    return Run(time.perf_counter() - started, memory)


def loop_clip(clip: Path, seconds: float, output: Path) -> Path:
    """Write ``seconds`` of a clip said over and over; in blocks, so that this process stays small itself."""
    wave, rate = audio.read(clip)
    left = round(seconds * rate)
    with audio.AudioWriter(output, rate) as writer:
        while left:
            block = wave[:left]
            writer.write(block)
            left -= len(block)
    return output


def measure(source: Path, target: Path, model: Path | None, repeats: int, minutes: float) -> list[Row]:
    """All measurements, one after the other."""
    rows = []
    help_times = [run_vconv("--help").seconds for _ in range(repeats + 1)][1:]
    rows.append(Row("vconv --help", statistics.median(help_times), "s", HELP_SECONDS, _median_of(repeats)))
    options = ["--target", target, "--threads", 1, "--overwrite", *(["--model", model] if model else [])]
    with tempfile.TemporaryDirectory() as folder:
        output = ["--output", Path(folder) / "out.wav", *options]
        clip = loop_clip(source, SHORT_CLIP, Path(folder) / "short.wav")
        times = [run_vconv("convert", clip, *output).seconds for _ in range(repeats + 1)][1:]
        rows.append(
            Row(f"convert {SHORT_CLIP} s", statistics.median(times), "s", SHORT_CLIP_SECONDS, _median_of(repeats))
        )
        clip = loop_clip(source, LONG_CLIP, Path(folder) / "long.wav")
        times = [run_vconv("convert", clip, *output).seconds / LONG_CLIP for _ in range(repeats)]
        how = f"{_median_of(repeats)}, divided by the length"
        rows.append(Row(f"convert {LONG_CLIP} s", statistics.median(times), "× real time", REAL_TIME_FACTOR, how))
        if minutes:
            clip = loop_clip(source, 60 * minutes, Path(folder) / "longest.wav")
            longest = run_vconv("convert", clip, *output)
            what = f"convert {minutes:g} min"
            how = "process start to exit, 1 run, divided by the length"
            rows.append(Row(what, longest.seconds / (60 * minutes), "× real time", REAL_TIME_FACTOR, how))
            if longest.memory is not None:
                how = "peak resident set of the process, 1 run (wait4)"
                rows.append(Row(what, longest.memory, "MiB", PEAK_MEMORY_MIB, how))
    return rows


def _median_of(repeats: int) -> str:
    return f"process start to exit, median of {repeats} runs"


def machine() -> str:
    """What it was measured on, in one line."""
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    return f"vconv {vconv.__version__} with one thread on {available_cores()} cores{load}; {system}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | measured | limit | how |", "| --- | --- | --- | --- |"]
    for row in rows:
        verdict = "" if row.value <= row.limit else " (over)"
        measured = f"{row.value:.3g}" if row.value < 100 else f"{row.value:.0f}"
        lines.append(f"| {row.what} | {measured} {row.unit}{verdict} | {row.limit:g} {row.unit} | {row.how} |")
    return "\n".join(lines)


def benchmark(
    source: Annotated[Path, typer.Argument(help="Clip to convert, said over and over.")] = EXAMPLES / "source.flac",
    target: Annotated[Path, typer.Argument(help="Clip of the voice to convert to.")] = EXAMPLES / "target.flac",
    model: Annotated[Path | None, typer.Option(help="Model folder; default: the included model.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs that a median is taken of.")] = 5,
    minutes: Annotated[float, typer.Option(min=0, help="Length of the longest clip; 0 skips it.")] = 60,
) -> None:
    """Measure start-up, speed and memory of vconv with one thread, and print a Markdown table."""
    header = machine()
    try:
        rows = measure(source, target, model, repeats, minutes)
    except VconvError as error:
        print(f"vconv.benchmarks: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    print(header, table(rows), sep="\n\n")


def main() -> None:
    typer.run(benchmark)
