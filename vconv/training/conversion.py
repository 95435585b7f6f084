"""Training of the conversion model: one loop, read from top to bottom.

A step: draw a batch, run the encoders and the decoder, add up the losses that the config asks for,
step the optimizer; then, once they are switched on, the mel discriminator's own step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vconv.config import Adversary, ConversionConfig, Precision
from vconv.features import OUTPUT_RATE
from vconv.models.conversion import ConversionModel
from vconv.models.discriminators import MelDiscriminator
from vconv.models.layers import GradientReversal
from vconv.models.speaker_classifier import PhoneHead, SpeakerClassifier, SpeakerHead
from vconv.models.vocoder import Vocoder
from vconv.training import checkpoint
from vconv.training.batches import BatchConfig, ConversionSampler, Corpus
from vconv.training.common import (
    CHECKPOINT,
    Averages,
    CorpusConfig,
    Ema,
    LogConfig,
    Monitor,
    OptimizerConfig,
    SaveClock,
    averaged,
    frozen,
    learning_rate,
    make_optimizer,
    pack_state,
    require_corpus,
    restore_state,
    resume_state,
    set_rate,
    to_tensors,
)
from vconv.training.load import load_vocoder, speak
from vconv.training.losses import (
    code_consistency,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
    mel_l1,
    phone_ctc,
    uniform_confusion,
)


@dataclass(frozen=True)
class LossConfig:
    """Weights; a loss of weight 0 is not computed."""

    reconstruction: float = 10.0
    commitment: float = 0.25
    consistency: float = 0.5  # code of the disturbed or parallel source against the clean target's
    speaker: float = 0.5  # angular margin head on the embedding
    adversary: float = 0.1
    adversary_kind: Adversary = "reversal"
    adversary_from: int = 1000  # step
    phones: float = 0.5
    cycle: float = 0.0  # converted mel encoded again: same content, the target's embedding
    cycle_items: int = 6
    cycle_from: int = 3000  # step
    realism: float = 0.0  # patch discriminator on the mel
    realism_from: int = 4000  # step
    matching: float = 2.0  # its feature maps


@dataclass(frozen=True)
class ConversionTraining:
    task: Literal["conversion"] = "conversion"
    output: str = "runs/conversion"
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    listen: str = ""  # a vocoder checkpoint: validation is then heard in TensorBoard, not only seen
    corpus: CorpusConfig = CorpusConfig()
    model: ConversionConfig = ConversionConfig()
    batch: BatchConfig = BatchConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


class Learner(nn.Module):
    """The conversion model with the heads that exist in training only; ``forward`` gives the losses."""

    def __init__(self, config: ConversionTraining, speakers: int, phones: int) -> None:
        super().__init__()
        self.weights = config.losses
        model = config.model
        self.model = ConversionModel(model)
        self.speaker_head = SpeakerHead(model.embedding_channels, speakers)
        self.classifier = SpeakerClassifier(model.content_channels, speakers)
        self.phone_head = PhoneHead(model.content_channels, phones + 1)

    def forward(self, batch: dict[str, Tensor], step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Unweighted losses by name, and what the discriminator needs: mel and embedding of its fakes."""
        weights, model = self.weights, self.model
        z = model.content(batch["source"])
        code = model.bottleneck(z)
        embedding = model.speaker(batch["reference"])
        mel = model.decoder(code.z_q, batch["pitch"], embedding)
        losses = {"reconstruction": mel_l1(mel, batch["clean"]), "commitment": code.loss}
        if weights.consistency:
            with torch.no_grad():
                twin = model.content(batch["clean"])
            losses["consistency"] = code_consistency(z, twin)
        if weights.speaker:
            logits = self.speaker_head(embedding, batch["speaker"])
            losses["speaker"] = nn.functional.cross_entropy(logits, batch["speaker"])
        if weights.adversary and weights.adversary_kind != "off" and step >= weights.adversary_from:
            losses |= self._adversary(code.z_q, batch["source_speaker"])
        if weights.phones and len(batch["phones"]):
            spoken = model.bottleneck(model.content(batch["phone_mel"])).z_q
            frames, counts = batch["phone_frames"] // 2, batch["phone_counts"]
            losses["phones"] = phone_ctc(self.phone_head(spoken), frames, batch["phones"], counts)
        fakes = {"mel": mel, "embedding": embedding.detach()}
        if (weights.cycle or weights.realism) and step >= weights.cycle_from:
            items = weights.cycle_items
            other = embedding[:items].roll(1, 0).detach()
            converted = model.decoder(code.z_q[:items], self._moved_pitch(batch["pitch"][:items]), other)
            if weights.cycle:
                with frozen(model.content, model.speaker):
                    again, voice = model.content(converted), model.speaker(converted)
                losses["cycle"] = code_consistency(again, z[:items]) + (1 - (voice * other).sum(dim=1)).mean()
            fakes = {"mel": torch.cat([mel, converted]), "embedding": torch.cat([fakes["embedding"], other])}
        return losses, fakes

    def _adversary(self, z_q: Tensor, speaker: Tensor) -> dict[str, Tensor]:
        """The classifier's loss; with reversal the encoder gets its negative, else a loss of its own."""
        if self.weights.adversary_kind == "reversal":
            logits = self.classifier(GradientReversal.apply(z_q))
            return {"adversary": nn.functional.cross_entropy(logits, speaker)}
        own = nn.functional.cross_entropy(self.classifier(z_q.detach()), speaker)
        with frozen(self.classifier):
            return {"adversary": own + uniform_confusion(self.classifier(z_q))}

    @staticmethod
    def _moved_pitch(pitch: Tensor) -> Tensor:
        """The curves moved into the register of the neighbour that lends its voice: [B, 2, T]"""
        curve, voiced = pitch[:, :1], pitch[:, 1:]
        middle = (curve * voiced).sum(dim=2, keepdim=True) / voiced.sum(dim=2, keepdim=True).clamp(min=1)
        return torch.cat([curve - middle + middle.roll(1, 0), voiced], dim=1)


