"""What the training loops share: plain functions and small objects, no base class."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vconv.config import Precision
from vconv.data.corpus import Corpus, load_corpus, values_of
from vconv.data.manifest import TEST, read_manifest
from vconv.data.on_the_fly import OnTheFly
from vconv.data.store import build, open_store
from vconv.errors import InputError
from vconv.models import saved
from vconv.models.layers import ConvNeXtBlock
from vconv.processes import die_with_parent
from vconv.training import checkpoint

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class CorpusConfig:
    manifest: str = ""
    store: str = ""  # folder of features; built on the first run. Default: beside the manifest
    processes: int = 2  # that build it
    features: Literal["store", "on_the_fly"] = (
        "store"  # on_the_fly: made from the audio when a batch needs them, no store
    )
    cache: str = ""  # with on_the_fly: folder that keeps each clip's features once they are made
    asr_encoder: str = ""  # ONNX file, whose features the content encoder gets beside the mel
    workers: int = 0  # processes that make batches ahead, for each training process; 0: made when they are needed


@dataclass(frozen=True)
class OptimizerConfig:
    steps: int = 100_000
    warmup: int = 500  # steps
    learning_rate: float = 5e-4
    critic_rate: float = 1.0  # the discriminators' learning rate, as a multiple of it
    final_rate: float = 2e-5  # reached along a cosine
    betas: tuple[float, float] = (0.8, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0  # of the gradient's norm
    ema: float = 0.999  # decay of the averaged weights
    accumulate: int = 1  # batches a step, in each process


@dataclass(frozen=True)
class LogConfig:
    every: int = 50  # steps between lines and TensorBoard scalars
    save_every: int = 500
    validate_every: int = 1000
    seconds_between_saves: float = 600.0  # at most this much work is lost


def require_corpus(config: CorpusConfig, is_main: bool, wait: Any, label: str = "speaker") -> tuple[Corpus, Corpus]:
    """Training and validation corpora, with the feature store built first where it is wanted and missing.

    Only the main process builds; ``wait`` is the barrier behind which the others stand. ``label`` is the
    manifest's column that the clips' labels come from.
    """
    if not config.manifest:
        raise InputError("corpus.manifest is not set; make one with vconv prepare")
    manifest = Path(config.manifest)
    clips = [clip for clip in read_manifest(manifest) if clip.split != TEST]
    if label != "speaker":
        values_of(clips, label)  # seen before the work
    if config.features == "on_the_fly":
        cache = Path(config.cache) if config.cache else None
        return load_corpus(OnTheFly(clips, cache, config.asr_encoder), clips, label)
    store = Path(config.store) if config.store else manifest.with_suffix(".store")
    if is_main and not (store / "index.json").exists():
        from rich.progress import Progress

        with Progress() as bar:
            task = bar.add_task("features", total=len(clips))
            report = lambda done: bar.update(task, completed=done)  # noqa: E731
            skipped = build(clips, store, config.processes, report, config.asr_encoder)
        for line in skipped:
            print(f"left out: {line}")
    wait()
    return load_corpus(open_store(store, config.asr_encoder), clips, label)


def make_accelerator(precision: Precision, accumulate: int) -> Accelerator:
    """For one process, or for as many as ``accelerate launch`` has started."""
    if accumulate < 1:
        raise InputError(f"optimizer.accumulate: {accumulate} batches a step are impossible; use 1 or more")
    return Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),  # of heads whose losses begin later
            InitProcessGroupKwargs(timeout=timedelta(days=1)),  # the others wait while one builds the store
        ],
    )


class Sampler(Protocol):
    seed: int

    def batch(self, step: int, rank: int) -> Any:
        """A dataclass of arrays, which depends on the seed and the two numbers alone."""


class _Batches(Dataset):
    """A sampler's batches by (step, rank), as tensors."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def __getitem__(self, place: tuple[int, int]) -> tuple[tuple[int, int], dict[str, Tensor]]:
        return place, to_tensors(self.sampler.batch(*place), torch.device("cpu"))


