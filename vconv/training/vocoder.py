"""Training of the vocoder: spectral losses first, then discriminators as well."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vconv.config import Precision, VocoderConfig
from vconv.data.corpus import Corpus
from vconv.data.wave_batches import WaveBatchConfig, WaveSampler, full_band_items
from vconv.errors import InputError
from vconv.features import OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE
from vconv.models.discriminators import WaveDiscriminators
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus
from vconv.models.vocoder import Vocoder
from vconv.training.journal import Monitor
from vconv.training.loader import to_tensors
from vconv.training.loop import Run, Validation
from vconv.training.losses import discriminator_hinge, feature_matching, generator_hinge, spectral_distance, weigh
from vconv.training.optimizer import frozen, learning_rate, make_optimizer, set_rate
from vconv.training.perceptual import to_analysis_rate
from vconv.training.predict import predict_mels
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig
from vconv.training.start import begin
from vconv.training.state import start_from
from vconv.training.trained import load_conversion

# Hz, where a recording at SAMPLE_RATE ends: resampling and codecs leave little of what is near its Nyquist frequency.
NARROW_BAND = (0.42 * SAMPLE_RATE, 0.47 * SAMPLE_RATE)


@dataclass(frozen=True)
class DiscriminatorConfig:
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    n_ffts: tuple[int, ...] = (2048, 1024, 512)
    width: int = 16


@dataclass(frozen=True)
class VocoderLossConfig:
    """Weights; the discriminators' are 0 before ``adversarial_from``."""

    spectral: float = 1.0
    n_ffts: tuple[int, ...] = (2048, 1024, 512, 256)
    realism: float = 0.3
    matching: float = 1.0
    speaker_similarity: float = 0.0  # feature maps of a speaker encoder, of what is made against the real ones
    adversarial_from: int = 2000  # step


@dataclass(frozen=True)
class VocoderTraining:
    task: Literal["vocoder"] = "vocoder"
    output: str = "runs/vocoder"
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    start_from: str = ""  # a vocoder checkpoint or a model folder, for the weights that fit
    conversion: str = ""  # a conversion checkpoint: train on the mels that it predicts, too
    speaker_encoder: str = (
        ""  # .safetensors: for losses.speaker_similarity and a `conversion` with `speaker: pretrained`
    )
    corpus: CorpusConfig = CorpusConfig()
    model: VocoderConfig = VocoderConfig()
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    batch: WaveBatchConfig = WaveBatchConfig()
    losses: VocoderLossConfig = VocoderLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=4e-4)
    log: LogConfig = LogConfig()


def build(config: VocoderTraining, resume: bool) -> tuple[Run, CamPlusPlus | None, Validation]:
    """The run with its vocoder and discriminators, the speaker encoder of a loss that is on, and its validation."""
    if config.losses.speaker_similarity and not config.speaker_encoder:
        raise InputError("losses.speaker_similarity: needs a speaker encoder; set speaker_encoder")
    start = begin(config, resume)
    device = start.accelerator.device
    with start.accelerator.main_process_first():  # the others then find the predicted mels on the disk
        predicted = predicted_mels(config, start.corpus, device) if config.conversion else None
    sampler = WaveSampler(start.corpus, config.batch, config.seed, predicted)
    torch.manual_seed(config.seed)
    vocoder = Vocoder(config.model).to(device)
    own = config.discriminators
    discriminators = WaveDiscriminators(own.periods, own.n_ffts, own.width).to(device)
    if config.start_from and not start.state:
        start_from(Path(config.start_from), config.task, {"ema": vocoder, "discriminators": discriminators})
    modules = {"vocoder": vocoder, "discriminators": discriminators}
    optimizers = {
        "optimizer": make_optimizer(vocoder, config.optimizer),
        "critic_optimizer": make_optimizer(discriminators, config.optimizer),
    }
    complete_from = config.losses.adversarial_from
    run = Run(config, start, modules, optimizers, vocoder, sampler, complete_from=complete_from)
    speaker_encoder = load_campplus(config.speaker_encoder).to(device) if config.losses.speaker_similarity else None
    return run, speaker_encoder, partial(validate, vocoder, start.validation, config, run.journal.monitor)


def predicted_mels(config: VocoderTraining, corpus: Corpus, device: torch.device) -> dict[int, np.ndarray]:
    """Mels [frames, N_MELS] of the corpus's items as the conversion model of the config predicts them."""
    if config.corpus.features == "on_the_fly":
        raise InputError("conversion: predicted mels need the whole corpus; set corpus.features to store")
    model = load_conversion(Path(config.conversion)).to(device)
    return predict_mels(model, corpus, full_band_items(corpus, config.batch), config.seed, config.speaker_encoder)


