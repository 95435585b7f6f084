"""Training of a live ASR encoder, one that needs few frames after those that it encodes.

It learns to give, in blocks of a few frames, the features that the ASR encoder of whole waves gives (Li et al. 2017,
"Large-Scale Domain Adaptation via Teacher-Student Learning", section 2), from whose weights it begins. Lengths of block
and lookahead change from batch to batch, so that one encoder serves each latency. With ``conversion``, the frozen
content encoder behind it is also to give, for some of the blocks and with what is known then, what it gives for whole
waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vconv.config import Precision
from vconv.data.augmentation.recording import DisturbConfig
from vconv.data.corpus import Corpus
from vconv.errors import InputError
from vconv.frontends.ends import MIRRORED_SAMPLES
from vconv.models.content_encoder import ContentEncoder
from vconv.models.norm_statistics import NormStatistics, from_moments, mixed, moments
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine
from vconv.models.pretrained.moonshine_live import LiveMoonshine
from vconv.training.journal import Monitor
from vconv.training.live_windows import Cut, code_difference, cuts, features_at, mel_at
from vconv.training.loader import to_tensors
from vconv.training.loop import Run, Validation
from vconv.training.losses import weigh
from vconv.training.optimizer import learning_rate
from vconv.training.perceptual import content_distance
from vconv.training.robust_frontend import RobustFrontendBatch, RobustFrontendBatchConfig, RobustFrontendSampler
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig
from vconv.training.start import begin
from vconv.training.trained import load_conversion_behind

LEVEL_BATCHES = 8  # whose mean statistics are those that a stream begins with
AHEAD_WEIGHT = 0.5  # of a frame that is there as lookahead, where that of another is 1
MIRRORED_RANGE = 384  # samples, a frame of the ASR encoder; by up to so many fewer than ``mirrored`` are mirrored


@dataclass(frozen=True)
class LiveAsrEncoderLossConfig:
    """Weights."""

    content_consistency: float = 1.0  # one less the cosine of the features
    features: float = 0.3  # their squared difference, by the variance that they have
    code: float = 1.0  # the same of what the content encoder gives, with ``conversion``


@dataclass(frozen=True)
class LiveAsrEncoderTraining:
    task: Literal["live_asr_encoder"] = "live_asr_encoder"
    output: str = "runs/live_asr_encoder"
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    asr_encoder: str = ""  # ONNX file to begin with, and to learn from
    conversion: str = ""  # a conversion checkpoint or model folder whose content encoder takes the features
    corpus: CorpusConfig = CorpusConfig()
    batch: RobustFrontendBatchConfig = RobustFrontendBatchConfig(items=6, seconds=6.0, disturb=DisturbConfig(clean=0.5))
    block: tuple[int, ...] = (1, 1, 2, 2, 3, 4)  # frames of the ASR encoder; one of these in each batch
    ahead: tuple[int, ...] = (1, 2, 2, 2, 3, 7)  # frames known after a block, likewise
    mirrored: int = MIRRORED_SAMPLES  # that follow the last known ones mirrored in time, at most
    windows: int = 3  # blocks of a crop whose content is compared, with ``conversion``
    losses: LiveAsrEncoderLossConfig = LiveAsrEncoderLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


class LiveBatch(NamedTuple):
    """A batch of waves and how they are cut."""

    waves: RobustFrontendBatch
    block: np.ndarray  # []
    ahead: np.ndarray  # []
    mirrored: np.ndarray  # [] samples
    windows: np.ndarray  # [W] places in the crops, from 0 to 1
    own: np.ndarray  # [B] share of a wave's own statistics in those that normalize it


class LiveSampler:
    def __init__(self, corpus: Corpus, config: LiveAsrEncoderTraining, seed: int) -> None:
        self.seed, self.config = seed, config
        self._waves = RobustFrontendSampler(corpus, config.batch, seed)

    def batch(self, step: int, rank: int = 0) -> LiveBatch:
        config, waves = self.config, self._waves.batch(step, rank)
        rng = np.random.default_rng([self.seed, step])  # the same lengths in all processes
        block, ahead = (np.array(rng.choice(choices)) for choices in (config.block, config.ahead))
        mirrored = np.array(rng.integers(max(config.mirrored - MIRRORED_RANGE, 0), config.mirrored + 1))
        windows = rng.random(config.windows)
        own = np.random.default_rng([self.seed, step, rank, 1]).random(len(waves.clean), np.float32)
        return LiveBatch(waves, block, ahead, mirrored, windows, own)


class LiveAsrEncoder(nn.Module):
    """The encoder for blocks, and the frozen one of whole waves from which it learns, with its content encoder."""

    def __init__(self, whole: Moonshine, content: ContentEncoder | None = None) -> None:
        super().__init__()
        self._frozen = (whole, content)  # in a tuple: checkpoints leave them out
        self.asr_encoder = LiveMoonshine.of(whole).requires_grad_(False)
        for part in (self.asr_encoder.layers, self.asr_encoder.last):  # the convolutions are as good in blocks
            part.requires_grad_(True)

    def forward(self, batch: LiveBatch) -> dict[str, Tensor]:
        """Losses by name."""
        encoder, (whole, content), waves = self.asr_encoder, self._frozen, batch.waves
        block, ahead, mirrored = int(batch.block), int(batch.ahead), int(batch.mirrored)
        with torch.no_grad():
            hidden = whole.hidden(waves.clean)[-1]
            level = mixed(encoder.level[:, None], encoder.levels(waves.disturbed)[:, :, None], batch.own)[:, :, 0]
        found, blocks = encoder.encoded(waves.disturbed, level, block, ahead, mirrored)
        wanted, found = whole.last(hidden)[:, blocks.place].float(), found.float()
        weights = torch.where(blocks.ahead, AHEAD_WEIGHT, 1.0)
        weights = weights / weights.sum()
        spread = wanted.var(dim=(0, 1)) + 1e-5
        losses = {
            "content_consistency": content_distance(found.transpose(1, 2), wanted.transpose(1, 2), weights),
            "features": (((found - wanted).square() / spread).mean(dim=2) * weights).sum(dim=1).mean(),
        }
        at = cuts(encoder, hidden.shape[1], block, ahead, mirrored, batch.windows) if content else []
        return losses | self._code_loss(waves, hidden, found, ahead, at)

    def _code_loss(
        self, waves: RobustFrontendBatch[Tensor], hidden: Tensor, found: Tensor, ahead: int, at: list[Cut]
    ) -> dict[str, Tensor]:
        """Of what the content encoder gives after the blocks ``at``; no loss where there are none."""
        encoder, (whole, content), frames = self.asr_encoder, self._frozen, hidden.shape[1]
        if not at:
            return {}
        with torch.no_grad(), NormStatistics() as statistics:
            code = content(waves.whole_mel, whole.features(hidden, waves.clean.shape[1])).float()
        windows = [(mel_at(waves.disturbed_mel, one), features_at(encoder, found, frames, ahead, one)) for one in at]
        return {"code": code_difference(content, windows, at, code, statistics.reported[0].float())}

    @torch.no_grad()
    def measure_level(self, sampler: LiveSampler, device: torch.device) -> None:
        """Set the statistics that a stream begins with to the mean of some batches."""
        waves = (to_tensors(sampler.batch(0, 1 + k).waves, device).clean for k in range(LEVEL_BATCHES))
        levels = torch.cat([self.asr_encoder.levels(wave) for wave in waves])[:, :, None]
        self.asr_encoder.level.copy_(from_moments(moments(levels).mean(dim=0))[:, 0])


def trainable(learner: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in learner.parameters() if parameter.requires_grad]


def check_settings(config: LiveAsrEncoderTraining) -> None:
    """Raise InputError for settings that are missing or impossible."""
    if not config.asr_encoder:
        raise InputError("asr_encoder: not set; make one with recipes/base/asr_encoder.py")
    if config.batch.broken_off:
        raise InputError("batch.broken_off: these waves are whole, their blocks end everywhere; leave it out")
    if not 0 <= config.mirrored <= MIRRORED_SAMPLES:
        raise InputError(f"mirrored: {config.mirrored}; use 0 to {MIRRORED_SAMPLES}")
    for name, lengths, least in (("block", config.block, 1), ("ahead", config.ahead, 0)):
        if not lengths or min(lengths) < least:
            raise InputError(f"{name}: {list(lengths)} is no list of lengths; use numbers of frames from {least}")


def content_encoder(config: LiveAsrEncoderTraining, asr_encoder: Moonshine) -> ContentEncoder | None:
    """That of the model which is to take the features, frozen."""
    if not config.conversion:
        return None
    model = load_conversion_behind(asr_encoder, config.asr_encoder, Path(config.conversion))
    return model.content.requires_grad_(False).eval()


def build(config: LiveAsrEncoderTraining, resume: bool) -> tuple[Run, Validation]:
    """The run and its validation."""
    check_settings(config)
    whole = load_moonshine(config.asr_encoder)
    content = content_encoder(config, whole)
    start = begin(config, resume)
    device = start.accelerator.device
    torch.manual_seed(config.seed)
    learner = LiveAsrEncoder(whole.to(device), content and content.to(device)).to(device)
    sampler = LiveSampler(start.corpus, config, config.seed)
    if not start.state:
        learner.measure_level(sampler, device)
    own = config.optimizer
    optimizer = torch.optim.AdamW(trainable(learner), own.learning_rate, betas=own.betas, weight_decay=own.weight_decay)
    validation = LiveSampler(start.validation, config, config.seed + 1) if start.validation.items else None
    measures = ["validation", *(f"validation/{k}_{n}" for k, n in (VALIDATED if validation else ()))]
    run = Run(config, start, {"learner": learner}, {"optimizer": optimizer}, learner, sampler, measures)
    return run, partial(validate, learner, validation, run.journal.monitor)


def train(config: LiveAsrEncoderTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, show = build(config, resume)
    accelerator, clip = run.accelerator, config.optimizer.clip
    (learner,), (bare,), (optimizer,) = run.modules, run.bare, run.optimizers
    with run:
        for step in run.steps(show):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.optimizer)
            found = []
            for batch in run.batches():
                with accelerator.autocast():
                    losses = learner(batch)
                accelerator.backward(weigh(losses, config.losses))
                found.append(losses)
            norm = accelerator.clip_grad_norm_(trainable(bare), clip)
            if run.guard.passes(step, learner=norm):
                optimizer.step()
                run.count(step, *found, {"gradient": norm})
    return run.path


VALIDATED = ((1, 2), (2, 1), (4, 7))  # block and lookahead


@torch.no_grad()
def validate(learner: LiveAsrEncoder, sampler: LiveSampler | None, monitor: Monitor, step: int) -> dict[str, float]:
    """Weighted losses on held-out clips, always the same ones, by block and lookahead; their mean."""
    if sampler is None:
        return {}
    device, found, weights = next(learner.parameters()).device, {}, sampler.config.losses
    batches = [to_tensors(sampler.batch(index), device) for index in range(4)]
    for block, ahead in VALIDATED:
        losses = [learner(b._replace(block=torch.tensor(block), ahead=torch.tensor(ahead))) for b in batches]
        found[f"validation/{block}_{ahead}"] = float(np.mean([weigh(one, weights).item() for one in losses]))
    measured = {"validation": float(np.mean(list(found.values()))), **found}
    monitor.losses(step, measured)
    return measured
