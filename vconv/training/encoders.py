"""Training of all that lies between a wave and the content code, for the decoder and the codebooks as they are.

ASR encoder, denoiser and content encoder are trained together, and the decoder and the bottleneck behind them stay
frozen, so that a new decoder and new encoders can be trained at the same time and then used together. Two kinds of
batches alternate in each step:

- Clips with phones, in any language, disturbed or not: the frozen decoder is to make of their code the same words in
  another voice, as the corpus's parallel groups have them, and a CTC head reads the phones off the code.
- Crops, disturbed or broken off as in live conversion: their features and their code are to be those that the networks
  gave before the training for the whole clean crop, with its instance norm statistics (Li et al. 2017, "Large-Scale
  Domain Adaptation via Teacher-Student Learning", section 2).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Generic, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vconv.config import ConversionConfig, Precision
from vconv.data.aligned_waves import AlignedBatch, AlignedConfig, AlignedSampler
from vconv.data.corpus import Corpus
from vconv.data.crops import Array
from vconv.errors import InputError
from vconv.models.content_encoder import ContentEncoder
from vconv.models.conversion import ConversionModel
from vconv.models.norm_statistics import NormStatistics
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine
from vconv.models.speaker_classifier import PhoneHead
from vconv.training.journal import Monitor
from vconv.training.loader import to_tensors
from vconv.training.loop import Run, Validation
from vconv.training.losses import mel_l1, phone_ctc, validated, weigh
from vconv.training.optimizer import learning_rate
from vconv.training.perceptual import clip_embeddings, content_distance
from vconv.training.robust_frontend import RobustFrontendBatch, RobustFrontendBatchConfig, RobustFrontendSampler
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig
from vconv.training.start import Start, begin
from vconv.training.trained import load_conversion_behind

HEAD_RATE = 6.0  # learning rate of the phone head, which begins with random weights, as a multiple of the others'


@dataclass(frozen=True)
class EncodersBatchConfig:
    aligned: AlignedConfig = AlignedConfig()
    crops: RobustFrontendBatchConfig = RobustFrontendBatchConfig(items=5, seconds=3.6, broken_off=0.6)
    # of the crops; the encoders are to stay as they were for these alone. (): all
    crop_languages: tuple[str, ...] = ("en",)


@dataclass(frozen=True)
class EncodersLossConfig:
    """Weights."""

    reconstruction: float = 2.0  # of the same words in the other voice
    phones: float = 0.2
    content_consistency: float = 2.0  # one less the cosine of the ASR features of crops
    code: float = 1.0  # squared difference of what the content encoder gives for crops, by its variance
    code_in_use: float = 1.0  # the same behind the bottleneck


@dataclass(frozen=True)
class EncodersTraining:
    task: Literal["encoders"] = "encoders"
    output: str = "runs/encoders"
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    conversion: str = ""  # a conversion checkpoint or model folder to begin with
    asr_encoder: str = ""  # the ONNX file that it was trained with
    speaker_encoder: str = ""  # .safetensors
    corpus: CorpusConfig = CorpusConfig()
    model: ConversionConfig = ConversionConfig()  # as it was trained: what is set here is not used
    batch: EncodersBatchConfig = EncodersBatchConfig()
    losses: EncodersLossConfig = EncodersLossConfig()
    asr_encoder_rate: float = 0.33  # its learning rate, as a multiple of the content encoder's
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


class EncodersBatch(NamedTuple, Generic[Array]):
    aligned: AlignedBatch[Array]
    crops: RobustFrontendBatch[Array]


class EncodersSampler:
    """Batches of both kinds."""

    def __init__(self, corpus: Corpus, config: EncodersBatchConfig, seed: int, voices: np.ndarray) -> None:
        self.seed, self.aligned = seed, AlignedSampler(corpus, config.aligned, seed, voices)
        self.crops = RobustFrontendSampler(in_languages(corpus, config.crop_languages), config.crops, seed)

    def batch(self, step: int, rank: int = 0) -> EncodersBatch[np.ndarray]:
        return EncodersBatch(self.aligned.batch(step, rank), self.crops.batch(step, rank))


def in_languages(corpus: Corpus, languages: tuple[str, ...]) -> Corpus:
    """The part of a corpus in these languages; all of it where there is none, or none are given."""
    items = [item for item in corpus.items if item.language in languages]
    return replace(corpus, items=items) if items else corpus


class Trained(nn.Module):
    """What is exported: the ASR encoder, and the conversion model, of which the content encoder alone is trained."""

    def __init__(self, asr_encoder: Moonshine, conversion: ConversionModel) -> None:
        super().__init__()
        self.asr_encoder, self.conversion = asr_encoder.requires_grad_(True), conversion.requires_grad_(False)
        conversion.content.requires_grad_(True)


class Before(NamedTuple):
    """The encoders as they were. No nn.Module: checkpoints leave them out."""

    asr_encoder: Moonshine
    content: ContentEncoder


class EncodersLearner(nn.Module):
    """The encoders and a phone head: a batch in, losses by name out."""

    def __init__(self, trained: Trained, before: Before, phones: int) -> None:
        super().__init__()
        self.trained, self._before = trained, before
        self.phone_head = PhoneHead(trained.conversion.config.content_channels, phones + 1)

    def forward(self, batch: EncodersBatch[Tensor]) -> dict[str, Tensor]:
        return self.aligned_losses(batch.aligned) | self.crop_losses(batch.crops)

    def aligned_losses(self, batch: AlignedBatch[Tensor]) -> dict[str, Tensor]:
        model = self.trained.conversion
        with torch.no_grad():
            reference = encoded(*self._before, batch.reference, batch.reference_mel)[1]
            reference, embedding = model.bottleneck.encode(reference).z_q, model.embed(batch.reference_mel, batch.voice)
        z = encoded(self.trained.asr_encoder, model.content, batch.source, batch.source_mel)[1]
        code = model.bottleneck.encode(z).z_q
        mel = model.decoder(code, batch.pitch, embedding, reference, batch.reference_mel)
        frames = (batch.frames + 1) // 2
        return {
            "reconstruction": mel_l1(mel, batch.wanted),
            "phones": phone_ctc(self.phone_head(code), frames, batch.phones, batch.counts),
        }

    def crop_losses(self, batch: RobustFrontendBatch[Tensor]) -> dict[str, Tensor]:
        model, frames, first = self.trained.conversion, len(batch.weights), int(batch.first)
        with torch.no_grad(), NormStatistics() as statistics:
            whole = encoded(*self._before, batch.clean, batch.whole_mel)
        wanted = [x[:, :, first : first + frames].float() for x in whole]
        broken_off = batch.disturbed_mel.shape[2] != batch.whole_mel.shape[2]
        given = [x.float() for x in statistics.reported] if broken_off else []
        with NormStatistics(*given, *(x.new_ones(len(x)) for x in given)):
            found = encoded(self.trained.asr_encoder, model.content, batch.disturbed, batch.disturbed_mel)
        found = [x[:, :, :frames].float() for x in found]
        in_use = [model.bottleneck.encode(z).z_q for z in (found[1], wanted[1])]
        return {
            "content_consistency": content_distance(found[0], wanted[0], batch.weights),
            "code": difference(found[1], wanted[1], batch.weights),
            "code_in_use": difference(*in_use, batch.weights),
        }


def encoded(asr_encoder: Moonshine, content: ContentEncoder, wave: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
    """ASR features [B, R, T / 2] of waves [B, N] with their mels [B, N_MELS, T], and what the content encoder gives."""
    features = asr_encoder(wave)[:, :, : mel.shape[2] // 2]
    return features, content(mel, features)


def difference(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Squared difference of codes [B, C, T], by the variance of the wanted one, weighted over frames [T]."""
    return ((found - wanted).square().mean(dim=1) * weights).sum(dim=1).mean() / (wanted.var() + 1e-4)


