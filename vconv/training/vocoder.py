"""Training of the vocoder: spectral losses first, then discriminators as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vconv.config import Precision, VocoderConfig
from vconv.data.corpus import Corpus
from vconv.data.wave_batches import WaveBatch, WaveBatchConfig, WaveSampler, items_of
from vconv.errors import InputError
from vconv.features import OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine
from vconv.models.vocoder import Vocoder
from vconv.training.discriminators import DiscriminatorConfig, Discriminators, check_layers, encoder_input
from vconv.training.journal import Monitor
from vconv.training.loader import to_tensors
from vconv.training.loop import Run, Validation
from vconv.training.losses import (
    discriminator_hinge,
    feature_matching,
    generator_hinge,
    mel_distance,
    spectral_distance,
    weigh,
)
from vconv.training.optimizer import frozen, learning_rate, make_optimizer, set_rate
from vconv.training.perceptual import to_analysis_rate
from vconv.training.predict import predict_mels
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig
from vconv.training.start import begin
from vconv.training.state import start_from
from vconv.training.trained import load_conversion, load_vocoder

# Hz, where a recording at SAMPLE_RATE ends: resampling and codecs leave little of what is near its Nyquist frequency.
NARROW_BAND = (0.42 * SAMPLE_RATE, 0.47 * SAMPLE_RATE)


@dataclass(frozen=True)
class VocoderLossConfig:
    """Weights; the discriminators' are 0 before ``adversarial_from``."""

    spectral: float = 1.0
    n_ffts: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    mel: float = 0.5  # log-mel of what is made, against the recording's
    realism: float = 0.3
    matching: float = 1.0
    layer_realism: float = 0.3  # as the two above, of layers of an ASR encoder
    layer_matching: float = 1.0
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
    upper_band: str = ""  # a vocoder that makes what narrow recordings lack; default: start_from, else this one
    conversion: str = ""  # a conversion checkpoint: train on the mels that it predicts, too
    speaker_encoder: str = (
        ""  # .safetensors: for losses.speaker_similarity and a `conversion` with `speaker: pretrained`
    )
    loss_asr_encoder: str = ""  # ONNX file: for discriminators of its layers
    layers: tuple[int, ...] = (0, 1, 2, 3)  # that have one; 0: its convolutions
    corpus: CorpusConfig = CorpusConfig()
    model: VocoderConfig = VocoderConfig()
    discriminators: DiscriminatorConfig = DiscriminatorConfig()
    batch: WaveBatchConfig = WaveBatchConfig()
    losses: VocoderLossConfig = VocoderLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=4e-4)
    log: LogConfig = LogConfig()


class LossEncoders(NamedTuple):
    """Frozen networks of the losses that are on. No nn.Module: checkpoints leave them out."""

    speaker: CamPlusPlus | None
    asr: Moonshine | None
    layers: tuple[int, ...]  # of the latter that have a discriminator
    upper_band: Vocoder | None  # makes what narrow recordings lack

    def outputs(self, wave: Tensor) -> list[Tensor]:
        """What the layers give for waves [B, N] at 24 kHz: [B, F, C] each, none without an ASR encoder."""
        if not self.asr:
            return []
        hidden = self.asr.hidden(encoder_input(wave))
        return [hidden[layer] for layer in self.layers]

    def whole(self, batch: WaveBatch[Tensor], made: Tensor, config: WaveBatchConfig) -> Tensor:
        """The recordings' part that is judged, [B, N], with an upper band; see ``with_upper_band``."""
        above = made
        if self.upper_band and batch.narrow.any():
            with torch.no_grad():
                above = inner(self.upper_band(batch.mel, batch.pitch, batch.source, batch.noise), config)
        return with_upper_band(inner(batch.wave, config), above, batch.narrow)


def build(config: VocoderTraining, resume: bool) -> tuple[Run, LossEncoders, Validation]:
    """The run with its vocoder and discriminators, the frozen networks of the losses, and its validation."""
    if config.losses.speaker_similarity and not config.speaker_encoder:
        raise InputError("losses.speaker_similarity: needs a speaker encoder; set speaker_encoder")
    start = begin(config, resume)
    device = start.accelerator.device
    with start.accelerator.main_process_first():  # the others then find the predicted mels on the disk
        predicted = predicted_mels(config, start.corpus, device) if config.conversion else None
    sampler = WaveSampler(start.corpus, config.batch, config.seed, predicted)
    encoders = load_loss_encoders(config, device)
    torch.manual_seed(config.seed)
    vocoder = Vocoder(config.model).to(device)
    channels = [encoders.asr.channels] * len(config.layers) if encoders.asr else []
    discriminators = Discriminators(config.discriminators, channels).to(device)
    if config.start_from and not start.state:
        start_from(Path(config.start_from), config.task, {"ema": vocoder, "discriminators": discriminators})
    modules = {"vocoder": vocoder, "discriminators": discriminators}
    optimizers = {
        "optimizer": make_optimizer(vocoder, config.optimizer),
        "critic_optimizer": make_optimizer(discriminators, config.optimizer),
    }
    complete_from = config.losses.adversarial_from
    run = Run(config, start, modules, optimizers, vocoder, sampler, complete_from=complete_from)
    return run, encoders, partial(validate, vocoder, start.validation, config, run.journal.monitor)


