"""Training of a noise-robust front end: an ASR encoder, fine-tuned by distillation, and a denoiser of log-mels.

The ASR encoder is its own teacher. From an augmented wave it learns to predict the features that the frozen copy gives
for the clean wave (Li et al. 2017, "Large-Scale Domain Adaptation via Teacher-Student Learning", section 2). That needs
no transcripts and keeps the features compatible with conversion models trained on the original. A live conversion knows
little of what follows: with ``batch.broken_off`` the student also learns to predict, at the end of a wave that breaks
off, the features that the teacher gives with the rest of the clip. The denoiser takes the student's features and
predicts the clean mel.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Generic, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vconv import audio
from vconv.config import ConversionConfig, Precision
from vconv.data.aligned_waves import mels
from vconv.data.augmentation import recording as disturb
from vconv.data.augmentation.recording import DisturbConfig
from vconv.data.corpus import Corpus, by_length
from vconv.data.crops import Array
from vconv.data.store import WAVE_SCALE, Entry
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.ends import MIRRORED, mirrored_end
from vconv.frontends.grid import CODE_HOP
from vconv.models.denoiser import Denoiser
from vconv.models.layers import normalize_mel
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine
from vconv.training import checkpoint
from vconv.training.journal import Monitor
from vconv.training.loader import to_tensors
from vconv.training.loop import Run, Validation
from vconv.training.losses import validated, weigh
from vconv.training.optimizer import learning_rate
from vconv.training.perceptual import content_distance
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig
from vconv.training.start import begin

PARTS = ("asr_encoder", "denoiser")  # of what is trained
END_FRAMES = 10  # of the code, 0.32 s: the end of a wave that breaks off, where its features differ most
AFTER = 8  # frames of the code, 0.26 s, that the teacher sees of the crop after such an end, at least
REST = 0.2  # weight of a frame before, where that of one of these is 1


@dataclass(frozen=True)
class RobustFrontendBatchConfig:
    items: int = 8
    seconds: float = 5.0  # of a crop
    voices: float = 0.5  # share of the crops that are played faster or slower
    asr_dropout: float = 0.1  # share of the mels that are denoised without an ASR encoder
    broken_off: float = 0.0  # share of the batches whose disturbed waves are short and break off, as in live conversion
    window: tuple[float, float] = (1.0, 3.3)  # seconds of such a wave
    disturb: DisturbConfig = DisturbConfig()


@dataclass(frozen=True)
class RobustFrontendLossConfig:
    """Weights."""

    content_consistency: float = 1.0  # one less the cosine of the ASR encoder's features
    features: float = 0.3  # their squared difference, by the variance that they have
    mel: float = 1.0  # absolute difference of the denoised mel


@dataclass(frozen=True)
class RobustFrontendTraining:
    task: Literal["robust_frontend"] = "robust_frontend"
    output: str = "runs/robust_frontend"
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    asr_encoder: str = ""  # ONNX file to begin with, and to learn from
    corpus: CorpusConfig = CorpusConfig()
    model: ConversionConfig = ConversionConfig()  # the denoiser's part of it
    batch: RobustFrontendBatchConfig = RobustFrontendBatchConfig()
    losses: RobustFrontendLossConfig = RobustFrontendLossConfig()
    asr_encoder_rate: float = 0.2  # its learning rate, as a multiple of the denoiser's
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


class RobustFrontendBatch(NamedTuple, Generic[Array]):
    clean: Array  # [B, N] at 16 kHz, each at the loudness that models expect
    whole_mel: Array  # [B, N_MELS, N / HOP_LENGTH]
    disturbed: Array  # [B, M], a stretch of it; where that breaks off, its end follows mirrored
    clean_mel: Array  # [B, N_MELS, T] of the stretch, T even
    disturbed_mel: Array  # [B, N_MELS, M / HOP_LENGTH], with the mirrored end
    first: Array  # [], frame of the code with which the stretch begins
    weights: Array  # [T / 2] of its frames in the losses of the features, with a sum of 1


class RobustFrontendSampler:
    """Crops of the corpus's clips, clean and disturbed anew each time."""

    def __init__(self, corpus: Corpus, config: RobustFrontendBatchConfig, seed: int) -> None:
        self.corpus, self.config, self.seed = corpus, config, seed
        self._samples = int(config.seconds * SAMPLE_RATE) // CODE_HOP * CODE_HOP
        self._weights = by_length(corpus.items)

    def batch(self, step: int, rank: int = 0) -> RobustFrontendBatch[np.ndarray]:
        rng = np.random.default_rng([self.seed, step, rank])
        chosen = rng.choice(len(self.corpus.items), self.config.items, p=self._weights)
        pairs = [self._pair(rng, self.corpus.items[index].entry) for index in chosen]
        clean, disturbed = (np.stack(waves) for waves in zip(*pairs))
        total = self._samples // CODE_HOP
        first, end = 0, total
        if broken_off := rng.random() < self.config.broken_off:
            first, end = self._window(rng, total)
            disturbed = mirrored_end(disturbed[:, first * CODE_HOP : end * CODE_HOP], MIRRORED * HOP_LENGTH)
        whole_mel = mels(clean)
        weights = np.full(end - first, REST if broken_off else 1.0, np.float32)
        weights[-END_FRAMES:] = 1
        return RobustFrontendBatch(
            clean=clean,
            whole_mel=whole_mel,
            disturbed=disturbed,
            clean_mel=whole_mel[:, :, 2 * first : 2 * end],
            disturbed_mel=mels(disturbed),
            first=np.array(first),
            weights=weights / weights.sum(),
        )

    def _window(self, rng: np.random.Generator, total: int) -> tuple[int, int]:
        """A stretch of that many frames of the code: its first frame, and that after its last one."""
        latest = max(total - AFTER, 1)
        shortest, longest = (min(round(s * SAMPLE_RATE) // CODE_HOP, latest) for s in self.config.window)
        length = int(rng.integers(max(shortest, 1), longest + 1))
        end = int(rng.integers(length, latest + 1))
        return end - length, end

    def _pair(self, rng: np.random.Generator, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        wave = self._crop(rng, entry)
        if rng.random() < self.config.voices:
            wave = self._filled(disturb.faster(wave, disturb.voice_rate(rng)))
        crowd = rng.integers(len(self.corpus.items), size=disturb.BABBLE_VOICES)
        others = [self._crop(rng, self.corpus.items[index].entry) for index in crowd]
        noisy = disturb.surround(wave, rng, others, self.config.disturb)
        return tuple(audio.normalize(one, SAMPLE_RATE).astype(np.float32) for one in (wave, noisy))

    def _crop(self, rng: np.random.Generator, entry: Entry) -> np.ndarray:
        """A random place in a clip, or all of it and silence: [N]"""
        whole = self.corpus.store.clip_wave(entry).reshape(-1)
        wide = audio.scaled_length(self._samples, SAMPLE_RATE, OUTPUT_RATE)
        start = int(rng.integers(0, max(1, len(whole) - wide + 1)))
        wave = whole[start : start + wide].astype(np.float32) / WAVE_SCALE
        return self._filled(audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE))

    def _filled(self, wave: np.ndarray) -> np.ndarray:
        return np.pad(wave[: self._samples], (0, max(0, self._samples - len(wave))))


class RobustFrontend(nn.Module):
    """ASR encoder and denoiser, with the ASR encoder as it was, from which both learn."""

    def __init__(self, config: RobustFrontendTraining) -> None:
        super().__init__()
        self.weights, self.dropout = config.losses, config.batch.asr_dropout
        self.asr_encoder = load_moonshine(config.asr_encoder).requires_grad_(True)
        self.denoiser = Denoiser(config.model)

    def forward(self, batch: RobustFrontendBatch[Tensor], wanted: Tensor) -> dict[str, Tensor]:
        """Losses by name; ``wanted`` [B, R, F] are the teacher's features of the whole crops."""
        frames, weights = batch.weights.shape[0], batch.weights
        features = self.asr_encoder(batch.disturbed)
        wanted = wanted[:, :, int(batch.first) :][:, :, :frames]
        spread = wanted.var(dim=(0, 2), keepdim=True) + 1e-5
        mel = batch.disturbed_mel
        known = torch.rand(len(mel), 1, 1, device=mel.device) >= (self.dropout if self.training else 0)
        # Detached: the features must stay compatible with the content encoder.
        denoised = self.denoiser(mel, features.detach() * known)[:, :, : 2 * frames]
        features = features[:, :, :frames]
        return {
            "content_consistency": content_distance(features, wanted, weights),
            "features": ((features - wanted).square() / spread * weights).sum(dim=2).mean(),
            "mel": (normalize_mel(denoised) - normalize_mel(batch.clean_mel)).abs().mean(),
        }


def load_robust_frontend(path: Path) -> dict[str, dict[str, Tensor]]:
    """The averaged weights of a checkpoint by their part: ASR encoder, denoiser.

    Raises:
        InputError: there is no checkpoint of such a training.
    """
    state = checkpoint.load_task(path, "robust_frontend")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, value in state["ema"].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    return parts


def build(config: RobustFrontendTraining, resume: bool) -> tuple[Run, Moonshine, Validation]:
    """The run, the teacher, and the run's validation."""
    if not config.asr_encoder:
        raise InputError("asr_encoder: not set; make one with recipes/base/asr_encoder.py")
    if not config.model.denoiser_blocks:
        raise InputError("model.denoiser_blocks: 0 is no denoiser; use 1 or more")
    teacher = load_moonshine(config.asr_encoder)  # before the corpus, which may take long
    config = with_channels(config, teacher)
    start = begin(config, resume)
    teacher = teacher.to(start.accelerator.device)
    torch.manual_seed(config.seed)
    student = RobustFrontend(config).to(start.accelerator.device)
    optimizers = {"optimizer": make_optimizer(student, config)}
    sampler = RobustFrontendSampler(start.corpus, config.batch, config.seed)
    measures = ["validation", *(f"validation/{field.name}" for field in fields(config.losses))]
    run = Run(config, start, {"robust_frontend": student}, optimizers, student, sampler, measures)
    return run, teacher, partial(validate, student, teacher, start.validation, config, run.journal.monitor)


def train(config: RobustFrontendTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, teacher, show = build(config, resume)
    accelerator, clip = run.accelerator, config.optimizer.clip
    (student,), (bare,), (optimizer,) = run.modules, run.bare, run.optimizers
    with run:
        for step in run.steps(show):
            set_rates(optimizer, learning_rate(step, config.optimizer), config)
            found = []
            for batch in run.batches():
                with accelerator.autocast():
                    with torch.no_grad():
                        wanted = teacher(batch.clean)
                    losses = student(batch, wanted)
                accelerator.backward(weigh(losses, config.losses))
                found.append(losses)
            # Apart: what the one gets wrong is no reason for the other to learn less.
            norms = {part: accelerator.clip_grad_norm_(getattr(bare, part).parameters(), clip) for part in PARTS}
            if run.guard.passes(step, **norms):
                optimizer.step()
                run.count(step, *found, {f"gradient/{part}": norm for part, norm in norms.items()})
    return run.path


def with_channels(config: RobustFrontendTraining, asr_encoder: Moonshine) -> RobustFrontendTraining:
    """The config with a denoiser for the channels of the ASR encoder."""
    return replace(config, model=replace(config.model, asr_channels=asr_encoder.channels))


def make_optimizer(robust_frontend: RobustFrontend, config: RobustFrontendTraining) -> torch.optim.AdamW:
    groups = [{"params": list(getattr(robust_frontend, part).parameters())} for part in PARTS]
    own = config.optimizer
    return torch.optim.AdamW(groups, own.learning_rate, betas=own.betas, weight_decay=own.weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, rate: float, config: RobustFrontendTraining) -> None:
    for group, factor in zip(optimizer.param_groups, (config.asr_encoder_rate, 1.0)):
        group["lr"] = factor * rate


@torch.no_grad()
def validate(
    robust_frontend: RobustFrontend,
    teacher: Moonshine,
    corpus: Corpus,
    config: RobustFrontendTraining,
    monitor: Monitor,
    step: int,
) -> dict[str, float]:
    """Losses and their weighted sum on held-out clips, always the same ones; pictures of two mels before and after."""
    sampler = RobustFrontendSampler(corpus, config.batch, config.seed + 1)
    device, found = next(robust_frontend.parameters()).device, []
    for index in range(4):
        batch = to_tensors(sampler.batch(index), device)
        found.append(robust_frontend(batch, teacher(batch.clean)))
    measured = validated(found, config.losses)
    monitor.losses(step, measured)
    denoised = robust_frontend.denoiser(batch.disturbed_mel, robust_frontend.asr_encoder(batch.disturbed))
    for k in range(min(2, len(denoised))):
        rows = [mel[k].cpu().numpy() for mel in (batch.clean_mel, batch.disturbed_mel, denoised)]
        monitor.picture(step, f"clean, disturbed, denoised/{k}", rows)
    return measured
