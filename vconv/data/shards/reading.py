"""Streams of samples: each shard is read by one process or worker, from the beginning to the end, in bounded memory.

What a consumer sees is a function of the seed, the epoch and its number among all consumers: in an epoch, all of them
together see each sample once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv.data.manifest import TRAIN
from vconv.data.shards.format import Sample, Shard, open_index
from vconv.data.shards.tar import read_samples
from vconv.errors import InputError

BUFFER = 1000  # samples that are mixed
BUFFER_BYTES = 256 << 20  # of these at most, whatever their number


@dataclass(frozen=True)
class Consumer:
    """One of the workers of one of the processes that share an epoch."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1  # of each process

    @property
    def number(self) -> int:
        """Among all: neighbours are of different processes, so that these get as many shards as one another."""
        return self.worker * self.ranks + self.rank

    @property
    def count(self) -> int:
        return self.ranks * self.workers


def shards_of(folder: Path, split: str, seed: int, epoch: int, consumer: Consumer = Consumer()) -> list[Shard]:
    """The shards that a consumer reads in an epoch, in their order.

    Raises:
        InputError: the folder holds no finished shards, or fewer of the split than there are consumers.
    """
    shards = [shard for shard in open_index(folder).shards if shard.split == split and shard.clips]
    if not shards:
        raise InputError(f"{folder}: holds no clip of the split '{split}'")
    if len(shards) < consumer.count:
        raise InputError(
            f"{folder}: {len(shards)} shards of '{split}' for {consumer.count} readers; use fewer workers or "
            "processes, or make shorter shards (--shard-minutes)"
        )
    order = np.random.default_rng([seed, epoch]).permutation(len(shards))
    return [shards[k] for k in order[consumer.number :: consumer.count]]


def stream(
    folder: Path,
    split: str = TRAIN,
    *,
    seed: int = 0,
    epochs: int | None = None,
    consumer: Consumer = Consumer(),
    buffer: int = BUFFER,
    buffer_bytes: int = BUFFER_BYTES,
) -> Iterator[Sample]:
    """Samples of shards in random order, epoch after epoch.

    Args:
        epochs: None goes on for ever.
        consumer: who reads; the others read the other shards.
        buffer: samples that are mixed, 1 for the shards' own order.
        buffer_bytes: that they take at most.

    Raises:
        InputError: as ``shards_of``, or a shard is damaged or hostile.
    """
    for epoch in itertools.count() if epochs is None else range(epochs):
        shards = shards_of(folder, split, seed, epoch, consumer)
        samples = itertools.chain.from_iterable(read_samples(folder / shard.file) for shard in shards)
        yield from shuffled(samples, np.random.default_rng([seed, epoch, consumer.number]), buffer, buffer_bytes)


def shuffled(samples: Iterable[Sample], rng: np.random.Generator, count: int, size: int) -> Iterator[Sample]:
    """All samples, each one drawn from the ``count`` next ones, or as many as fit in ``size`` bytes."""
    held: list[Sample] = []
    total = 0
    for sample in samples:
        held.append(sample)
        total += sample.size
        while len(held) >= count or (total > size and held):
            drawn = _draw(held, rng)
            total -= drawn.size
            yield drawn
    while held:
        yield _draw(held, rng)


def _draw(held: list[Sample], rng: np.random.Generator) -> Sample:
    """One of them, in whose place the last one comes."""
    place = int(rng.integers(len(held)))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()
