"""Training of the conversion model: one loop, read from top to bottom.

A step: draw a batch (or several, whose gradients add up), run the encoders and the decoder, add up the
losses that the config asks for, step the optimizer; once it is switched on, the mel discriminator as well.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vconv.config import Adversary, ConversionConfig, Precision
from vconv.data.batches import BatchConfig, ConversionSampler
from vconv.data.corpus import PSEUDO_LABELS, Corpus
from vconv.errors import InputError
from vconv.features import LOG_MEL_MIDDLE, OUTPUT_RATE
from vconv.models.content_encoder import ContentEncoder
from vconv.models.conversion import ConversionModel
from vconv.models.discriminators import MelDiscriminator
from vconv.models.layers import GradientReversal
from vconv.models.pretrained.campplus import load_campplus
from vconv.models.pretrained.moonshine import load_moonshine
from vconv.models.speaker_classifier import CodeClassifier, PhoneHead, SpeakerClassifier, SpeakerHead
from vconv.models.speaker_encoder import SpeakerEncoder, SpeakerProjection
from vconv.models.speaker_table import SpeakerTable
from vconv.models.vocoder import Vocoder
from vconv.training.contractive import contractive_penalty
from vconv.training.guard import StepGuard, gradient_norm
from vconv.training.held_out import HeldOut, load_encoders
from vconv.training.information import ContentInformation, FuturePrediction, SpeakerInformation
from vconv.training.journal import Journal, Monitor
from vconv.training.layerwise import PretrainConfig, pretrain
from vconv.training.loader import draw, to_tensors
from vconv.training.losses import (
    code_consistency,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
    label_cross_entropy,
    mel_l1,
    phone_ctc,
    pseudo_label_cross_entropy,
    uniform_confusion,
)
from vconv.training.optimizer import Ema, frozen, learning_rate, make_optimizer, set_rate
from vconv.training.perceptual import (
    Converted,
    PerceptualLosses,
    clip_embeddings,
    speaker_embeddings,
    speaker_similarity,
)
from vconv.training.projection import fit_projection
from vconv.training.robust_frontend import load_robust_frontend
from vconv.training.settings import CorpusConfig, LogConfig, OptimizerConfig
from vconv.training.start import Start, begin, check_agreement, leave
from vconv.training.state import CHECKPOINT, restore_state, start_from
from vconv.training.table import measure_registers, with_speakers
from vconv.training.trained import load_vocoder, speak


@dataclass(frozen=True)
class LossConfig:
    """Weights; a loss of weight 0 is not computed."""

    reconstruction: float = 10.0
    commitment: float = 0.25
    code_consistency: float = 0.5  # between the codes of the augmented or parallel source and of the clean target
    speaker: float = 0.5  # angular margin head on the embedding
    adversary: float = 0.1
    adversary_kind: Adversary = "reversal"
    adversary_from: int = 1000  # step
    adversary_label: str = "speaker"  # or another column of the manifest: sex, language, accent ...
    cpc: float = 0.0  # contrastive predictive coding (information.FuturePrediction)
    cpc_steps: int = 6  # code frames ahead, all from 1 on
    content_information: float = 0.0  # between speech and code, raised (information.ContentInformation)
    speaker_information: float = 0.0  # between code and embedding, lowered (information.SpeakerInformation)
    speaker_information_from: int = 1000  # step
    contractive: float = 0.0  # squared Jacobian of the content encoder (contractive.contractive_penalty)
    phones: float = 0.5
    pseudo_labels: float = 0.0  # predicted from each frame of the code: the manifest's column of that name
    speaker_embedding: float = 0.0  # pretrained mean embedding of the speaker, predicted from the embedding
    # Perceptual losses, on conversions through the vocoder: against the target's speaker and the source's content.
    speaker_similarity: float = 0.0
    content_consistency: float = 0.0
    cycle: float = 0.0  # converted mel encoded again: same content, the target's embedding
    cycle_items: int = 6  # conversions in a batch, for the cycle, the discriminator and the perceptual losses
    cycle_from: int = 3000  # step
    realism: float = 0.0  # patch discriminator on the mel
    realism_from: int = 4000  # step
    matching: float = 2.0  # its feature maps
    reference_dropout: float = 0.1  # share of items whose decoder has the embedding alone

    @property
    def has_adversary(self) -> bool:
        return self.adversary > 0 and self.adversary_kind != "off"

    @property
    def label(self) -> str:
        """The manifest's column that the adversary predicts."""
        return self.adversary_label if self.has_adversary else "speaker"

    def discriminates(self, step: int) -> bool:
        """Whether the discriminator is trained and used."""
        return self.realism > 0 and step >= self.realism_from

    @property
    def complete_from(self) -> int:
        """Step from which all losses are on: validations before that are no measure for those after it."""
        begins = {
            self.adversary_from: self.has_adversary,
            self.speaker_information_from: bool(self.speaker_information),
            self.cycle_from: bool(self.cycle and self.cycle_items),
            self.realism_from: bool(self.realism),
        }
        return max((step for step, on in begins.items() if on), default=0)

    @property
    def decodes(self) -> bool:
        """Whether any loss needs the decoder; without one, only the encoders train, several times faster."""
        return bool(self.reconstruction or self.realism or self.cycle)

    def converts(self, step: int) -> bool:
        """Whether some items are converted: for the cycle, the discriminator or the perceptual losses.

        With a cycle, the others wait for ``cycle_from``.
        """
        if not self.cycle_items:
            return False
        return step >= self.cycle_from if self.cycle else self.discriminates(step) or self.has_perceptual

    @property
    def has_perceptual(self) -> bool:
        """Whether there are perceptual losses."""
        return bool(self.speaker_similarity or self.content_consistency)

    @property
    def needs_speaker_encoder(self) -> bool:
        """Whether a speaker encoder is needed."""
        return bool(self.speaker_embedding or self.speaker_similarity)


