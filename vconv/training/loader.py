"""A sampler's batches as tensors on the training device, the same however many processes share a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vconv.processes import die_with_parent

Finish = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Sampler(Protocol):
    seed: int

    def batch(self, step: int, rank: int) -> Any:
        """A dataclass or a dictionary of arrays, which depends on the seed and the two numbers alone."""


class _Batches(Dataset):
    """A sampler's batches by (step, rank), as tensors."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __getitem__(self, place: tuple[int, int]) -> tuple[tuple[int, int], dict[str, Tensor]]:
        return place, to_tensors(self.sampler.batch(*place), torch.device("cpu"))


def draw(
    sampler: Sampler,
    steps: range,
    accelerator: Accelerator,
    workers: int,
    finish: Finish | None = None,
) -> Iterator[dict[str, Tensor]]:
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
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        yield finish(batch) if finish else batch


def to_tensors(batch: Any, device: torch.device) -> dict[str, Tensor]:
    """A batch's arrays by field name, or by key, on the device."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(value)).to(device, non_blocking=True)
        for name, value in (batch if isinstance(batch, dict) else vars(batch)).items()
    }
