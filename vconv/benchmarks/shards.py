"""``python -m vconv.benchmarks.shards``: memory and speed of streaming a corpus of very many clips from shards."""

from __future__ import annotations

import dataclasses
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from vconv.benchmarks.prepare import CLIPS, make_links
from vconv.benchmarks.speed import Run, machine
from vconv.data.manifest import prepare
from vconv.data.shards import INDEX, open_index, stream, write_shards
from vconv.data.shards.format import index_json
from vconv.errors import VconvError
from vconv.files import write_text

CLIPS_A_SHARD = 500


def short_clip(path: Path) -> Path:
    """The beginning of an example's second second."""
    wave, rate = soundfile.read(CLIPS[0])
    soundfile.write(path, wave[rate : round(1.6 * rate)], rate)
    return path


def make_shard(folder: Path, clips: list[Path]) -> Path:
    """A folder with one shard, of links to a few clips."""
    make_links(folder / "clips", clips, CLIPS_A_SHARD)
    prepare(folder / "clips", folder / "corpus.tsv", valid_percent=0, jobs=1)
    write_shards(folder / "corpus.tsv", folder / "one", minutes=1e6)
    return folder / "one"


def repeat(folder: Path, count: int, output: Path) -> None:
    """The shard of a folder under so many names."""
    index = open_index(folder)
    shard = index.shards[0]
    output.mkdir()
    shards = [dataclasses.replace(shard, file=f"train-{number:06d}.tar") for number in range(count)]
    for each in shards:
        (output / each.file).hardlink_to(folder / shard.file)
    write_text(output / INDEX, index_json(dataclasses.replace(index, shards=tuple(shards))))


def read(folder: Path) -> tuple[int, Run]:
    """Decode audio and F0 of each sample once, in a process of its own: samples, seconds and peak memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_read, folder).result()


def _read(folder: Path) -> tuple[int, Run]:
    begun, count = time.perf_counter(), 0
    for sample in stream(folder, epochs=1):
        sample.wave(), sample.f0(), sample.clip()
        count += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return count, Run(time.perf_counter() - begun, peak)


def benchmark(
    clips: Annotated[list[Path] | None, typer.Argument(help="Clips to link to; default: 0.6 s of an example.")] = None,
    count: Annotated[int, typer.Option(min=10 * CLIPS_A_SHARD, help="Clips of the largest corpus.")] = 100_000,
) -> None:
    """Stream a tenth of the clips and all of them, and print a Markdown table: memory should be the same."""
    print(
        f"{machine()}\n\n| clips | MB | clips a second | peak memory, MiB |\n| ---: | ---: | ---: | ---: |", flush=True
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            one = make_shard(Path(folder), clips or [short_clip(Path(folder) / "short.flac")])
            for total in (count // 10, count):
                place = Path(folder) / str(total)
                repeat(one, total // CLIPS_A_SHARD, place)
                found, run = read(place)
                size = sum(shard.bytes for shard in open_index(place).shards) / 1e6
                print(f"| {found} | {size:.0f} | {found / run.seconds:.0f} | {run.memory:.0f} |", flush=True)
        except VconvError as error:
            print(f"vconv.benchmarks: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(benchmark)