@dataclass(frozen=True)
class ConversionTraining:
    task: Literal["conversion"] = "conversion"
    output: str = "runs/conversion"
    start_from: str = ""  # a conversion checkpoint or a model folder, for the weights that fit
    robust_frontend: str = ""  # a robust_frontend checkpoint, for its denoiser
    seed: int = 0
    precision: Precision = "no"
    threads: int = 0  # of torch on the CPU; 0 leaves its own choice
    vocoder: str = ""  # a vocoder checkpoint or model folder: for perceptual losses, and sound in TensorBoard
    speaker_encoder: str = ""  # .safetensors: for `model.speaker: pretrained` and the losses that compare speakers
    loss_asr_encoder: str = ""  # ONNX file: for losses.content_consistency; default: corpus.asr_encoder
    corpus: CorpusConfig = CorpusConfig()
    model: ConversionConfig = ConversionConfig()
    pretrain: PretrainConfig = PretrainConfig()
    batch: BatchConfig = BatchConfig()
    losses: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    log: LogConfig = LogConfig()


def who(batch: dict[str, Tensor], config: ConversionConfig) -> Tensor:
    """The speaker input of the model: pretrained embedding [B, V] or number [B]."""
    return batch["speaker_embedding" if config.speaker == "pretrained" else "speaker"]


class Fakes(NamedTuple):
    """What the decoder made of a batch, for losses outside the learner."""

    mel: Tensor  # [B + K, N_MELS, T]: reconstructions, then K conversions
    embedding: Tensor  # [B + K, E] of the speakers that they should sound like
    converted: Converted | None = None  # the conversions, for the perceptual losses


