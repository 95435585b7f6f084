"""Shards in a ``torch.utils.data.DataLoader``: each worker of each process reads its own shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from vconv.data.manifest import TRAIN
from vconv.data.shards import BUFFER, Consumer, Sample, stream


class ShardStream(IterableDataset):
    """Decoded samples of a folder of shards; see ``vconv.data.shards.stream``.

    Args:
        decode: what to yield of a sample; workers call it.
        rank: number of this process among ``ranks``, as ``Accelerator.process_index`` of ``num_processes``.
    """

    def __init__(
        self,
        folder: Path,
        decode: Callable[[Sample], Any],
        *,
        split: str = TRAIN,
        seed: int = 0,
        epochs: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        buffer: int = BUFFER,
    ) -> None:
        self.folder, self.decode, self.split, self.seed = folder, decode, split, seed
        self.epochs, self.rank, self.ranks, self.buffer = epochs, rank, ranks, buffer

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        consumer = Consumer(self.rank, self.ranks, *((worker.id, worker.num_workers) if worker else ()))
        samples = stream(
            self.folder, self.split, seed=self.seed, epochs=self.epochs, consumer=consumer, buffer=self.buffer
        )
        return map(self.decode, samples)
