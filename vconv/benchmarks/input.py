"""``python -m vconv.benchmarks.input``: clips a second that reach a training from shards, by the number of workers."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from accelerate import Accelerator
from torch.utils.data import DataLoader

from vconv.benchmarks.prepare import CLIPS, make_links
from vconv.benchmarks.speed import machine
from vconv.data.batches import BatchConfig, ConversionSampler
from vconv.data.corpus import load_corpus
from vconv.data.decoded import Decoded
from vconv.data.manifest import prepare
from vconv.data.shards import Sample, write_shards
from vconv.data.shards.store import ShardStore
from vconv.errors import VconvError
from vconv.processes import die_with_parent
from vconv.training.device_batches import device_input
from vconv.training.loader import draw
from vconv.training.shard_stream import ShardStream

BUFFER = 100  # samples that a stream mixes
WARM_UP = 2  # batches that are not counted: workers start, kernels are loaded


def decode(sample: Sample) -> int:
    """Decode a sample's audio and F0; its frames."""
    return min(len(sample.steps()), len(sample.f0()))


def example_shards(folder: Path, count: int, shards: int) -> Path:
    """So many shards of links to the examples."""
    make_links(folder / "clips", CLIPS, count)
    found = prepare(folder / "clips", folder / "corpus.tsv", valid_percent=0, jobs=1)
    minutes = found.parts["train"].seconds / 60 / (shards + 0.5)
    write_shards(folder / "corpus.tsv", folder / "shards", minutes=minutes)
    return folder / "shards"


def streamed(folder: Path, workers: int, clips: int) -> float:
    """Clips a second that are read from the beginning to the end and decoded."""
    loader = DataLoader(
        ShardStream(folder, decode, buffer=BUFFER),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=die_with_parent,
    )
    return rate_of(loader, clips, 1)


def drawn(folder: Path, workers: int, clips: int, on_device: bool, asr_encoder: str, config: BatchConfig) -> float:
    """Items a second of batches for the conversion model, with features made on the device or by the workers."""
    shards, accelerator = ShardStore(folder), Accelerator()
    corpus, _ = load_corpus(Decoded(shards, asr_encoder), shards.clips)
    if on_device:
        sampler, finish = device_input(corpus, config, 0, asr_encoder, "", accelerator.device)
    else:
        sampler, finish = ConversionSampler(corpus, config, 0), None
    steps = range(WARM_UP + -(-clips // config.items))
    return rate_of(draw(sampler, steps, accelerator, workers, finish), clips, config.items)


def rate_of(batches: Iterable[object], clips: int, items: int) -> float:
    """Clips a second, when the first batches have come; ``items`` are the clips of a batch."""
    count, left = -(-clips // items), iter(batches)
    for _ in islice(left, WARM_UP):
        pass
    begun = time.perf_counter()
    taken = sum(1 for _ in islice(left, count))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken * items / (time.perf_counter() - begun)


def rows(folder: Path, workers: Sequence[int], clips: int, asr_encoder: str, config: BatchConfig) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| workers | shards streamed | batches, features on the device | batches, features by the workers |"
    yield "| ---: | ---: | ---: | ---: |"
    for count in workers:
        rates = [streamed(folder, count, clips)]
        rates += [drawn(folder, count, clips, on_device, asr_encoder, config) for on_device in (True, False)]
        yield f"| {count} | " + " | ".join(f"{rate:.3g}" for rate in rates) + " |"


def benchmark(
    shards: Annotated[
        Path | None, typer.Argument(help="Folder of `vconv prepare --shards`; default: shards of the examples.")
    ] = None,
    workers: Annotated[str, typer.Option(help="Numbers of workers, divided by commas.")] = "0,1,2,4,8",
    clips: Annotated[int, typer.Option(min=16, help="Clips of each measurement.")] = 1000,
    asr_encoder: Annotated[str, typer.Option(help="ASR encoder (ONNX) whose features the batches have.")] = "",
) -> None:
    """Print a Markdown table of clips a second by the number of workers."""
    try:
        counts = [int(count) for count in workers.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--workers {workers}: expected numbers, for example 0,2,4") from None
    device = Accelerator().device
    name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    print(f"{machine()}; torch {torch.__version__} on {name}\n\nClips a second\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = shards or example_shards(Path(folder), 8 * max(1, *counts), max(1, *counts))
            for line in rows(place, counts, clips, asr_encoder, BatchConfig()):
                print(line, flush=True)
        except VconvError as error:
            print(f"vconv.benchmarks: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(benchmark)
