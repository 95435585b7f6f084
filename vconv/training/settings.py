"""Settings that all trainings share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from vconv.config import Precision, Steps


@dataclass(frozen=True)
class CorpusConfig:
    manifest: str = ""
    store: str = ""  # folder of features; built on the first run. Default: beside the manifest
    processes: int = 2  # that build it
    shards: str = ""  # folder of `vconv prepare --shards`, in place of manifest and store
    # on_the_fly: made from the audio when a batch needs them, no store; device: on the training device, from the
    # decoded audio of the store or the shards, augmented anew for each batch (conversion model)
    features: Literal["store", "on_the_fly", "device"] = "store"
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
    held_out: Steps = (
        12  # conversions of validation clips that are measured at each validation, where there are encoders
    )
    best: str = "validation"  # the measure by which a validation's weights are kept as best.safetensors; "": none are
    patience: Steps = 0  # validations without a better one, after which the run ends; 0: it never ends early
    seconds_between_saves: float = 600.0  # at most this much work is lost


class Training(Protocol):
    """What the configs of all trainings have."""

    task: str
    output: str
    precision: Precision
    threads: int
    corpus: CorpusConfig
    optimizer: OptimizerConfig
    log: LogConfig