def train(config: VocoderTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, speaker_encoder, show = build(config, resume)
    accelerator, weights, clip = run.accelerator, config.losses, config.optimizer.clip
    vocoder, discriminators = run.modules
    bare_discriminators = run.bare[1]
    optimizer, critic_optimizer = run.optimizers
    with run:
        for step in run.steps(show):
            rate = learning_rate(step, config.optimizer)
            set_rate(optimizer, rate)
            set_rate(critic_optimizer, rate * config.optimizer.critic_rate)
            adversarial = step >= weights.adversarial_from

            found = []
            for batch in run.batches():
                with accelerator.autocast():
                    wave = vocoder(batch.mel, batch.pitch, batch.source, batch.noise)
                real, fake = inner(batch.wave, config.batch), inner(wave, config.batch)
                real = with_upper_band(real, fake, batch.narrow)
                losses = {"spectral": spectral_distance(fake, real, weights.n_ffts)}
                with accelerator.autocast():
                    if speaker_encoder:
                        losses["speaker_similarity"] = feature_difference(speaker_encoder, real, fake)
                    if adversarial:  # bare: their own gradients are not wanted here, in no process
                        losses |= realism_losses(bare_discriminators, real, fake)
                accelerator.backward(weigh(losses, weights))
                if adversarial:
                    with accelerator.autocast():
                        losses["critic"] = critic_loss(discriminators, real, fake.detach())
                    accelerator.backward(losses["critic"])
                found.append(losses)

            norms = {"generator": accelerator.clip_grad_norm_(vocoder.parameters(), clip)}
            if adversarial:
                norms["discriminators"] = accelerator.clip_grad_norm_(discriminators.parameters(), 10 * clip)
            if run.guard.passes(step, **norms):
                optimizer.step()
                if adversarial:
                    critic_optimizer.step()
                run.count(step, *found, {"gradient": norms["generator"]})
    return run.path


def inner(wave: Tensor, config: WaveBatchConfig) -> Tensor:
    """The judged part of a crop, without its context: [B, T * OUTPUT_HOP] -> [B, frames * OUTPUT_HOP]"""
    edge = config.context_frames * OUTPUT_HOP
    return wave[:, edge : wave.shape[1] - edge]


def with_upper_band(real: Tensor, fake: Tensor, narrow: Tensor) -> Tensor:
    """Recordings [B, N], the ``narrow`` [B] ones with what the vocoder made above their band.

    Where a recording says nothing, real and made are alike: no loss there, and nothing for a discriminator to see.
    """
    if not narrow.any():
        return real
    frequency = torch.linspace(0, OUTPUT_RATE / 2, real.shape[1] // 2 + 1, device=real.device)
    low, high = NARROW_BAND
    share = narrow[:, None] * ((frequency - low) / (high - low)).clamp(0, 1)
    mixed = torch.fft.rfft(real) * (1 - share) + torch.fft.rfft(fake.detach().float()) * share
    return torch.fft.irfft(mixed, real.shape[1])


def realism_losses(discriminators: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """The vocoder's side of the game."""
    with frozen(discriminators):
        judged = discriminators(fake)
        with torch.no_grad():
            truth = discriminators(real)
    return {
        "realism": generator_hinge([scores for scores, _ in judged]),
        "matching": feature_matching([maps for _, maps in truth], [maps for _, maps in judged]),
    }


def feature_difference(speaker_encoder: CamPlusPlus, real: Tensor, fake: Tensor) -> Tensor:
    """Feature matching of waves at 24 kHz, [B, N] each, in a frozen speaker encoder.

    Its feature maps hold voice and words in finer detail than its embedding.
    """
    with torch.no_grad():
        truth = speaker_encoder.features(to_analysis_rate(real))
    return feature_matching([truth], [speaker_encoder.features(to_analysis_rate(fake))])


def critic_loss(discriminators: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The discriminators' side."""
    judged = discriminators(torch.cat([real, fake]))
    halves = [scores.chunk(2) for scores, _ in judged]
    return discriminator_hinge([r for r, _ in halves], [f for _, f in halves])


@torch.no_grad()
def validate(
    vocoder: Vocoder, corpus: Corpus, config: VocoderTraining, monitor: Monitor, step: int
) -> dict[str, float]:
    """Spectral distance on held-out clips, always the same ones, and the sound of one."""
    try:
        sampler = WaveSampler(corpus, dataclasses.replace(config.batch, frames=96, items=4), config.seed + 1)
    except InputError:  # none of them is recorded with a full band
        return {}
    device = next(vocoder.parameters()).device
    total, rounds = 0.0, 3
    for index in range(rounds):
        batch = to_tensors(sampler.batch(index), device)
        wave = vocoder(batch.mel, batch.pitch, batch.source, batch.noise)
        total += spectral_distance(wave, batch.wave, config.losses.n_ffts).item()
    found = {"validation": total / rounds}
    monitor.losses(step, found)
    for name, sound in (("real", batch.wave), ("vocoded", wave)):
        monitor.sound(step, name, np.asarray(sound[0].cpu()), OUTPUT_RATE)
    return found