def draw(sampler: Sampler, steps: range, accelerator: Accelerator, workers: int) -> Iterator[dict[str, Tensor]]:
    """This process's batches, as many a step as are accumulated; torch's random numbers are seeded for each.

    The batches of a step are numbered over all processes: two processes, one that accumulates two batches,
    and one that goes on with a run of two after a kill, all learn from the same.

    Args:
        workers: processes that make batches ahead of their use.
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
        yield {name: value.to(device, non_blocking=True) for name, value in batch.items()}


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


def to_tensors(batch: Any, device: torch.device) -> dict[str, Tensor]:
    """A batch's arrays by field name, on the device."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(value)).to(device, non_blocking=True)
        for name, value in vars(batch).items()
    }


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

    def losses(self, step: int, values: dict[str, float]) -> None:
        if not self.enabled:
            return
        now = time.monotonic()
        pace = (now - self._since) / max(1, step - self._step)
        self._since, self._step = now, step
        line = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.bar.update(self.task, completed=step, losses=line)
        if not self.bar.console.is_terminal:  # a log file gets lines, not a bar
            print(f"step {step} {line} ({pace:.3f} s a step)", flush=True)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

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


def resume_state(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from, if that is asked for and there is one.

    Raises:
        InputError: a run is there already and was not asked to be resumed, or all of its checkpoints are damaged.
    """
    path = folder / CHECKPOINT
    if not resume and (path.exists() or checkpoint.previous(path).exists()):
        raise InputError(f"{folder}: holds a run already; add --resume to go on, or choose another output")
    return checkpoint.load_latest(path)


def pack_state(config: Any, step: int, ema: Ema, parts: dict[str, Any]) -> dict[str, Any]:
    """All that a run needs to go on exactly: ``parts`` are its modules and optimizers by name."""
    return {
        "task": config.task,
        "step": step,
        "config": dataclasses.asdict(config),
        "ema": ema.state,
        **{name: part.state_dict() for name, part in parts.items()},
    }


class Training(Protocol):
    """What the configs of all trainings have."""

    task: str
    output: str
    precision: Precision
    threads: int
    corpus: CorpusConfig
    optimizer: OptimizerConfig
    log: LogConfig


@dataclass(frozen=True)
class Start:
    """What a training begins with."""

    accelerator: Accelerator
    folder: Path
    state: dict[str, Any] | None  # of the run that it goes on with
    corpus: Corpus
    validation: Corpus


def begin(config: Training, resume: bool, label: str = "speaker") -> Start:
    """The first things that every training does; its folder is made when nothing of that went wrong.

    Raises:
        InputError: no corpus, or a run that exists and is not resumed.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = make_accelerator(config.precision, config.optimizer.accumulate)
    folder = Path(config.output)
    state = resume_state(folder, resume)
    corpora = require_corpus(config.corpus, accelerator.is_main_process, accelerator.wait_for_everyone, label)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    return Start(accelerator, folder, state, *corpora)


def restore_state(state: dict[str, Any], ema: Ema, device: torch.device, parts: dict[str, Any]) -> int:
    """Put a packed state back; returns the step to go on with.

    Raises:
        InputError: it is of another task, or of networks of another shape.
    """
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"the checkpoint does not fit this config ({reason}); choose another output") from None
    ema.state = {name: value.to(device) for name, value in state["ema"].items()}
    return state["step"]


