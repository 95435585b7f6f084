"""What a run leaves behind: lines of losses, TensorBoard scalars, pictures and sounds, checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vconv.training import checkpoint
from vconv.training.checkpoint import BEST, CHECKPOINT
from vconv.training.optimizer import Ema, averaged
from vconv.training.settings import LogConfig, Training
from vconv.training.start import Start
from vconv.training.state import pack_state
from vconv.training.stopping import Best


class Averages:
    """Running means of named losses since they were last read."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().item()
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, which must all call it."""
        means = torch.tensor([total / self._counts[name] for name, total in self._sums.items()])
        means = accelerator.reduce(means.to(accelerator.device), "mean")
        named = dict(zip(self._sums, means.tolist()))
        self._sums, self._counts = {}, {}
        return named


class Monitor:
    """Progress on the terminal and scalars, sound and pictures in TensorBoard; silent off the main process."""

    def __init__(self, folder: Path, steps: int, first: int, enabled: bool) -> None:
        self.enabled = enabled
        if not enabled:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from torch.utils.tensorboard import SummaryWriter

        # A run that was killed before its first checkpoint begins anew, and what it had logged goes as well.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)
        self.bar = Progress(
            BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[losses]}")
        )
        self.task = self.bar.add_task("train", total=steps, completed=first, losses="")
        self.bar.start()
        self._since, self._step = time.monotonic(), first

    def pace(self, step: int) -> str:
        """Seconds a step since this was last asked, for a line of losses; the time of validations is left out."""
        if not self.enabled:
            return ""
        now = time.monotonic()
        pace = (now - self._since) / max(1, step - self._step)
        self._since, self._step = now, step
        return f" ({pace:.3f} s a step)"

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time of what is done inside does not count for the pace; on the main process only."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def losses(self, step: int, values: dict[str, float], pace: str = "") -> None:
        if not self.enabled:
            return
        line = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.bar.update(self.task, completed=step, losses=line)
        if not self.bar.console.is_terminal:  # a log file gets lines, not a bar
            print(f"step {step} {line}{pace}", flush=True)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def advance(self, step: int) -> None:
        """So many steps are done; moves the bar alone."""
        if self.enabled:
            self.bar.update(self.task, completed=step)

    def picture(self, step: int, name: str, rows: list[np.ndarray]) -> None:
        """Spectrograms [bands, T] below one another, low frequencies at the bottom."""
        if self.enabled:
            width = max(row.shape[1] for row in rows)
            padded = [np.pad(row[::-1], ((0, 4), (0, width - row.shape[1])), constant_values=row.min()) for row in rows]
            image = np.concatenate(padded)
            image = (image - image.min()) / (np.ptp(image) + 1e-9)
            self.writer.add_image(name, image[None].astype(np.float32), step)

    def sound(self, step: int, name: str, wave: np.ndarray, rate: int) -> None:
        if self.enabled:
            self.writer.add_audio(name, wave[None] / max(1.0, np.abs(wave).max()), step, rate)

    def close(self) -> None:
        if self.enabled:
            self.bar.stop()
            self.writer.close()


class SaveClock:
    """When to save: every so many steps, after so many seconds, and at the end."""

    def __init__(self, config: LogConfig, last: int) -> None:
        self.config, self.last, self._saved = config, last, time.monotonic()

    def due(self, done: int) -> bool:
        # Between two lines of the log it would cost the curve: the means since the last one are not saved.
        late = time.monotonic() - self._saved > self.config.seconds_between_saves and done % self.config.every == 0
        if not (late or done % self.config.save_every == 0 or done == self.last):
            return False
        self._saved = time.monotonic()
        return True


class Journal:
    """What a run leaves behind while it is running: lines, scalars and pictures, and checkpoints of its ``parts``.

    ``ema`` averages the weights of ``module``.
    """

    def __init__(
        self,
        config: Training,
        start: Start,
        module: nn.Module,
        ema: Ema,
        parts: dict[str, Any],
        first: int,
        measures: Collection[str] = ("validation",),
        complete_from: int = 0,
    ) -> None:
        self._config, self._start, self._module, self._ema, self._parts = config, start, module, ema, parts
        self._averages, self._clock = Averages(), SaveClock(config.log, config.optimizer.steps)
        best = Best(config.log.best, config.log.patience, complete_from)
        best.check(measures if start.validation.items else ())
        self._best = best.restore((start.state or {}).get("best"))
        self.steps = range(first, first if self._best.ended else config.optimizer.steps)
        if self._best.ended and start.accelerator.is_main_process:
            print(f"step {first}: ended early, as {self._best.why()}", flush=True)
        elif self.steps and start.accelerator.is_main_process:
            told = f"losses every {config.log.every}, here and in TensorBoard"
            print(f"{start.folder}: steps {first + 1} to {config.optimizer.steps}; {told}", flush=True)
        self._written: dict[str, int] = {}  # files of this run, and the steps in them
        self.monitor = Monitor(start.folder, config.optimizer.steps, first, start.accelerator.is_main_process)

    def add(self, *values: dict[str, Tensor]) -> None:
        """To the means of which the next line will tell."""
        for named in values:
            self._averages.add(named)

    def end_step(self, step: int, skipped: int, validate: Callable[[int], dict[str, float]]) -> bool:
        """Write and save what is due; returns whether the run ends here, in all processes alike.

        Args:
            skipped: steps so far that did not count; named in the line where there are any.
            validate: called with the steps done, while the module has the averages; returns measures by name.
        """
        done, accelerator, log = step + 1, self._start.accelerator, self._config.log
        self.monitor.advance(done)
        if done % log.every == 0:
            means = self._averages.take(accelerator)
            skips = {"skipped": float(skipped)} if skipped else {}
            self.monitor.losses(done, means | skips, self.monitor.pace(done))
        due = done % log.validate_every == 0 or done == self._config.optimizer.steps  # the last weights may be the best
        validates = due and bool(self._start.validation.items)
        if accelerator.is_main_process:
            if validates:
                with self.monitor.pause(), averaged(self._module, self._ema):
                    found = validate(done)
                if self._best.improves(done, found):
                    modules = {name: part for name, part in self._parts.items() if isinstance(part, nn.Module)}
                    self._save(BEST, done, modules)  # no optimizers: no run goes on from it
            if self._clock.due(done) or (validates and self._best.ended):
                self._save(CHECKPOINT, done, self._parts)
        return validates and self._ends(done)

    def _save(self, name: str, done: int, parts: dict[str, Any]) -> None:
        state = pack_state(self._config, done, self._ema, parts) | {"best": self._best.state()}
        checkpoint.save(self._start.folder / name, state, keep_previous=True)
        self._written[name] = done

    def _ends(self, done: int) -> bool:
        """Whether the run ends early, as the main process decides, which alone validates."""
        if not self._config.log.patience:
            return False
        accelerator, ends = self._start.accelerator, self._best.ended
        if accelerator.num_processes > 1:
            flag = torch.tensor([float(ends)], device=accelerator.device)
            ends = bool(accelerator.reduce(flag, "sum").item() > 0)
        if ends and accelerator.is_main_process:
            print(f"step {done}: the run ends, as {self._best.why()}", flush=True)
        return ends

    def close(self) -> None:
        """Stop the bar, and name what was written."""
        self.monitor.close()
        if self._written:
            files = " and ".join(f"{name} (step {step})" for name, step in sorted(self._written.items()))
            print(f"{self._start.folder}: wrote {files}", flush=True)
