"""Training of the conversion model: one loop, read from top to bottom.

A step: draw a batch (or several, whose gradients add up), run the encoders and the decoder, add up the
losses of the config, step the optimizer; once it is switched on, the mel discriminator as well.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.data.batches import ConversionSampler
from vconv.data.corpus import PSEUDO_LABELS, Corpus
from vconv.data.crops import Speech
from vconv.data.device.sampler import DeviceSampler
from vconv.errors import InputError
from vconv.features import OUTPUT_RATE
from vconv.models.content_encoder import ContentEncoder
from vconv.models.conversion import ConversionModel
from vconv.models.discriminators import MelDiscriminator
from vconv.models.pretrained.campplus import load_campplus
from vconv.models.pretrained.moonshine import load_moonshine
from vconv.models.speaker_encoder import SpeakerProjection
from vconv.models.speaker_table import SpeakerTable
from vconv.models.vocoder import Vocoder
from vconv.training.conversion_settings import ConversionTraining, check_settings
from vconv.training.device_batches import DeviceFeatures, device_input
from vconv.training.guard import gradient_norm
from vconv.training.held_out import HeldOut, load_encoders
from vconv.training.journal import Monitor
from vconv.training.layerwise import pretrain
from vconv.training.learner import Learner, who
from vconv.training.loader import to_tensors
from vconv.training.loop import Run, Validation
from vconv.training.losses import mel_l1, weigh
from vconv.training.optimizer import learning_rate, make_optimizer, set_rate
from vconv.training.perceptual import PerceptualLosses, clip_embeddings, speaker_embeddings
from vconv.training.projection import fit_projection
from vconv.training.realism import critic_loss, realism_losses
from vconv.training.robust_frontend import load_robust_frontend
from vconv.training.start import Start, begin
from vconv.training.state import start_from
from vconv.training.table import has_other_speakers, measure_registers, with_speakers
from vconv.training.trained import load_vocoder, speak


def make_sampler(corpus: Corpus, config: ConversionTraining, seed: int) -> ConversionSampler:
    """With the clips' pretrained embeddings, for `model.speaker: pretrained`."""
    voices = {}
    if config.model.speaker == "pretrained":
        largest = config.batch.other_octaves
        moved = (largest, -largest) if config.batch.other_voice else ()
        voices = {octaves: clip_embeddings(corpus, config.speaker_encoder, octaves) for octaves in (0.0, *moved)}
    return ConversionSampler(corpus, config.batch, seed, voices)


def make_input(
    corpus: Corpus, config: ConversionTraining, device: torch.device
) -> tuple[ConversionSampler, DeviceFeatures | None]:
    """What draws the training's batches and, for features made on the device, what makes them."""
    if config.corpus.features != "device":
        return make_sampler(corpus, config, config.seed), None
    speaker_encoder = config.speaker_encoder if config.model.speaker == "pretrained" else ""
    return device_input(corpus, config.batch, config.seed, config.corpus.asr_encoder, speaker_encoder, device)


def give_denoiser(model: ConversionModel, path: Path) -> None:
    """Initialize the denoiser from a robust_frontend training. Raises InputError if it has none that fits."""
    weights, denoiser = load_robust_frontend(path)["denoiser"], model.content.denoiser
    try:
        if denoiser is None:
            raise RuntimeError("the model has none")
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: its denoiser does not fit the model ({reason}); set model.denoiser_blocks and denoiser_channels"
        ) from None


def make_held_out(config: ConversionTraining, start: Start, vocoder: Vocoder | None) -> HeldOut | None:
    """What measures conversions of the validation clips, if there are any."""
    if not start.validation.items:
        return None
    asr_encoder, device = config.loss_asr_encoder or config.corpus.asr_encoder, start.accelerator.device
    encoders = load_encoders(vocoder, config.speaker_encoder, asr_encoder, device)
    return HeldOut(start.corpus, start.validation, encoders, config.log.held_out, device)