class Learner(nn.Module):
    """The conversion model with the heads that exist in training only; ``forward`` gives the losses.

    ``labels`` is the number of classes of the adversary, where these are not the speakers; ``voices`` [speakers, E] are
    their embeddings by a speaker encoder.
    """

    def __init__(
        self,
        config: ConversionTraining,
        speakers: int,
        phones: int,
        labels: int = 0,
        pseudo_labels: int = 0,
        voices: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weights = weights = config.losses
        model, channels, embedding = config.model, config.model.content_channels, config.model.embedding_channels
        self.model = ConversionModel(model)
        self.speaker_head = SpeakerHead(embedding, speakers)
        named = weights.label != "speaker"
        self.classifier = CodeClassifier(channels, labels) if named else SpeakerClassifier(channels, embedding)
        self.phone_head = PhoneHead(channels, phones + 1)
        self.pseudo_label_head = PhoneHead(channels, pseudo_labels) if weights.pseudo_labels else None
        self.register_buffer("voices", voices, persistent=False)
        self.speaker_embedding_head = nn.Linear(embedding, voices.shape[1]) if weights.speaker_embedding else None
        self.future = FuturePrediction(channels, weights.cpc_steps) if weights.cpc else None
        self.content_critic = ContentInformation(channels) if weights.content_information else None
        self.speaker_critic = SpeakerInformation(channels, embedding) if weights.speaker_information else None

    def forward(self, batch: dict[str, Tensor], step: int) -> tuple[dict[str, Tensor], Fakes | None]:
        """Unweighted losses by name, and fakes for the discriminator and the perceptual losses, where these are on."""
        weights, model = self.weights, self.model
        model.bottleneck.anneal(step)
        # At inference the source is mostly clean: the adversary works on the code of clean speech.
        asr_features = torch.cat([batch["source_asr_features"], batch["clean_asr_features"]])
        both = model.content(torch.cat([batch["source"], batch["clean"]]), asr_features)
        code = model.bottleneck(both)
        (z, twin), (z_q, twin_q) = both.chunk(2), code.z_q.chunk(2)
        embedding = model.embed(batch["reference"], who(batch, model.config))
        losses = {}
        if weights.decodes:
            reference = self._reference(batch["reference"], batch["reference_asr_features"])
            mel = model.decoder(z_q, batch["pitch"], embedding, *reference)
        if weights.reconstruction:
            losses["reconstruction"] = mel_l1(mel, batch["clean"])
        if weights.commitment:
            losses["commitment"] = code.loss
        if weights.code_consistency:
            losses["code_consistency"] = (code_consistency(z, twin) + code_consistency(twin, z)) / 2
        if weights.contractive:
            losses["contractive"] = contractive_penalty(model.content, batch["clean"], batch["clean_asr_features"])
        if weights.speaker:
            logits = self.speaker_head(embedding, batch["speaker"].clamp(min=0))
            losses["speaker"] = label_cross_entropy(logits, batch["speaker"])
        if self.speaker_embedding_head is not None:
            read = nn.functional.normalize(self.speaker_embedding_head(embedding).float(), dim=1)
            losses["speaker_embedding"] = speaker_similarity(read, self.voices, batch["speaker"])
        if weights.has_adversary and step >= weights.adversary_from:
            losses |= self._adversary(twin_q, batch["label"])
        losses |= self._information(batch, twin_q, embedding, step)
        if weights.phones and len(batch["phones"]):
            spoken = model.bottleneck(model.content(batch["phone_mel"], batch["phone_asr_features"])).z_q
            frames, counts = batch["phone_frames"] // 2, batch["phone_counts"]
            losses["phones"] = phone_ctc(self.phone_head(spoken), frames, batch["phones"], counts)
        if self.pseudo_label_head is not None:
            losses["pseudo_labels"] = pseudo_label_cross_entropy(
                self.pseudo_label_head(code.z_q), batch["pseudo_labels"].repeat(2, 1)
            )
        if not weights.decodes:
            return losses, None
        fakes = Fakes(mel, embedding.detach())
        if weights.converts(step):
            # The last items: those have no twin in another voice.
            some = slice(-weights.cycle_items, None)
            other, *other_reference = (x.roll(1, 0)[some] for x in (embedding, *reference))
            wanted = other.detach()
            pitch = self._moved_pitch(batch["pitch"])[some]
            content = twin_q
            if weights.content_consistency:  # augmented sources too, against the clean clip
                content = twin_q.clone()
                content[::2] = z_q[::2]
            converted = model.decoder(content[some], pitch, other, *other_reference)
            if weights.cycle:  # from the mel alone, without ASR features
                with frozen(model.content, model.speaker):
                    losses["cycle"] = code_consistency(model.content(converted), twin[some])
                    if isinstance(model.speaker, SpeakerEncoder):  # the others take no mel
                        losses["cycle"] = losses["cycle"] + (1 - (model.speaker(converted) * wanted).sum(dim=1)).mean()
            fakes = Fakes(torch.cat([mel, converted]), torch.cat([fakes.embedding, wanted]))
            if weights.has_perceptual:
                speaker, speaker_embedding = (batch[name].roll(1, 0)[some] for name in ("speaker", "speaker_embedding"))
                source, source_pitch = batch["clean"][some], batch["clean_pitch"][some]
                found = Converted(converted, pitch, source, source_pitch, speaker, speaker_embedding)
                fakes = fakes._replace(converted=found)
        return losses, fakes if weights.discriminates(step) or weights.has_perceptual else None

    @torch.no_grad()
    def _reference(self, mel: Tensor, asr_features: Tensor) -> tuple[Tensor, Tensor]:
        """Content and mel of the reference for the decoder's attention, for some items of no reference at all."""
        content = self.model.encode(mel, asr_features).z_q
        dropped = torch.rand(len(mel), 1, 1, device=mel.device) < self.weights.reference_dropout
        return content.masked_fill(dropped, 0.0), mel.masked_fill(dropped, LOG_MEL_MIDDLE)

    def _adversary(self, z_q: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The classifier's loss; with reversal the encoder gets its negative, else a loss of its own.

        Reversal is that of Ganin and Lempitsky 2015, eq. 13; the encoder's own loss, that the classifier's guess
        be uniform, is the domain confusion of Tzeng et al. 2015, "Simultaneous Deep Transfer Across Domains and Tasks".
        """
        if self.weights.adversary_kind == "reversal":
            return {"adversary": label_cross_entropy(self._read(GradientReversal.apply(z_q)), label)}
        own = label_cross_entropy(self._read(z_q.detach()), label)
        with frozen(self.classifier):
            return {"adversary": own + uniform_confusion(self._read(z_q), label >= 0)}

    def _read(self, z_q: Tensor) -> Tensor:
        """The classifier's logits for the labels: [B, K]"""
        if isinstance(self.classifier, SpeakerClassifier):
            return self.classifier(z_q, self.speaker_head.prototypes)
        return self.classifier(z_q)

    def _information(self, batch: dict[str, Tensor], z_q: Tensor, embedding: Tensor, step: int) -> dict[str, Tensor]:
        """Losses of the information critics on the code of clean speech: future frames, the speech, the speaker."""
        losses = {}
        if self.future is not None:
            losses["cpc"] = self.future(z_q)
        if self.content_critic is not None:
            losses["content_information"] = self.content_critic(batch["clean"], z_q)
        if self.speaker_critic is not None and step >= self.weights.speaker_information_from:
            losses["speaker_information"] = self.speaker_critic(z_q, embedding, batch["speaker"])
        return losses

    @staticmethod
    def _moved_pitch(pitch: Tensor) -> Tensor:
        """The curves moved into the register of the neighbour that lends its voice: [B, 2, T]"""
        curve, voiced = pitch[:, :1], pitch[:, 1:]
        middle = (curve * voiced).sum(dim=2, keepdim=True) / voiced.sum(dim=2, keepdim=True).clamp(min=1)
        return torch.cat([curve - middle + middle.roll(1, 0), voiced], dim=1)


def check_settings(config: ConversionTraining) -> None:
    """Raise InputError for settings that contradict one another."""
    if config.model.asr_channels and not config.corpus.asr_encoder:
        raise InputError("model.asr_channels: comes from the ASR encoder; set corpus.asr_encoder")
    steps, frames = config.losses.cpc_steps, config.batch.frames // 2
    if config.losses.cpc and not 0 < steps < frames:
        raise InputError(f"losses.cpc_steps: {steps}: a crop has {frames} code frames; use 1 to {frames - 1}")
    if config.losses.needs_speaker_encoder and not config.speaker_encoder:
        raise InputError(
            "losses.speaker_embedding, losses.speaker_similarity: need a speaker encoder; set speaker_encoder"
        )
    if config.model.speaker == "pretrained" and not config.speaker_encoder:
        raise InputError("model.speaker: speaker encoder: there is none; set speaker_encoder")
    if config.losses.has_perceptual and not config.vocoder:
        raise InputError("losses.speaker_similarity, losses.content_consistency: need a vocoder; set vocoder")
    if config.losses.content_consistency and not (config.loss_asr_encoder or config.corpus.asr_encoder):
        raise InputError("losses.content_consistency: needs an ASR encoder; set corpus.asr_encoder or loss_asr_encoder")
    if config.pretrain.steps and config.start_from:
        raise InputError("pretrain.steps: would overwrite the weights of start_from; use 0, or --from scratch")
    if config.batch.other_voice and config.model.speaker == "table":
        raise InputError("batch.other_voice: a table of speakers has no other voices; use model.speaker encoder, or 0")


def make_sampler(corpus: Corpus, config: ConversionTraining, seed: int) -> ConversionSampler:
    """With the clips' pretrained embeddings, for `model.speaker: pretrained`."""
    voices = {}
    if config.model.speaker == "pretrained":
        largest = config.batch.other_octaves
        moved = (largest, -largest) if config.batch.other_voice else ()
        voices = {octaves: clip_embeddings(corpus, config.speaker_encoder, octaves) for octaves in (0.0, *moved)}
    return ConversionSampler(corpus, config.batch, seed, voices)


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

    def batch(step: int) -> tuple[Tensor, Tensor]:
        drawn = to_tensors(sampler.batch(step), device)
        return drawn["clean"], drawn["clean_asr_features"]

    for layer in pretrain(encoder, batch, config.pretrain):
        if tell:
            print(f"pre-trained {layer.name}: reconstruction error {layer.before:.3f} to {layer.after:.3f}", flush=True)


def weigh(losses: dict[str, Tensor], weights: LossConfig) -> Tensor:
    return sum(getattr(weights, name) * value for name, value in losses.items())


def train(config: ConversionTraining, resume: bool = False) -> Path:
    """Run (or go on with) a training; returns the checkpoint's path."""
    check_settings(config)
    start = begin(config, resume, config.losses.label)
    accelerator, state, corpus = start.accelerator, start.state, start.corpus
    model = dataclasses.replace(config.model, asr_channels=corpus.store.asr_channels)
    if model.speaker == "pretrained":
        model = dataclasses.replace(
            model, speaker_embedding_channels=load_campplus(config.speaker_encoder).config.embedding_channels
        )
    config = dataclasses.replace(config, model=with_speakers(model, corpus, state))
    if config.losses.pseudo_labels and not corpus.pseudo_label_count:
        raise InputError(
            f"losses.pseudo_labels: {config.corpus.manifest} has no column '{PSEUDO_LABELS}'; add it, or use 0"
        )
    with accelerator.main_process_first():  # the others then find the embeddings on the disk
        voices = speaker_embeddings(corpus, config.speaker_encoder) if config.losses.needs_speaker_encoder else None
        sampler = make_sampler(corpus, config, config.seed)
        validation = make_sampler(start.validation, config, config.seed + 1) if start.validation.items else None
    torch.manual_seed(config.seed)
    learner = Learner(
        config, len(corpus.speakers), len(corpus.phone_set), len(corpus.label_set), corpus.pseudo_label_count, voices
    )
    if isinstance(learner.model.speaker, SpeakerTable) and not state:
        measure_registers(learner.model.speaker, corpus)
    learner = learner.to(accelerator.device)
    discriminator = MelDiscriminator(config.model.embedding_channels).to(accelerator.device)
    optimizer = make_optimizer(learner, config.optimizer)
    critic_optimizer = make_optimizer(discriminator, config.optimizer)
    parts = {
        "learner": learner,
        "discriminator": discriminator,
        "optimizer": optimizer,
        "critic_optimizer": critic_optimizer,
    }
    if config.start_from and not state:
        modules = {"learner": learner, "ema": learner.model, "discriminator": discriminator}
        start_from(Path(config.start_from), config.task, modules)
        if isinstance(learner.model.speaker, SpeakerProjection):
            fit_projection(learner.model.speaker, Path(config.start_from), corpus, sampler.voices[0.0])
    if config.robust_frontend and not state:
        give_denoiser(learner.model, Path(config.robust_frontend))
    if config.pretrain.steps and not state:
        pretrain_content(learner.model.content, sampler, config, accelerator.is_main_process)
    ema = Ema(learner.model, config.optimizer.ema)
    first = restore_state(state, ema, accelerator.device, parts) if state else 0
    check_agreement(first, start.folder, accelerator)
    bare, bare_discriminator = learner, discriminator
    learner, discriminator, optimizer, critic_optimizer = accelerator.prepare(
        learner, discriminator, optimizer, critic_optimizer
    )
    vocoder = load_vocoder(Path(config.vocoder)).to(accelerator.device) if config.vocoder else None
    held_out = make_held_out(config, start, vocoder)
    measures = ("validation", *(held_out.names(bare.model) if held_out else ()))
    journal = Journal(config, start, bare.model, ema, parts, first, measures, config.losses.complete_from)
    perceptual = None
    if config.losses.has_perceptual:
        speaker_encoder = (
            load_campplus(config.speaker_encoder).to(accelerator.device) if config.losses.speaker_similarity else None
        )
        loss_asr_encoder = config.loss_asr_encoder or config.corpus.asr_encoder
        asr_encoder = (
            load_moonshine(loss_asr_encoder).to(accelerator.device) if config.losses.content_consistency else None
        )
        perceptual = PerceptualLosses(vocoder, speaker_encoder, asr_encoder)
    show = partial(validate, bare.model, vocoder, validation, held_out, journal.monitor)
    guard = StepGuard(accelerator, bare, bare_discriminator)
    batches = draw(sampler, journal.steps, accelerator, config.corpus.workers)
    try:
        for step in journal.steps:
            rate = learning_rate(step, config.optimizer)
            set_rate(optimizer, rate)
            set_rate(critic_optimizer, rate * config.optimizer.critic_rate)
            judged = config.losses.discriminates(step)

            guard.begin()
            found = []
            for batch in islice(batches, config.optimizer.accumulate):
                with accelerator.accumulate(learner, discriminator):
                    with accelerator.autocast():
                        losses, fakes = learner(batch, step)
                        if judged:  # bare: its own gradients are not wanted here, in no process
                            losses |= realism_losses(bare_discriminator, batch["clean"], fakes, config.losses)
                        if perceptual and fakes and fakes.converted:
                            losses |= perceptual(fakes.converted, bare.voices)
                    accelerator.backward(weigh(losses, config.losses))
                    if judged:
                        with accelerator.autocast():
                            losses["critic"] = critic_loss(discriminator, batch["clean"], fakes)
                        accelerator.backward(losses["critic"])
                    found.append(losses)

            norms = {"generator": accelerator.clip_grad_norm_(learner.parameters(), config.optimizer.clip)}
            if judged:
                norms["discriminator"] = gradient_norm(accelerator, discriminator)
            if guard.passes(step, **norms):  # one bad batch must not poison the weights
                optimizer.step()
                if judged:
                    critic_optimizer.step()
                ema.update(bare.model, step)
                journal.add(*found, {"gradient": norms["generator"]})
            optimizer.zero_grad()
            critic_optimizer.zero_grad()

            if journal.end_step(step, guard.skipped, show):
                break
    finally:
        journal.close()
    leave(start.accelerator)
    return start.folder / CHECKPOINT


def realism_losses(discriminator: nn.Module, real: Tensor, fakes: Fakes, weights: LossConfig) -> dict[str, Tensor]:
    """The decoder's side: to be taken for real, and to look like the real one inside the discriminator.

    The first ``len(real)`` fakes have a real counterpart, conversions that follow have none.
    """
    items = len(real)
    with frozen(discriminator):
        scores, maps = discriminator(fakes.mel, fakes.embedding)
        # As much for the few conversions as for all reconstructions: only here do they learn to be the target.
        parts = [part for part in scores.split([items, len(scores) - items]) if len(part)]
        losses = {"realism": generator_hinge(parts)}
        if weights.matching:
            with torch.no_grad():
                _, real_maps = discriminator(real, fakes.embedding[:items])
            losses["matching"] = feature_matching([real_maps], [[m[:items] for m in maps]])
    return losses


def critic_loss(discriminator: nn.Module, real: Tensor, fakes: Fakes) -> Tensor:
    """The discriminator's side: real speech against fakes, and against real speech with another speaker's embedding.

    The latter is what teaches it to look at the voice (matching-aware, Reed et al. 2016, section 4.2).
    """
    items, embedding = len(real), fakes.embedding
    mels = torch.cat([real, fakes.mel.detach(), real])
    voices = torch.cat([embedding[:items], embedding, embedding[:items].roll(1, 0)])
    scores, _ = discriminator(mels, voices)
    true, made, mistaken = scores.split([items, len(fakes.mel), items])
    return discriminator_hinge([true, true], [made, mistaken])


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
        features = batch["source_asr_features"], batch["reference_asr_features"]
        mel = model(batch["source"], batch["pitch"], batch["reference"], who(batch, model.config), *features)
        total += mel_l1(mel, batch["clean"]).item()
    found = {"validation": total / rounds} | held_out(model, step)
    monitor.losses(step, found)
    for k in range(2):
        rows = [batch[name][k].cpu().numpy() for name in ("source", "clean")]
        result, pitch = mel[k].cpu().numpy(), batch["pitch"][k].cpu().numpy()
        monitor.picture(step, f"source, target, result/{k}", [*rows, result])
        if vocoder:
            for name, voice in (("target", rows[1]), ("result", result)):
                monitor.sound(step, f"{name}/{k}", speak(vocoder, voice, pitch), OUTPUT_RATE)
    return found