def check_settings(config: EncodersTraining) -> None:
    """Raise InputError for settings that are missing or impossible."""
    for name in ("conversion", "asr_encoder", "speaker_encoder"):
        if not getattr(config, name):
            raise InputError(f"{name}: a training of encoders begins with a trained model and its encoders; set {name}")
    if config.batch.aligned.reference_frames % 2:
        raise InputError("batch.aligned.reference_frames: a frame of the code spans two; use an even number")


def build(config: EncodersTraining, resume: bool) -> tuple[Run, Validation]:
    """The run and its validation."""
    check_settings(config)
    asr_encoder = load_moonshine(config.asr_encoder)
    conversion = load_conversion_behind(asr_encoder, config.asr_encoder, Path(config.conversion))
    if conversion.config.speaker != "pretrained":
        raise InputError(f"{config.conversion}: use a model with `speaker: pretrained`")
    start = begin(config, resume)
    config = replace(config, model=conversion.config)
    device, corpus = start.accelerator.device, start.corpus
    before = Before(*(copy.deepcopy(m).requires_grad_(False).to(device) for m in (asr_encoder, conversion.content)))
    torch.manual_seed(config.seed)
    learner = EncodersLearner(Trained(asr_encoder, conversion), before, len(corpus.phone_set)).to(device)
    optimizers = {"optimizer": make_optimizer(learner, config)}
    sampler = make_sampler(corpus, config, start, config.seed)
    validation = make_validation(config, start)
    measures = ["validation", *(f"validation/{field.name}" for field in fields(config.losses))]
    run = Run(config, start, {"learner": learner}, optimizers, learner.trained, sampler, measures if validation else ())
    return run, partial(validate, learner, validation, config, run.journal.monitor)