def weigh(losses: dict[str, Tensor], weights: LossConfig) -> Tensor:
    return sum(getattr(weights, name) * value for name, value in losses.items())


def train(config: ConversionTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(mixed_precision=config.precision)
    folder = Path(config.output)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    state = resume_state(folder, resume)
    corpus, validation = require_corpus(config.corpus, accelerator.is_main_process, accelerator.wait_for_everyone)
    sampler = ConversionSampler(corpus, config.batch, config.seed)
    torch.manual_seed(config.seed)
    learner = Learner(config, len(corpus.speakers), len(corpus.phone_set)).to(accelerator.device)
    discriminator = MelDiscriminator(config.model.embedding_channels).to(accelerator.device)
    optimizer = make_optimizer(learner, config.optimizer)
    critic_optimizer = make_optimizer(discriminator, config.optimizer)
    ema = Ema(learner.model, config.optimizer.ema)
    parts = {
        "learner": learner,
        "discriminator": discriminator,
        "optimizer": optimizer,
        "critic_optimizer": critic_optimizer,
    }
    first = restore_state(state, ema, accelerator.device, parts) if state else 0
    bare = learner
    learner, discriminator, optimizer, critic_optimizer = accelerator.prepare(
        learner, discriminator, optimizer, critic_optimizer
    )
    monitor = Monitor(folder, config.optimizer.steps, first, accelerator.is_main_process)
    vocoder = load_vocoder(Path(config.listen)) if config.listen else None
    averages, clock = Averages(), SaveClock(config.log, config.optimizer.steps)
    try:
        for step in range(first, config.optimizer.steps):
            rate = learning_rate(step, config.optimizer)
            set_rate(optimizer, rate)
            set_rate(critic_optimizer, rate)
            batch = to_tensors(sampler.batch(step, accelerator.process_index), accelerator.device)
            judged = config.losses.realism > 0 and step >= config.losses.realism_from

            with accelerator.autocast():
                losses, fakes = learner(batch, step)
                if judged:
                    losses |= realism_losses(discriminator, batch["clean"], fakes)
            accelerator.backward(weigh(losses, config.losses))
            norm = accelerator.clip_grad_norm_(learner.parameters(), config.optimizer.clip)
            if torch.isfinite(norm):  # one bad batch must not poison the weights
                optimizer.step()
            optimizer.zero_grad()
            ema.update(bare.model, step)

            if judged:
                with accelerator.autocast():
                    critic = critic_loss(discriminator, batch["clean"], fakes)
                accelerator.backward(critic)
                critic_optimizer.step()
                critic_optimizer.zero_grad()
                losses["critic"] = critic

            averages.add({**losses, "gradient": norm})
            done = step + 1
            if done % config.log.every == 0:
                monitor.losses(done, averages.take())
            if done % config.log.validate_every == 0 and validation.items:
                with averaged(bare.model, ema):
                    validate(bare.model, vocoder, validation, config, monitor, done)
            if clock.due(done) and accelerator.is_main_process:
                checkpoint.save(folder / CHECKPOINT, pack_state(config, done, ema, parts))
    finally:
        monitor.close()
    return folder / CHECKPOINT


def realism_losses(discriminator: nn.Module, real: Tensor, fakes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's side: to be taken for real, and to look like the real one inside the discriminator.

    The first ``len(real)`` fakes have a real counterpart, conversions that follow have none.
    """
    items = len(real)
    with frozen(discriminator):
        scores, maps = discriminator(fakes["mel"], fakes["embedding"])
        with torch.no_grad():
            _, real_maps = discriminator(real, fakes["embedding"][:items])
    return {
        "realism": generator_hinge([scores]),
        "matching": feature_matching([real_maps], [[m[:items] for m in maps]]),
    }


def critic_loss(discriminator: nn.Module, real: Tensor, fakes: dict[str, Tensor]) -> Tensor:
    """The discriminator's side."""
    embedding = fakes["embedding"]
    both = torch.cat([real, fakes["mel"].detach()])
    scores, _ = discriminator(both, torch.cat([embedding[: len(real)], embedding]))
    return discriminator_hinge([scores[: len(real)]], [scores[len(real) :]])


@torch.no_grad()
def validate(
    model: ConversionModel,
    vocoder: Vocoder | None,
    corpus: Corpus,
    config: ConversionTraining,
    monitor: Monitor,
    step: int,
) -> None:
    """Reconstruction on held-out clips, always the same ones, and pictures (and the sound) of a few."""
    sampler = ConversionSampler(corpus, config.batch, config.seed + 1)
    device = next(model.parameters()).device
    total, rounds = 0.0, 4
    for index in range(rounds):
        batch = to_tensors(sampler.batch(index), device)
        mel = model(batch["source"], batch["pitch"], batch["reference"])
        total += mel_l1(mel, batch["clean"]).item()
    monitor.losses(step, {"validation": total / rounds})
    for k in range(2):
        rows = [batch[name][k].cpu().numpy() for name in ("source", "clean")]
        result, pitch = mel[k].cpu().numpy(), batch["pitch"][k].cpu().numpy()
        monitor.picture(step, f"source, target, result/{k}", [*rows, result])
        if vocoder:
            for name, voice in (("target", rows[1]), ("result", result)):
                monitor.sound(step, f"{name}/{k}", speak(vocoder, voice, pitch), OUTPUT_RATE)
