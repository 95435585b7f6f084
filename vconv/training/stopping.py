"""Which validation was the best, and when there have been enough without a better one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vconv.errors import InputError
from vconv.training.held_out import PERPLEXITY, SPEAKER, USE

HIGHER_IS_BETTER = frozenset({SPEAKER, PERPLEXITY, USE})


@dataclass
class Best:
    """The best validation so far, by one measure; where two are equal, the earlier one.

    Early stopping by patience: Prechelt 1998, "Early Stopping - But When?", class UP.
    """

    measure: str  # its name in the log; "": none is the best
    patience: int = 0  # validations in a row without a better one, after which the run ends; 0: it never does
    since: int = 0  # steps; validations with fewer do not count
    value: float | None = None
    step: int = 0
    waited: int = 0  # validations since the best one

    def check(self, measured: Collection[str]) -> None:
        """Raise InputError unless the measure is one of those that this run has at each validation."""
        if self.measure in measured or (not self.measure and not self.patience):
            return
        if not measured:
            if self.patience:
                raise InputError("log.patience: this run has no validation clips; set it to 0, or add some")
            return
        raise InputError(f"log.best: '{self.measure}' is not measured in this run; use {', '.join(sorted(measured))}")

    def improves(self, step: int, found: Mapping[str, float]) -> bool:
        """Take in a validation; whether it is the best so far. A number that is not finite is no better than any."""
        if step < self.since or self.measure not in found:
            return False
        value = found[self.measure]
        sign = -1 if self.measure in HIGHER_IS_BETTER else 1
        if not math.isfinite(value) or (self.value is not None and sign * value >= sign * self.value):
            self.waited += 1
            return False
        self.value, self.step, self.waited = value, step, 0
        return True

    @property
    def ended(self) -> bool:
        """Whether the run is to end."""
        return 0 < self.patience <= self.waited

    def why(self) -> str:
        """In a line, why it ends."""
        best = "there was none" if self.value is None else f"the best was {self.value:.4f} at step {self.step}"
        return f"{self.measure} has not improved for {self.waited} validations; {best}; raise log.patience to go on"

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, for the checkpoint."""
        return {name: getattr(self, name) for name in ("measure", "value", "step", "waited")}

    def restore(self, state: Mapping[str, Any] | None) -> Best:
        """With the values in a checkpoint's ``state``, unless that was by another measure."""
        if not state or state.get("measure") != self.measure:
            return self
        return dataclasses.replace(self, **{name: state[name] for name in ("value", "step", "waited")})