def load_loss_encoders(config: VocoderTraining, device: torch.device) -> LossEncoders:
    """The frozen networks. Raises InputError where a layer is chosen that the ASR encoder does not have."""
    speaker = load_campplus(config.speaker_encoder).to(device) if config.losses.speaker_similarity else None
    asr = load_moonshine(config.loss_asr_encoder).to(device) if config.loss_asr_encoder else None
    if asr:
        check_layers("layers", config.layers, len(asr.layers))
    above = config.upper_band or config.start_from
    vocoder = load_vocoder(Path(above)).to(device) if above and config.batch.narrow_share else None
    return LossEncoders(speaker, asr, config.layers, vocoder)


def predicted_mels(config: VocoderTraining, corpus: Corpus, device: torch.device) -> Mapping[int, np.ndarray]:
    """Mels [frames, N_MELS] of the corpus's items as the conversion model of the config predicts them."""
    if config.corpus.features == "on_the_fly":
        raise InputError("conversion: predicted mels need the whole corpus; set corpus.features to store")
    model = load_conversion(Path(config.conversion)).to(device)
    return predict_mels(model, corpus, items_of(corpus, config.batch), config.seed, config.speaker_encoder)


def train(config: VocoderTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, encoders, show = build(config, resume)
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
                fake = inner(wave, config.batch)
                real = encoders.whole(batch, fake, config.batch)
                losses = {
                    "spectral": spectral_distance(fake, real, weights.n_ffts),
                    "mel": mel_distance(to_analysis_rate(fake), to_analysis_rate(real)),
                }
                with accelerator.autocast():
                    if encoders.speaker:
                        losses["speaker_similarity"] = feature_difference(encoders.speaker, real, fake)
                    if adversarial:  # bare: their own gradients are not wanted here, in no process
                        with torch.no_grad():
                            recorded = encoders.outputs(real)
                        made = encoders.outputs(fake)
                        losses |= realism_losses(bare_discriminators, real, fake, recorded, made)
                accelerator.backward(weigh(losses, weights))
                if adversarial:
                    with accelerator.autocast():
                        critics = critic_losses(discriminators, real, fake.detach(), recorded, made)
                    accelerator.backward(sum(critics.values()))
                    losses |= critics
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


def with_upper_band(waves: Tensor, above: Tensor, narrow: Tensor) -> Tensor:
    """Waves [B, N], those of ``narrow`` [B] recordings with the upper band of other waves, ``above`` [B, N].

    In training ``above`` are the waves of another vocoder. With those of the trained one there is no loss above the
    band, and it can make noise there so loud that the discriminators get nothing else.
    """
    if not narrow.any():
        return waves
    frequency = torch.linspace(0, OUTPUT_RATE / 2, waves.shape[1] // 2 + 1, device=waves.device)
    low, high = NARROW_BAND
    share = narrow[:, None] * ((frequency - low) / (high - low)).clamp(0, 1)
    mixed = torch.fft.rfft(waves) * (1 - share) + torch.fft.rfft(above.detach().float()) * share
    return torch.fft.irfft(mixed, waves.shape[1])


def realism_losses(
    discriminators: nn.Module, real: Tensor, fake: Tensor, recorded: list[Tensor], made: list[Tensor]
) -> dict[str, Tensor]:
    """The vocoder's side of the game, with the layers' outputs for recordings and for what it makes."""
    with frozen(discriminators):
        judged, scored = discriminators(fake, made)
        with torch.no_grad():
            truth = discriminators.waves(real)
    losses = {
        "realism": generator_hinge([scores for scores, _ in judged]),
        "matching": feature_matching([maps for _, maps in truth], [maps for _, maps in judged]),
    }
    if made:
        losses |= {"layer_realism": generator_hinge(scored), "layer_matching": feature_matching([recorded], [made])}
    return losses


def feature_difference(speaker_encoder: CamPlusPlus, real: Tensor, fake: Tensor) -> Tensor:
    """Feature matching of waves at 24 kHz, [B, N] each, in a frozen speaker encoder.

    Its feature maps hold voice and words in finer detail than its embedding.
    """
    with torch.no_grad():
        truth = speaker_encoder.features(to_analysis_rate(real))
    return feature_matching([truth], [speaker_encoder.features(to_analysis_rate(fake))])


def critic_losses(
    discriminators: nn.Module, real: Tensor, fake: Tensor, recorded: list[Tensor], made: list[Tensor]
) -> dict[str, Tensor]:
    """The discriminators' side."""
    layers = [torch.cat([one, other.detach()]) for one, other in zip(recorded, made)]
    judged, scored = discriminators(torch.cat([real, fake]), layers)
    halves = [scores.chunk(2) for scores, _ in judged]
    losses = {"critic": discriminator_hinge([r for r, _ in halves], [f for _, f in halves])}
    if made:
        halves = [scores.chunk(2) for scores in scored]
        losses["layer_critic"] = discriminator_hinge([r for r, _ in halves], [f for _, f in halves])
    return losses


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
        judged = with_upper_band(wave, batch.wave, batch.narrow)  # a narrow recording has nothing above its band
        total += spectral_distance(judged, batch.wave, config.losses.n_ffts).item()
    found = {"validation": total / rounds}
    monitor.losses(step, found)
    for name, sound in (("real", batch.wave), ("vocoded", wave)):
        monitor.sound(step, name, np.asarray(sound[0].cpu()), OUTPUT_RATE)
    return found