def check_agreement(first: int, folder: Path, accelerator: Accelerator) -> None:
    """Raise InputError unless all processes go on with the same step: else they would wait for one another for ever."""
    steps = accelerator.gather(torch.tensor([first], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise InputError(f"{folder}: the machines find different checkpoints here; give an output that they share")


def leave(accelerator: Accelerator) -> None:
    """Part with the other processes, if there are any: one that ends while another still works can crash on its way."""
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        accelerator.end_training()


def start_from(path: Path, task: str, modules: dict[str, nn.Module]) -> None:
    """Give modules the weights that a checkpoint or a model folder has under their names, where the shapes agree.

    "ema" are the averaged weights. A layer is taken as a whole or not at all, and what is not taken is printed. A
    ConvNeXt block that the checkpoint does not have adds nothing at first: a model that gets deeper is what it was.
    A model folder has no heads, classifiers and discriminators: these begin fresh.

    Raises:
        InputError: the file is missing, no checkpoint, or of another task.
    """
    state = load_start(path, task)
    fresh = []
    for name, module in modules.items():
        own, given = module.state_dict(), state.get(name, {})
        unfit = {k for k, v in own.items() if k not in given or given[k].shape != v.shape}
        layers = {k.rpartition(".")[0] for k in unfit}
        taken = {k: given[k] for k in own if k.rpartition(".")[0] not in layers}
        module.load_state_dict({**own, **taken})
        for block, part in module.named_modules():
            if isinstance(part, ConvNeXtBlock) and f"{block}.scale" not in given:
                nn.init.zeros_(part.scale)
        if layers:
            parts = sorted({_part(layer) for layer in layers}) if given else []
            named = f" ({', '.join(parts[:6])}{' and others' if len(parts) > 6 else ''})" if parts else ""
            fresh.append(f"{len(layers)} layers of {name}{named}")
    if fresh:
        print(f"{path}: not taken, missing there or of another shape, and begin fresh: {'; '.join(fresh)}")


def _part(layer: str) -> str:
    """What a layer is named with in a line: of the model's own its network's part, of others the head."""
    names = layer.split(".")
    return ".".join(names[:3] if names[0] == "model" else names[:1])


def load_start(path: Path, task: str) -> dict[str, Any]:
    """What a training may begin with: a checkpoint's state, or that of a model folder as a checkpoint would hold it.

    Raises:
        InputError: the file is missing, no checkpoint or model folder, or of another task.
    """
    if not path.is_dir():
        return checkpoint.load_task(path, task)
    conversion, vocoder = saved.load(path)
    if task == "vocoder":
        return {"ema": vocoder.state_dict()}
    weights = conversion.state_dict()
    learner = {f"model.{name}": value for name, value in weights.items()}
    return {"config": {"model": dataclasses.asdict(conversion.config)}, "ema": weights, "learner": learner}


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
        self, config: Training, start: Start, module: nn.Module, ema: Ema, parts: dict[str, Any], first: int
    ) -> None:
        self._config, self._start, self._module, self._ema, self._parts = config, start, module, ema, parts
        self._averages, self._clock = Averages(), SaveClock(config.log, config.optimizer.steps)
        self.monitor = Monitor(start.folder, config.optimizer.steps, first, start.accelerator.is_main_process)

    def add(self, *values: dict[str, Tensor]) -> None:
        """To the means of which the next line will tell."""
        for named in values:
            self._averages.add(named)

    def end_step(self, step: int, skipped: int, validate: Callable[[int], None]) -> None:
        """Write and save what is due. ``validate`` is called with the steps done, while the module has the averages.

        Args:
            skipped: steps so far that did not count; the line tells of them where there are any.
        """
        done, accelerator, log = step + 1, self._start.accelerator, self._config.log
        if done % log.every == 0:
            means = self._averages.take(accelerator)
            self.monitor.losses(done, means | ({"skipped": float(skipped)} if skipped else {}))
        if not accelerator.is_main_process:
            return
        if done % log.validate_every == 0 and self._start.validation.items:
            with averaged(self._module, self._ema):
                validate(done)
        if self._clock.due(done):
            state = pack_state(self._config, done, self._ema, self._parts)
            checkpoint.save(self._start.folder / CHECKPOINT, state, keep_previous=True)

    def close(self) -> None:
        self.monitor.close()
