"""What a training costs, measured over five steps on a sample of its corpus: `vconv train --dry-run`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from vconv.data.corpus import PSEUDO_LABELS
from vconv.data.manifest import TEST, TRAIN, Clip, read_manifest, write_manifest
from vconv.data.store import build, open_store
from vconv.errors import InputError, VconvError
from vconv.features import HOP_LENGTH, SAMPLE_RATE
from vconv.training import TASKS, checkpoint
from vconv.training.checkpoint import CHECKPOINT
from vconv.training.start import make_accelerator

STEPS = 5  # that are timed, between one before and one after, whose operations are counted
CLIPS = 24  # of the sample
NEVER = 1_000_000_000  # steps
MEGA, GIGA, TERA = 1e6, 1e9, 1e12
# Operations a second in bfloat16 (dense) by the makers' data sheets, of which small networks reach a part.
GPUS = {"RTX 4090": 165 * TERA, "A100": 312 * TERA, "H100": 989 * TERA}
GPU_SHARE = 0.1


@dataclass(frozen=True)
class Cost:
    parameters: dict[str, int]  # by part, codebooks included; those of the heads are for the sample's speakers
    step_seconds: float
    steps: int  # that remain
    operations: float  # a step
    peak_bytes: float  # resident, on a GPU allocated; NaN where the system does not tell
    activation_bytes: int  # kept for the backward pass, at most
    features_hours: float  # to extract the features; 0 if the store is there
    store_bytes: float
    checkpoint_bytes: int  # of the last and the best checkpoint, and the one before each
    free_bytes: int
    device: str

    @property
    def hours(self) -> float:
        return self.steps * self.step_seconds / 3600

    def lines(self) -> list[str]:
        parts = ", ".join(f"{name} {count / MEGA:.2f} M" for name, count in self.parameters.items())
        kind = "peak allocated" if self.device.startswith("cuda") else "peak resident"
        peak = "not measured" if math.isnan(self.peak_bytes) else f"{self.peak_bytes / GIGA:.2f} GB {kind} (measured)"
        gpus = ", ".join(
            f"{name} {self.operations / (GPU_SHARE * rate):.2g} s a step, "
            f"{self.steps * self.operations / (GPU_SHARE * rate) / 3600:.2g} h"
            for name, rate in GPUS.items()
        )
        features = f"; before, about {self.features_hours:.2g} h for the features" if self.store_bytes else ""
        disk = [self.store_bytes / GIGA, self.checkpoint_bytes / GIGA, self.free_bytes / GIGA]
        basis = f"from {self.operations / TERA:.3g} T operations a step at {GPU_SHARE:.0%} of the peak rate"
        return [
            f"parameters  {parts}",
            f"memory      {peak}; activations about {self.activation_bytes / GIGA:.2f} GB (estimated)",
            f"step        {self.step_seconds:.3f} s on {self.device} (mean of {STEPS}, all losses on)",
            f"time        {self.hours:.2f} h for {self.steps} steps{features}",
            "disk        {:.2f} GB of features, {:.2f} GB of checkpoints; {:.1f} GB are free".format(*disk),
            f"GPU         {gpus} (extrapolated, not measured, {basis})",
        ]


def measure(config: Any, resume: bool = False) -> Cost:
    """Run a training for a few steps in a temporary folder; nothing is written elsewhere.

    All losses are on, as in its later steps. The rest of the time, such as validation and pre-training, is not counted.

    Raises:
        InputError: a bad config, a corpus without clips that can be read, or a missing file.
    """
    if not config.corpus.manifest:
        known = ", and a dry run samples its recordings, not corpus.shards" if config.corpus.shards else ""
        raise InputError(f"corpus.manifest is not set{known}; make one with vconv prepare")
    clips = [clip for clip in read_manifest(Path(config.corpus.manifest)) if clip.split != TEST]
    with tempfile.TemporaryDirectory(prefix="vconv-dry-run-") as folder, _silence():
        sample = Path(folder) / "sample.tsv"
        chosen = choose(clips)
        write_manifest(sample, chosen, sorted({name for clip in chosen for name, _ in clip.extra}))
        small = shortened(config, sample)
        asr_encoder = "" if small.corpus.features == "device" else config.corpus.asr_encoder
        rate, clip_bytes = _build_store(read_manifest(sample), sample.with_suffix(".store"), asr_encoder)
        device = str(make_accelerator(config.precision).device)
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        small = dataclasses.replace(small, output=str(Path(folder) / "run"))
        with _Watch() as watch:
            last = import_module(TASKS[config.task][0]).train(small)
        peak, state, last_bytes = _peak_bytes(device), checkpoint.load(last), last.stat().st_size
    hours = _hours_of(clips, chosen)
    store = Path(config.corpus.store) if config.corpus.store else Path(config.corpus.manifest).with_suffix(".store")
    built = config.corpus.features in ("store", "device") and not config.corpus.shards
    missing = built and not (store / "index.json").exists()
    return Cost(
        parameters=parts_of(state),
        step_seconds=watch.step_seconds,
        steps=max(0, config.optimizer.steps - (_steps_done(Path(config.output)) if resume else 0)),
        operations=watch.operations,
        peak_bytes=peak,
        activation_bytes=watch.kept.most,
        features_hours=hours * rate / max(1, min(config.corpus.processes, os.cpu_count() or 1)) if missing else 0.0,
        store_bytes=hours * clip_bytes if missing else 0.0,
        checkpoint_bytes=2 * (last_bytes + _weights_bytes(state)),
        free_bytes=shutil.disk_usage(_existing(Path(config.output).absolute())).free,
        device=f"{device}, {_name(device)}",
    )


def choose(clips: Sequence[Clip]) -> list[Clip]:
    """Training clips that stand for all: parallel groups where there are some, widely sampled ones, others at random.

    Raises:
        InputError: there are none.
    """
    training = [clip for clip in clips if clip.split == TRAIN]
    if not training:
        raise InputError("the manifest has no training clips; see vconv prepare")
    shuffled = [training[k] for k in np.random.default_rng(0).permutation(len(training))]
    groups = list(dict.fromkeys(clip.group for clip in shuffled if clip.group))[: CLIPS // 8]
    parallel = [clip for clip in shuffled if clip.group in groups][: CLIPS // 2]
    wide = sorted(shuffled, key=lambda clip: -(clip.sample_rate or 0))[: CLIPS // 4]
    first = {str(clip.path): clip for clip in (*parallel, *wide, *shuffled)}
    labelled = [clip for clip in first.values() if clip.text(PSEUDO_LABELS)]
    return list({str(clip.path): clip for clip in (*list(first.values())[: CLIPS - 1], *labelled[:1])}.values())


def shortened(config: Any, sample: Path) -> Any:
    """The config with the sample as its corpus, all losses on from the first step, and without first weights.

    Features are made on the device where the training makes them there, and else come from a store.
    """
    first = ("_from", "_alone")
    begun = {f.name: 0 for f in dataclasses.fields(config.losses) if f.name.endswith(first)}
    names = ("start_from", "robust_frontend", *(("conversion",) if config.task not in ("joint", "encoders") else ()))
    absent = {name: "" for name in names if hasattr(config, name)}
    features = "device" if config.corpus.features == "device" else "store"
    corpus = dataclasses.replace(config.corpus, manifest=str(sample), store="", shards="", features=features)
    log = dataclasses.replace(config.log, every=NEVER, save_every=NEVER, validate_every=NEVER, patience=0)
    optimizer = dataclasses.replace(config.optimizer, steps=2 + STEPS)
    losses = dataclasses.replace(config.losses, **begun)
    if hasattr(config, "pretrain"):
        absent["pretrain"] = dataclasses.replace(config.pretrain, steps=0)
    return dataclasses.replace(config, corpus=corpus, losses=losses, optimizer=optimizer, log=log, **absent)


def parts_of(state: dict[str, Any]) -> dict[str, int]:
    """Weights of a training's state by part: of the model its networks, and what exists in training only."""
    counts: dict[str, int] = {}
    for name, part in state.items():
        if name in ("ema", "optimizer", "critic_optimizer") or not isinstance(part, dict):
            continue
        for key, value in part.items():
            if isinstance(value, Tensor):
                named = _part(name, key)
                counts[named] = counts.get(named, 0) + value.numel()
    return counts


