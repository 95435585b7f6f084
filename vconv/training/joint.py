"""Joint training of the decoder and the vocoder on waves, after each has been trained by itself.

The encoders stay as they are. A conversion has no recording to be compared with: discriminators of waves, and of the
layers of a frozen ASR encoder and speaker encoder, compare conversions with recordings in general, and the perceptual
losses compare them with the source's content and the target's voice. Against drift, the decoder's mels stay near those
that it predicted before, and the vocoder goes on with recordings.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple

import torch
from torch import Tensor, nn

from vconv.data.batches import ConversionBatch, ConversionSampler
from vconv.data.corpus import Corpus
from vconv.data.crops import Array, Speech
from vconv.data.wave_batches import WaveBatch, WaveSampler, items_of
from vconv.errors import InputError
from vconv.features import OUTPUT_HOP
from vconv.frontends.ends import MIRRORED
from vconv.models.conversion import ConversionModel
from vconv.models.decoder import Decoder
from vconv.models.pretrained.campplus import load_campplus
from vconv.models.pretrained.moonshine import load_moonshine
from vconv.models.vocoder import Vocoder
from vconv.training import checkpoint
from vconv.training.discriminators import Discriminators, check_layers
from vconv.training.guard import gradient_norm
from vconv.training.held_out import Encoders, HeldOut
from vconv.training.joint_losses import (
    LossEncoders,
    Made,
    critic_losses,
    crops,
    perceptual_losses,
    realism_losses,
)
from vconv.training.joint_settings import JointTraining, check_settings
from vconv.training.journal import Monitor
from vconv.training.learner import misplaced_pitch, moved_pitch, without_some_references
from vconv.training.loop import Run, Validation
from vconv.training.losses import mel_l1, spectral_distance, weigh
from vconv.training.optimizer import learning_rate, make_optimizer, set_rate
from vconv.training.perceptual import clip_embeddings, vocoded
from vconv.training.predict import predict_mels
from vconv.training.start import Start, begin
from vconv.training.state import start_from
from vconv.training.trained import JOINT, load_conversion, load_vocoder
from vconv.training.vocoder import VocoderLossConfig, VocoderTraining, with_upper_band
from vconv.training.vocoder import validate as validate_vocoder


class JointBatch(NamedTuple, Generic[Array]):
    speech: ConversionBatch[Array]
    waves: WaveBatch[Array]  # crops as long as those of the speech


class JointSampler:
    """Batches of a sampler of speech and one of waves."""

    def __init__(self, speech: ConversionSampler, waves: WaveSampler) -> None:
        self.seed, self.speech, self.waves = speech.seed, speech, waves

    def batch(self, step: int, rank: int = 0) -> JointBatch:
        return JointBatch(self.speech.batch(step, rank), self.waves.batch(step, rank))


class Both(nn.Module):
    """What is exported: the conversion model, of which the decoder alone is trained, and the vocoder."""

    def __init__(self, conversion: ConversionModel, vocoder: Vocoder) -> None:
        super().__init__()
        self.conversion, self.vocoder = conversion.requires_grad_(False), vocoder.requires_grad_(True)
        conversion.decoder.requires_grad_(True)


class JointLearner(nn.Module):
    """Decoder and vocoder behind the frozen encoders: a batch in, losses by name and waves out."""

    def __init__(self, both: Both, decoder: Decoder, vocoder: Vocoder, config: JointTraining) -> None:
        """``decoder`` and ``vocoder`` are frozen, as they were before."""
        super().__init__()
        self.both, self.config = both, config
        self._before = (decoder, vocoder)  # in a tuple: no part of the state

    def forward(self, batch: JointBatch[Tensor]) -> tuple[dict[str, Tensor], Made]:
        speech, some = batch.speech, slice(-self.config.conversions, None)
        model, frames = self.both.conversion, speech.clean.mel.shape[2]
        end = self._end(frames)
        cut = slice(0, end)
        with torch.no_grad():
            nearest = torch.rand(len(speech.speaker), 1, 1, device=speech.pitch.device) < self._nearest
            content = self._content(speech.reference, nearest)
            embedding, mel = model.embed(speech.reference.mel, speech.speaker_embedding), speech.reference.mel
            reference = without_some_references(content, mel, self.config.losses.reference_dropout)
            code, twin = self._sources(speech, nearest, end)
            whole = twin if end == frames else self._sources(speech, nearest, frames)[1]
        own = model.decoder(code, mirrored_from(speech.pitch, end), embedding, *reference)
        others = [x.roll(1, 0)[some] for x in (embedding, *reference)]
        pitch = misplaced_pitch(moved_pitch(speech.pitch)[some], self.config.misplaced_pitch)
        with torch.no_grad():
            before = self._before[0](whole[some], pitch, *others)
        pitch = mirrored_from(pitch, end)
        converted = model.decoder(twin[some], pitch, *others)
        copies, recordings = self._copies(batch.waves)
        losses = {
            "reconstruction": mel_l1(own[..., cut], speech.clean.mel[..., cut]),
            "anchor": mel_l1(converted[..., cut], before[..., cut]),
            "spectral": spectral_distance(copies, recordings, self.config.losses.n_ffts),
        }
        wave = vocoded(self.both.vocoder, mirrored_from(converted, end), pitch)[:, : end * OUTPUT_HOP]
        voice = speech.speaker_embedding.roll(1, 0)[some]
        source = speech.clean.mel[some][..., cut], speech.clean_pitch[some][..., cut]
        return losses, Made(wave, copies, recordings, *source, voice)

    def _end(self, frames: int) -> int:
        """How many of a crop's frames there are: all, or an even part of them, from half on, where it breaks off."""
        if float(torch.rand(())) >= self.config.broken_off:
            return frames
        return 2 * int(torch.randint(frames // 4, frames // 2 - MIRRORED // 2, ()))

    def _sources(self, speech: ConversionBatch[Tensor], nearest: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Content [B, C, T / 2] of the sources, and of the conversions' sources, which break off at a frame ``end``."""
        parts = (part.each(lambda x, hop: mirrored_from(x, end, hop)) for part in (speech.source, speech.clean))
        code, twin = (self._content(part, nearest) for part in parts)
        twin[::2] = code[::2]  # half of the conversions are of augmented speech
        return code, twin

    @property
    def _nearest(self) -> float:
        """Share of the items that have the nearest entries, as decoded tokens do, in place of the code in use."""
        bottleneck = self.both.conversion.config.bottleneck
        return 1 - bottleneck.soft_probability if bottleneck.soft_probability else 0.0

    def _content(self, speech: Speech[Tensor], nearest: Tensor) -> Tensor:
        """Content [B, C, T / 2], for the items ``nearest`` [B, 1, 1] of the nearest entries."""
        model = self.both.conversion
        code = model.encode(*speech)
        if code.codes is None:
            return code.z_q
        return torch.where(nearest, model.bottleneck.decode(code.codes), code.z_q)

    def _copies(self, waves: WaveBatch[Tensor]) -> tuple[Tensor, Tensor]:
        """Of a part of each crop, the same in all: what the vocoder makes of it and the recording, without context."""
        config, frames = self.config.waves, waves.mel.shape[2]
        length = min(config.frames, frames - 2 * config.context_frames) + 2 * config.context_frames
        first = int(torch.randint(frames - length + 1, ()))
        part, samples = slice(first, first + length), slice(first * OUTPUT_HOP, (first + length) * OUTPUT_HOP)
        inputs = waves.mel[..., part], waves.pitch[..., part], waves.source[:, samples], waves.noise[:, samples]
        inner = slice(config.context_frames * OUTPUT_HOP, (length - config.context_frames) * OUTPUT_HOP)
        copies = self.both.vocoder(*inputs)[:, inner]
        with torch.no_grad():
            above = self._before[1](*inputs)[:, inner] if waves.narrow.any() else copies
        return copies, with_upper_band(waves.wave[:, samples][:, inner], above, waves.narrow)


def mirrored_from(x: Tensor, end: int, hop: int = 1) -> Tensor:
    """Values [..., T], one for ``hop`` frames, up to the frame ``end`` and then ``MIRRORED`` frames mirrored in time.

    That is what live conversion has of sound that goes on. Where nothing lies behind ``end``, nothing is mirrored.
    """
    last, count = end // hop, MIRRORED // hop
    return x if last == x.shape[-1] else torch.cat([x[..., :last], x[..., last - count : last].flip(-1)], dim=-1)


def build(config: JointTraining, resume: bool) -> tuple[Run, LossEncoders, Validation]:
    """The run with both models and the discriminators, the frozen networks of the losses, and the validation."""
    check_settings(config)
    start = begin(config, resume)
    device = start.accelerator.device
    conversion, vocoder = load_conversion(Path(config.conversion)), load_vocoder(Path(config.vocoder))
    if conversion.config.speaker != "pretrained":
        raise InputError(f"{config.conversion}: joint training needs a model with `speaker: pretrained`")
    config = replace(config, model=conversion.config, vocoder_model=vocoder.config)
    sampler = make_sampler(config, start, conversion.to(device))
    encoders = load_loss_encoders(config, copy.deepcopy(vocoder), device)
    torch.manual_seed(config.seed)
    anchor = copy.deepcopy(conversion.decoder).requires_grad_(False)
    learner = JointLearner(Both(conversion, vocoder), anchor, encoders.vocoder, config).to(device)
    discriminators = Discriminators(config.discriminators, encoders.channels).to(device)
    if not start.state:
        take_wave_discriminators(Path(config.vocoder), discriminators)
    modules = {"learner": learner, "discriminators": discriminators}
    optimizers = {
        "optimizer": make_optimizer(learner, config.optimizer),
        "critic_optimizer": make_optimizer(discriminators, config.optimizer),
    }
    held_out = None
    if start.validation.items:
        judged = Encoders(vocoder, encoders.speaker, encoders.asr)
        held_out = HeldOut(start.corpus, start.validation, judged, config.log.held_out, device)
    measures = ("validation", *(held_out.names(conversion) if held_out else ()))
    run = Run(config, start, modules, optimizers, learner.both, sampler, measures, config.losses.discriminators_alone)
    return run, encoders, partial(validate, learner.both, start.validation, held_out, config, run.journal.monitor)


def take_wave_discriminators(path: Path, discriminators: Discriminators) -> None:
    """Go on with those of the vocoder's training, where they fit. A model folder has none."""
    if not checkpoint.to_use(path).is_dir():
        start_from(path, ("vocoder", JOINT), {"discriminators": nn.ModuleDict({"waves": discriminators.waves})})


def load_loss_encoders(config: JointTraining, vocoder: Vocoder, device: torch.device) -> LossEncoders:
    """The frozen networks. Raises InputError where a layer is chosen that one of them does not have."""
    asr = load_moonshine(config.loss_asr_encoder or config.corpus.asr_encoder)
    speaker = load_campplus(config.speaker_encoder)
    check_layers("layers", config.layers, len(asr.layers))
    check_layers("speaker_layers", config.speaker_layers, len(speaker.map_channels()) - 1)
    return LossEncoders(asr.to(device), speaker.to(device), vocoder.to(device), config.layers, config.speaker_layers)


def make_sampler(config: JointTraining, start: Start, conversion: ConversionModel) -> JointSampler:
    """Of the corpus, with the mels that the conversion model predicts now for the vocoder."""
    corpus, own = start.corpus, config.waves
    waves = replace(own, frames=config.batch.frames - 2 * own.context_frames)
    with start.accelerator.main_process_first():  # the others then find on the disk what it has made
        largest = config.batch.other_octaves
        moved = (largest, -largest) if config.batch.other_voice else ()
        voices = {octaves: clip_embeddings(corpus, config.speaker_encoder, octaves) for octaves in (0.0, *moved)}
        predicted = predict_mels(conversion, corpus, items_of(corpus, waves), config.seed, config.speaker_encoder)
    return JointSampler(
        ConversionSampler(corpus, config.batch, config.seed, voices), WaveSampler(corpus, waves, config.seed, predicted)
    )


def train(config: JointTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, encoders, show = build(config, resume)
    accelerator, weights, clip = run.accelerator, config.losses, config.optimizer.clip
    learner, discriminators = run.modules
    bare_discriminators = run.bare[1]
    optimizer, critic_optimizer = run.optimizers
    with run:
        for step in run.steps(show):
            rate = learning_rate(step, config.optimizer)
            set_rate(optimizer, rate)
            set_rate(critic_optimizer, rate * config.optimizer.critic_rate)
            alone = step < weights.discriminators_alone

            found = []
            for batch in run.batches():
                with accelerator.autocast():
                    losses, made = learner(batch)
                    encoded = encoders(made.converted)
                    with torch.no_grad():
                        recorded = encoders(batch.waves.wave[~batch.waves.narrow, : made.converted.shape[1]]).layers
                    converted = crops(made.converted, made.copies.shape[1])
                    if not alone:  # bare: their own gradients are not wanted here, in no process
                        losses |= perceptual_losses(encoders, made, encoded)
                        losses |= realism_losses(bare_discriminators, made, converted, encoded.layers)
                if not alone:
                    accelerator.backward(weigh(losses, weights))
                with accelerator.autocast():
                    critics = critic_losses(discriminators, made, converted, encoded.layers, recorded)
                accelerator.backward(sum(critics.values()))
                found.append(losses | critics)

            norms = {"discriminators": gradient_norm(accelerator, discriminators)}
            if not alone:
                norms["generators"] = accelerator.clip_grad_norm_(learner.parameters(), clip)
            if run.guard.passes(step, **norms):
                critic_optimizer.step()
                if not alone:
                    optimizer.step()
                run.count(step, *found)
    return run.path


@torch.no_grad()
def validate(
    both: Both, corpus: Corpus, held_out: HeldOut | None, config: JointTraining, monitor: Monitor, step: int
) -> dict[str, float]:
    """The vocoder's spectral distance on held-out clips, and measures of held-out conversions."""
    alone = VocoderTraining(seed=config.seed, batch=config.waves, losses=VocoderLossConfig(n_ffts=config.losses.n_ffts))
    found = validate_vocoder(both.vocoder, corpus, alone, monitor, step)
    measured = held_out(both.conversion, step) if held_out else {}
    monitor.losses(step, measured)
    return found | measured