def pretrain_content(
    encoder: ContentEncoder, sampler: ConversionSampler, config: ConversionTraining, tell: bool
) -> None:
    """Pre-train the content encoder layer by layer on clean speech, alike in all processes; a line for each layer."""
    device = next(encoder.parameters()).device

    def batch(step: int) -> Speech[Tensor]:
        return to_tensors(sampler.batch(step), device).clean

    for layer in pretrain(encoder, batch, config.pretrain):
        if tell:
            print(f"pre-trained {layer.name}: reconstruction error {layer.before:.3f} to {layer.after:.3f}", flush=True)


def build(config: ConversionTraining, resume: bool) -> tuple[Run, PerceptualLosses | None, Validation]:
    """The run with its learner and discriminator, the perceptual losses if there are any, and its validation."""
    check_settings(config)
    start = begin(config, resume, config.losses.label)
    accelerator, state, corpus = start.accelerator, start.state, start.corpus
    config = replace(config, model=complete_model(config, corpus, state))
    with accelerator.main_process_first():  # the others then find the embeddings on the disk
        voices = speaker_embeddings(corpus, config.speaker_encoder) if config.losses.needs_speaker_encoder else None
        sampler, features = make_input(corpus, config, accelerator.device)
        validation = make_sampler(start.validation, config, config.seed + 1) if start.validation.items else None
    torch.manual_seed(config.seed)
    sizes = len(corpus.speakers), len(corpus.phone_set), len(corpus.label_set), corpus.pseudo_label_count
    modules = {
        "learner": Learner(config, *sizes, voices).to(accelerator.device),
        "discriminator": MelDiscriminator(config.model.embedding_channels).to(accelerator.device),
    }
    if not state:
        initialize(config, modules, corpus, sampler, accelerator.is_main_process)
    learner, discriminator = modules.values()
    optimizers = {
        "optimizer": make_optimizer(learner, config.optimizer),
        "critic_optimizer": make_optimizer(discriminator, config.optimizer),
    }
    vocoder = load_vocoder(Path(config.vocoder)).to(accelerator.device) if config.vocoder else None
    held_out = make_held_out(config, start, vocoder)
    measures = ("validation", *(held_out.names(learner.model) if held_out else ()))
    run = Run(
        config, start, modules, optimizers, learner.model, sampler, measures, config.losses.complete_from, features
    )
    perceptual = load_perceptual(config, vocoder, accelerator.device) if config.losses.has_perceptual else None
    return run, perceptual, partial(validate, learner.model, vocoder, validation, held_out, run.journal.monitor)


def complete_model(config: ConversionTraining, corpus: Corpus, state: dict[str, Any] | None) -> ConversionConfig:
    """The model's configuration with what the corpus and the pretrained networks determine.

    Raises:
        InputError: the corpus has no pseudo-labels for their loss, or other speakers than the checkpoint ``state``.
    """
    if config.losses.pseudo_labels and not corpus.pseudo_label_count:
        raise InputError(
            f"losses.pseudo_labels: {config.corpus.manifest} has no column '{PSEUDO_LABELS}'; add it, or use 0"
        )
    model = replace(config.model, asr_channels=corpus.store.asr_channels)
    if model.speaker == "pretrained":
        channels = load_campplus(config.speaker_encoder).config.embedding_channels
        model = replace(model, speaker_embedding_channels=channels)
    return with_speakers(model, corpus, state)


def initialize(
    config: ConversionTraining, modules: dict[str, nn.Module], corpus: Corpus, sampler: ConversionSampler, tell: bool
) -> None:
    """Weights that a new run begins with: of its corpus, of another training, of a robust front end."""
    model = modules["learner"].model
    table = isinstance(model.speaker, SpeakerTable)
    if config.start_from:
        parts = {"learner": modules["learner"], "ema": model, "discriminator": modules["discriminator"]}
        others = table and has_other_speakers(Path(config.start_from), config.model)
        start_from(Path(config.start_from), config.task, parts, ("model.speaker", "speaker") if others else ())
        if isinstance(model.speaker, SpeakerProjection):
            fit_projection(
                model.speaker, Path(config.start_from), corpus, clip_embeddings(corpus, config.speaker_encoder)
            )
    if table:  # of this corpus, whatever the checkpoint has
        measure_registers(model.speaker, corpus)
    if config.robust_frontend:
        give_denoiser(model, Path(config.robust_frontend))
    if config.pretrain.steps:
        plain = ConversionSampler(corpus, config.batch, config.seed) if isinstance(sampler, DeviceSampler) else sampler
        pretrain_content(model.content, plain, config, tell)