def _part(module: str, key: str) -> str:
    words = key.split(".")
    if module == "robust_frontend":
        return words[0]
    if module != "learner":
        return module
    if words[:2] == ["trained", "asr_encoder"] or words[0] == "asr_encoder":
        return "ASR encoder"
    if words[:2] in (["both", "conversion"], ["both", "vocoder"], ["trained", "conversion"]):
        words = words[1:]
    elif words[0] != "model":
        return "heads"
    if words[0] == "vocoder":
        return "vocoder"
    return "denoiser" if words[1:3] == ["content", "denoiser"] else words[1]


class _Watch:
    """Times the steps of a training and counts the operations of the last one, which takes longer for it.

    A step ends where the first optimizer that steps has stepped.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []  # of the steps, in s
        self.operations, self.kept = 0, _Kept()
        self._optimizer: torch.optim.Optimizer | None = None
        self._counting = contextlib.ExitStack()

    def __enter__(self) -> _Watch:
        self._hook = register_optimizer_step_post_hook(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self._counting.close()

    @property
    def step_seconds(self) -> float:
        """Mean of all steps but the first and the last. Raises VconvError where too few had a finite gradient."""
        if len(self.ends) < 2 + STEPS:
            raise VconvError("the gradients of a step were not finite; try a lower optimizer.learning_rate")
        return (self.ends[-2] - self.ends[0]) / STEPS

    def _step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._optimizer = self._optimizer or optimizer
        if optimizer is not self._optimizer:
            return
        self.ends.append(time.monotonic())
        if len(self.ends) == 1 + STEPS:
            self._flops = self._counting.enter_context(FlopCounterMode(display=False))
            self._counting.enter_context(saved_tensors_hooks(self.kept.pack, self.kept.unpack))
        elif len(self.ends) == 2 + STEPS:
            self.operations = self._flops.get_total_flops()
            self._counting.close()


class _Kept:
    """Counts the storage that autograd keeps; what several operations keep counts once."""

    def __init__(self) -> None:
        self.uses: dict[int, int] = {}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> _Saved:
        if isinstance(tensor, torch.nn.Parameter):
            return _Saved(self, tensor, None)
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        self.uses[place] = self.uses.get(place, 0) + 1
        if self.uses[place] == 1:
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
        return _Saved(self, tensor, place)

    def unpack(self, saved: _Saved) -> Tensor:
        return saved.tensor

    def release(self, place: int, size: int) -> None:
        self.uses[place] -= 1
        if not self.uses[place]:
            self.now -= size


class _Saved:
    """A tensor until autograd lets go of it."""

    def __init__(self, kept: _Kept, tensor: Tensor, place: int | None) -> None:
        self.kept, self.tensor, self.place = kept, tensor, place

    def __del__(self) -> None:
        if self.place is not None:
            self.kept.release(self.place, self.tensor.untyped_storage().nbytes())


def _build_store(clips: Sequence[Clip], store: Path, asr_encoder: str) -> tuple[float, float]:
    """Seconds that one process takes for the features of a second of speech, and their bytes; both an hour of it."""
    began = time.monotonic()
    build(clips, store, 1, asr_encoder=asr_encoder)
    taken = time.monotonic() - began
    speech = sum(entry.frames for entry in open_store(store, asr_encoder).entries) * HOP_LENGTH / SAMPLE_RATE
    size = sum(file.stat().st_size for file in store.iterdir())
    return taken / speech, size * 3600 / speech


def _hours_of(clips: Sequence[Clip], sample: Sequence[Clip]) -> float:
    """Of the corpus; clips of unknown length count as the mean of the known ones."""
    known = [clip.seconds for clip in clips if clip.seconds] or [_seconds(clip) for clip in sample]
    return len(clips) * float(np.mean(known)) / 3600


def _seconds(clip: Clip) -> float:
    from vconv.data.store import read_sound

    try:
        return read_sound(str(clip.path), trim=False).frames * HOP_LENGTH / SAMPLE_RATE
    except InputError:
        return 0.0


def _weights_bytes(state: dict[str, Any]) -> int:
    """Of what the best checkpoint holds: no optimizers."""
    modules = [part for name, part in state.items() if "optimizer" not in name and isinstance(part, dict)]
    tensors = (value for part in modules for value in part.values() if isinstance(value, Tensor))
    return sum(value.numel() * value.element_size() for value in tensors)


def _peak_bytes(device: str) -> float:
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def _steps_done(folder: Path) -> int:
    state = checkpoint.load_latest(folder / CHECKPOINT, set_aside=False)
    return state["step"] if state else 0


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} with {torch.get_num_threads()} threads"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing of what the short runs print."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
