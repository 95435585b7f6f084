"""A training step with a number that is not finite changes nothing: no weights, no codebooks, no averages."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vconv.errors import VconvError

MAX_SKIPPED = 20  # steps in a row; more are no accident


class StepGuard:
    """Decides for all of a training's modules together, and in all processes alike, whether a step counts.

    Weights change in ``optimizer.step()``, after the gradients are known. The moving averages of codebooks are buffers
    and change in the forward pass: they are put back where the step does not count.

    Args:
        modules: all that are trained, or change their buffers while others are.
    """

    def __init__(self, accelerator: Accelerator, *modules: nn.Module) -> None:
        self._accelerator, self._modules = accelerator, modules
        self._before: list[Tensor] = []
        self.skipped = 0  # since the run was started
        self._in_a_row = 0

    def begin(self) -> None:
        """Remember the buffers as they are before a step."""
        self._before = [buffer.detach().clone() for buffer in self._buffers()]

    def passes(self, step: int, **norms: Tensor) -> bool:
        """Whether the step counts. If not, the buffers are as before it, and a line is printed.

        Args:
            norms: of the gradients, by the name of what they are of.

        Raises:
            VconvError: too many steps in a row do not count.
        """
        wrong = [name for name, norm in norms.items() if not torch.isfinite(norm)]
        pairs = zip(self._before, self._buffers())
        # A table's register is NaN where it is unknown.
        if any((torch.isfinite(before) & ~torch.isfinite(now)).any() for before, now in pairs):
            wrong.append("codebooks")
        if not self._anywhere(bool(wrong)):
            self._in_a_row = 0
            return True
        with torch.no_grad():
            for buffer, before in zip(self._buffers(), self._before):
                buffer.copy_(before)
        self.skipped += 1
        self._in_a_row += 1
        what = ", ".join(wrong) or "another process"
        if self._accelerator.is_main_process:
            print(f"step {step + 1} is skipped: not finite in {what} ({self.skipped} skipped so far)", flush=True)
        if self._in_a_row >= MAX_SKIPPED:
            raise VconvError(
                f"step {step + 1}: {MAX_SKIPPED} steps in a row were not finite ({what}); look for damaged clips "
                "in the corpus, lower optimizer.learning_rate, and go on from the last checkpoint with --resume"
            )
        return False

    def _buffers(self) -> Iterable[Tensor]:
        """Those that a checkpoint holds, which are the ones that change."""
        for module in self._modules:
            for part in module.modules():
                for name, buffer in part.named_buffers(recurse=False):
                    if name not in part._non_persistent_buffers_set and buffer is not None:
                        yield buffer

    def _anywhere(self, wrong: bool) -> bool:
        """Whether it is so in any process, which must all call this."""
        if self._accelerator.num_processes == 1:
            return wrong
        flag = torch.tensor([float(wrong)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, "sum").item() > 0)


def gradient_norm(accelerator: Accelerator, module: nn.Module) -> Tensor:
    """Of all gradients of a module, which stay as they are."""
    return accelerator.clip_grad_norm_(module.parameters(), math.inf)
