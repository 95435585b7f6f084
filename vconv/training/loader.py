"""A sampler's batches as tensors on the training device, the same however many processes share a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, default_convert

from vconv.processes import die_with_parent

Batch = TypeVar("Batch")  # a named tuple of arrays
Finish = Callable[[Any], Any]


class Sampler(Protocol):
    seed: int

    def batch(self, step: int, rank: int) -> Any:
        """A named tuple of arrays, which depends on the seed and the two numbers alone."""


class _Batches(Dataset):
    """A sampler's batches by (step, rank)."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __getitem__(self, place: tuple[int, int]) -> tuple[tuple[int, int], Any]:
        return place, self.sampler.batch(*place)


def draw(
    sampler: Sampler,
    steps: range,
    accelerator: Accelerator,
    workers: int,
    finish: Finish | None = None,
) -> Iterator[Any]:
    """This process's batches, as many a step as are accumulated; torch's random numbers are seeded for each.

    The batches of a step are numbered over all processes: two processes, one that accumulates two batches,
    and one that goes on with a run of two after a kill, all learn from the same.

    Args:
        workers: processes that make batches ahead of their use.
        finish: makes on the device what the learner gets, of what the sampler has drawn.
    """
    processes, device = accelerator.num_processes, accelerator.device
    ranks = range(accelerator.process_index, processes * accelerator.gradient_accumulation_steps, processes)
    loader = DataLoader(
        _Batches(sampler),
        batch_size=None,
        sampler=((step, rank) for step in steps for rank in ranks),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork would copy locked threads
        worker_init_fn=die_with_parent,
        pin_memory=device.type == "cuda",
    )
    for place, batch in loader:
        torch.manual_seed(int(np.random.SeedSequence([sampler.seed, *place]).generate_state(1)[0]))
        batch = send_to_device(batch, device, non_blocking=True)
        yield finish(batch) if finish else batch


def to_tensors(batch: Batch, device: torch.device) -> Batch:
    """A batch with tensors on the device in place of its arrays."""
    return send_to_device(default_convert(batch), device)