def load_perceptual(config: ConversionTraining, vocoder: Vocoder, device: torch.device) -> PerceptualLosses:
    """With the frozen networks of the losses that are on."""
    speaker_encoder, asr_encoder = None, None
    if config.losses.speaker_similarity:
        speaker_encoder = load_campplus(config.speaker_encoder).to(device)
    if config.losses.content_consistency:
        asr_encoder = load_moonshine(config.loss_asr_encoder or config.corpus.asr_encoder).to(device)
    return PerceptualLosses(vocoder, speaker_encoder, asr_encoder)


def train(config: ConversionTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, perceptual, show = build(config, resume)
    accelerator, weights = run.accelerator, config.losses
    learner, discriminator = run.modules
    bare, bare_discriminator = run.bare
    optimizer, critic_optimizer = run.optimizers
    with run:
        for step in run.steps(show):
            rate = learning_rate(step, config.optimizer)
            set_rate(optimizer, rate)
            set_rate(critic_optimizer, rate * config.optimizer.critic_rate)
            judged = weights.discriminates(step)

            found = []
            for batch in run.batches():
                with accelerator.autocast():
                    losses, fakes = learner(batch, step)
                    if judged:  # bare: its own gradients are not wanted here, in no process
                        losses |= realism_losses(bare_discriminator, batch.clean.mel, fakes, weights)
                    if perceptual and fakes and fakes.converted:
                        losses |= perceptual(fakes.converted, bare.voices)
                accelerator.backward(weigh(losses, weights))
                if judged:
                    with accelerator.autocast():
                        losses["critic"] = critic_loss(discriminator, batch.clean.mel, fakes)
                    accelerator.backward(losses["critic"])
                found.append(losses)

            norms = {"generator": accelerator.clip_grad_norm_(learner.parameters(), config.optimizer.clip)}
            if judged:
                norms["discriminator"] = gradient_norm(accelerator, discriminator)
            if run.guard.passes(step, **norms):  # one bad batch must not poison the weights
                optimizer.step()
                if judged:
                    critic_optimizer.step()
                run.count(step, *found, {"gradient": norms["generator"]})
    return run.path


@torch.no_grad()
def validate(
    model: ConversionModel,
    vocoder: Vocoder | None,
    sampler: ConversionSampler,
    held_out: HeldOut,
    monitor: Monitor,
    step: int,
) -> dict[str, float]:
    """Reconstruction and conversion of held-out clips, always the same ones; pictures (and the sound) of a few."""
    device = next(model.parameters()).device
    total, rounds = 0.0, 4
    for index in range(rounds):
        batch = to_tensors(sampler.batch(index), device)
        (source, features), (reference, reference_features) = batch.source, batch.reference
        mel = model(source, batch.pitch, reference, who(batch, model.config), features, reference_features)
        total += mel_l1(mel, batch.clean.mel).item()
    found = {"validation": total / rounds} | held_out(model, step)
    monitor.losses(step, found)
    for k in range(min(2, len(source))):
        rows = [mels[k].cpu().numpy() for mels in (source, batch.clean.mel)]
        result, pitch = mel[k].cpu().numpy(), batch.pitch[k].cpu().numpy()
        monitor.picture(step, f"source, target, result/{k}", [*rows, result])
        if vocoder:
            for name, voice in (("target", rows[1]), ("result", result)):
                monitor.sound(step, f"{name}/{k}", speak(vocoder, voice, pitch), OUTPUT_RATE)
    return found