def make_sampler(corpus: Corpus, config: EncodersTraining, start: Start, seed: int) -> EncodersSampler:
    with start.accelerator.main_process_first():  # the others then find the embeddings on the disk
        voices = clip_embeddings(corpus, config.speaker_encoder)
    return EncodersSampler(corpus, config.batch, seed, voices)


def make_validation(config: EncodersTraining, start: Start) -> EncodersSampler | None:
    """Of the held-out clips; None, with a note, where none of them can be used."""
    if not start.validation.items:
        return None
    try:
        return make_sampler(start.validation, config, start, config.seed + 1)
    except InputError:  # none is raised but for the clips: the sampler of the training clips has been made
        usable = f"has phones and lasts {config.batch.aligned.seconds:g} s or less"
        start.accelerator.print(f"note: no held-out clip {usable}; this run has no validation")
        return None


def parts_of(learner: EncodersLearner) -> dict[str, nn.Module]:
    """What is trained, by name."""
    trained = learner.trained
    return {"content": trained.conversion.content, "asr_encoder": trained.asr_encoder, "phone_head": learner.phone_head}


def make_optimizer(learner: EncodersLearner, config: EncodersTraining) -> torch.optim.AdamW:
    groups = [{"params": list(part.parameters())} for part in parts_of(learner).values()]
    own = config.optimizer
    return torch.optim.AdamW(groups, own.learning_rate, betas=own.betas, weight_decay=own.weight_decay)


def train(config: EncodersTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    run, show = build(config, resume)
    accelerator, clip = run.accelerator, config.optimizer.clip
    (learner,), (bare,), (optimizer,) = run.modules, run.bare, run.optimizers
    with run:
        for step in run.steps(show):
            rate = learning_rate(step, config.optimizer)
            for group, factor in zip(optimizer.param_groups, (1.0, config.asr_encoder_rate, HEAD_RATE)):
                group["lr"] = factor * rate
            found = []
            for batch in run.batches():
                with accelerator.autocast():
                    losses = learner(batch)
                accelerator.backward(weigh(losses, config.losses))
                found.append(losses)
            # Apart: what the one gets wrong is no reason for the other to learn less.
            parts = parts_of(bare).items()
            norms = {name: accelerator.clip_grad_norm_(part.parameters(), clip) for name, part in parts}
            if run.guard.passes(step, **norms):
                optimizer.step()
                run.count(step, *found, {f"gradient/{part}": norm for part, norm in norms.items()})
    return run.path


@torch.no_grad()
def validate(
    learner: EncodersLearner, sampler: EncodersSampler | None, config: EncodersTraining, monitor: Monitor, step: int
) -> dict[str, float]:
    """Losses and their weighted sum on held-out clips, always the same ones."""
    if sampler is None:
        return {}
    device = next(learner.parameters()).device
    found = [learner(to_tensors(sampler.batch(index), device)) for index in range(4)]
    measured = validated(found, config.losses)
    monitor.losses(step, measured)
    return measured
