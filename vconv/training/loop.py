"""A run of a training under way: what surrounds the steps, the same for all trainings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from vconv.training.checkpoint import CHECKPOINT
from vconv.training.guard import StepGuard
from vconv.training.journal import Journal
from vconv.training.loader import Finish, Sampler, draw
from vconv.training.optimizer import Ema
from vconv.training.settings import Training
from vconv.training.start import Start, check_agreement, leave
from vconv.training.state import restore_state

Validation = Callable[[int], dict[str, float]]  # gets the steps done, returns measures by name


class Run:
    """Restored from its checkpoint if there is one, and prepared for all processes. To be used in a ``with`` block.

    ``bare`` holds the modules as they were given, ``modules`` and ``optimizers`` as accelerate has wrapped them.

    Args:
        modules: what is trained, by its name in the checkpoint.
        optimizers: likewise.
        exported: the module of which moving averages are kept: what comes out of the training.
        measures: names of what validation returns.
        complete_from: step from which all losses are on.
        finish: makes a batch of what the sampler has drawn, on the device.

    Raises:
        InputError: the checkpoint is of other networks, or other processes found another one.
    """

    def __init__(
        self,
        config: Training,
        start: Start,
        modules: dict[str, nn.Module],
        optimizers: dict[str, Optimizer],
        exported: nn.Module,
        sampler: Sampler,
        measures: Collection[str] = ("validation",),
        complete_from: int = 0,
        finish: Finish | None = None,
    ) -> None:
        parts: dict[str, Any] = {**modules, **optimizers}
        self.config, self.accelerator, self.path = config, start.accelerator, start.folder / CHECKPOINT
        self.exported, self.ema = exported, Ema(exported, config.optimizer.ema)
        first = restore_state(start.state, self.ema, start.accelerator.device, parts) if start.state else 0
        check_agreement(first, start.folder, start.accelerator)
        self.bare = list(modules.values())
        prepared = self.accelerator.prepare(*parts.values())
        self.modules, self.optimizers = prepared[: len(modules)], prepared[len(modules) :]
        self.journal = Journal(config, start, exported, self.ema, parts, first, measures, complete_from)
        self.guard = StepGuard(start.accelerator, *self.bare)
        self._batches = draw(sampler, self.journal.steps, start.accelerator, config.corpus.workers, finish)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.journal.close()
        if error is None:
            leave(self.accelerator)

    def steps(self, validate: Validation) -> Iterator[int]:
        """The steps that are left, up to an early end. After each, what is due is written and saved."""
        for step in self.journal.steps:
            self.guard.begin()
            yield step
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            if self.journal.end_step(step, self.guard.skipped, validate):
                return

    def batches(self) -> Iterator[Any]:
        """Those of one step, whose gradients add up."""
        for batch in islice(self._batches, self.config.optimizer.accumulate):
            with self.accelerator.accumulate(*self.modules):
                yield batch

    def count(self, step: int, *values: dict[str, Tensor]) -> None:
        """Take a step that counts into the averaged weights, and its values into the next line."""
        self.ema.update(self.exported, step)
        self.journal.add(*values)
