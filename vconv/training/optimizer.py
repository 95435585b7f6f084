"""Learning rate, optimizer, averaged weights and modules frozen for a block."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from vconv.training.settings import OptimizerConfig


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then a cosine to the final rate."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.final_rate + (config.learning_rate - config.final_rate) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class Ema:
    """Moving average of a module's parameters; its buffers are copied, as codebooks average themselves."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # the first weights are noise: forget them soon
        parameters = {name for name, _ in module.named_parameters()}
        for name, value in module.state_dict().items():
            if name in parameters:
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


@contextlib.contextmanager
def averaged(module: nn.Module, ema: Ema) -> Iterator[nn.Module]:
    """The module with the averaged weights, in evaluation mode, for the length of a block."""
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    module.load_state_dict(ema.state)
    module.eval()
    try:
        yield module
    finally:
        module.load_state_dict(own)
        module.train()


@contextlib.contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No gradient for these modules' parameters from what is computed in the block; inputs still get theirs."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
