"""The first and the last things that every training does: processes, corpus, output folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from vconv.config import Precision
from vconv.data.corpus import Corpus, load_corpus, values_of
from vconv.data.decoded import Decoded
from vconv.data.manifest import TEST, Clip, read_manifest
from vconv.data.on_the_fly import OnTheFly
from vconv.data.shards.store import ShardStore
from vconv.data.store import build, clips_outside, open_store
from vconv.errors import InputError
from vconv.training.settings import CorpusConfig, Training
from vconv.training.state import resume_state


def require_corpus(config: CorpusConfig, accelerator: Accelerator, label: str = "speaker") -> tuple[Corpus, Corpus]:
    """Training and validation corpora, with the feature store built first where it is wanted and missing.

    The main process builds it while the others wait; then one process on each machine that does not share the disk.
    With ``config.shards`` the labels in them stand for the manifest, and nothing is built.
    ``label`` is the manifest's column that the clips' labels come from.
    """
    if config.shards:
        shards = ShardStore(Path(config.shards))
        return load_corpus(Decoded(shards, config.asr_encoder), shards.clips, label)
    if not config.manifest:
        raise InputError("corpus.manifest is not set, nor corpus.shards; make one with vconv prepare")
    manifest = Path(config.manifest)
    clips = [clip for clip in read_manifest(manifest) if clip.split != TEST]
    if label != "speaker":
        values_of(clips, label)  # seen before the work
    if config.features == "on_the_fly":
        cache = Path(config.cache) if config.cache else None
        return load_corpus(OnTheFly(clips, cache, config.asr_encoder), clips, label)
    asr_encoder = "" if config.features == "device" else config.asr_encoder  # the store keeps waves and F0 for it
    store = Path(config.store) if config.store else manifest.with_suffix(".store")
    for my_turn in (accelerator.is_main_process, accelerator.is_local_main_process):
        if my_turn and not (store / "index.json").exists():
            build_store(clips, store, config, asr_encoder)
        accelerator.wait_for_everyone()
    found = open_store(store, asr_encoder)
    if accelerator.is_main_process and (missing := clips_outside(found, clips)):
        print(
            f"vconv: {missing} of the manifest's {len(clips)} clips are not in the feature store, and training goes on "
            f"without them; delete {store} to have it built anew",
            file=sys.stderr,
        )
    return load_corpus(Decoded(found, config.asr_encoder) if config.features == "device" else found, clips, label)


def build_store(clips: list[Clip], store: Path, config: CorpusConfig, asr_encoder: str) -> None:
    """Extract the features of the clips, with a bar, and print what is left out."""
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task("features", total=len(clips))
        report = lambda done: bar.update(task, completed=done)  # noqa: E731
        skipped = build(clips, store, config.processes, report, asr_encoder)
    for line in skipped:
        print(f"left out: {line}")


def make_accelerator(precision: Precision, accumulate: int = 1) -> Accelerator:
    """For one process, or for as many as ``accelerate launch`` has started.

    On a CPU that has to emulate bf16, where a step takes ten times as long as in float32, training is in float32.
    """
    if accumulate < 1:
        raise InputError(f"optimizer.accumulate: {accumulate} batches a step are impossible; use 1 or more")
    emulated = precision == "bf16" and not torch.accelerator.is_available() and not _cpu_has_bf16()
    accelerator = Accelerator(
        mixed_precision="no" if emulated else precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),  # of heads whose losses begin later
            InitProcessGroupKwargs(timeout=timedelta(days=1)),  # the others wait while one builds the store
        ],
    )
    if emulated:
        accelerator.print("precision: this CPU has no bf16 instructions; training in float32")
    return accelerator


def _cpu_has_bf16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


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
    corpora = require_corpus(config.corpus, accelerator, label)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    return Start(accelerator, folder, state, *corpora)


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
