"""The conversion model with the heads that only its training has: a batch in, losses by name out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vconv.config import ConversionConfig
from vconv.data.batches import ConversionBatch
from vconv.features import LOG_MEL_MIDDLE
from vconv.models.conversion import ConversionModel
from vconv.models.layers import GradientReversal
from vconv.models.speaker_classifier import CodeClassifier, PhoneHead, SpeakerClassifier, SpeakerHead
from vconv.models.speaker_encoder import SpeakerEncoder
from vconv.training.contractive import contractive_penalty
from vconv.training.conversion_settings import ConversionTraining
from vconv.training.information import ContentInformation, FuturePrediction, SpeakerInformation
from vconv.training.losses import (
    code_consistency,
    label_cross_entropy,
    mel_l1,
    phone_ctc,
    pseudo_label_cross_entropy,
    uniform_confusion,
)
from vconv.training.optimizer import frozen
from vconv.training.perceptual import Converted, speaker_similarity

REGISTER_OCTAVES = (-0.4, 0.4)  # by how much a misplaced curve lies beside its register
REGISTER_SPREAD = (0.6, 1.5)  # and its spread, as a multiple of the right one


def who(batch: ConversionBatch[Tensor], config: ConversionConfig) -> Tensor:
    """The speaker input of the model: pretrained embedding [B, V] or number [B]."""
    return batch.speaker_embedding if config.speaker == "pretrained" else batch.speaker


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

    def forward(self, batch: ConversionBatch[Tensor], step: int) -> tuple[dict[str, Tensor], Fakes | None]:
        """Unweighted losses by name, and fakes for the discriminator and the perceptual losses, where these are on."""
        weights, model = self.weights, self.model
        model.bottleneck.anneal(step)
        # At inference the source is mostly clean: the adversary works on the code of clean speech.
        pairs = zip(batch.source, batch.clean)
        both = model.content(*(None if one is None else torch.cat([one, two]) for one, two in pairs))
        code = model.bottleneck(both)
        (z, twin), (z_q, twin_q) = both.chunk(2), code.z_q.chunk(2)
        embedding = model.embed(batch.reference.mel, who(batch, model.config))
        losses = {}
        if weights.decodes:
            reference = self._reference(*batch.reference)
            mel = model.decoder(z_q, batch.pitch, embedding, *reference)
        if weights.reconstruction:
            losses["reconstruction"] = mel_l1(mel, batch.clean.mel)
        if weights.commitment:
            losses["commitment"] = code.loss
        if weights.code_consistency:
            losses["code_consistency"] = (code_consistency(z, twin) + code_consistency(twin, z)) / 2
        if weights.contractive:
            losses["contractive"] = contractive_penalty(model.content, *batch.clean)
        if weights.speaker:
            logits = self.speaker_head(embedding, batch.speaker.clamp(min=0))
            losses["speaker"] = label_cross_entropy(logits, batch.speaker)
        if self.speaker_embedding_head is not None:
            read = nn.functional.normalize(self.speaker_embedding_head(embedding).float(), dim=1)
            losses["speaker_embedding"] = speaker_similarity(read, self.voices, batch.speaker)
        if weights.has_adversary and step >= weights.adversary_from:
            losses |= self._adversary(twin_q, batch.label)
        losses |= self._information(batch, twin_q, embedding, step)
        if weights.phones and (clips := batch.phone_clips) is not None:
            spoken = model.bottleneck(model.content(*clips.speech)).z_q
            losses["phones"] = phone_ctc(self.phone_head(spoken), clips.frames // 2, clips.phones, clips.counts)
        if self.pseudo_label_head is not None:
            losses["pseudo_labels"] = pseudo_label_cross_entropy(
                self.pseudo_label_head(code.z_q), batch.pseudo_labels.repeat(2, 1)
            )
        if not weights.decodes:
            return losses, None
        fakes = Fakes(mel, embedding.detach())
        if weights.converts(step):
            # The last items: those have no twin in another voice.
            some = slice(-weights.cycle_items, None)
            other, *other_reference = (x.roll(1, 0)[some] for x in (embedding, *reference))
            wanted = other.detach()
            pitch = moved_pitch(batch.pitch)[some]
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
                found = Converted(
                    mel=converted,
                    pitch=pitch,
                    source=batch.clean.mel[some],
                    source_pitch=batch.clean_pitch[some],
                    speaker=batch.speaker.roll(1, 0)[some],
                    speaker_embedding=None
                    if batch.speaker_embedding is None
                    else batch.speaker_embedding.roll(1, 0)[some],
                )
                fakes = fakes._replace(converted=found)
        return losses, fakes if weights.discriminates(step) or weights.has_perceptual else None

    @torch.no_grad()
    def _reference(self, mel: Tensor, asr_features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Content and mel of the reference for the decoder's attention, for some items of no reference at all."""
        content = self.model.encode(mel, asr_features).z_q
        return without_some_references(content, mel, self.weights.reference_dropout)

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

    def _information(
        self, batch: ConversionBatch[Tensor], z_q: Tensor, embedding: Tensor, step: int
    ) -> dict[str, Tensor]:
        """Losses of the information critics on the code of clean speech: future frames, the speech, the speaker."""
        losses = {}
        if self.future is not None:
            losses["cpc"] = self.future(z_q)
        if self.content_critic is not None:
            losses["content_information"] = self.content_critic(batch.clean.mel, z_q)
        if self.speaker_critic is not None and step >= self.weights.speaker_information_from:
            losses["speaker_information"] = self.speaker_critic(z_q, embedding, batch.speaker)
        return losses


def moved_pitch(pitch: Tensor) -> Tensor:
    """The curves moved into the register of the neighbour that lends its voice, where both are voiced: [B, 2, T]"""
    curve, voiced = pitch[:, :1], pitch[:, 1:]
    middle = (curve * voiced).sum(dim=2, keepdim=True) / voiced.sum(dim=2, keepdim=True).clamp(min=1)
    known = voiced.any(dim=2, keepdim=True)
    moved = torch.where(known & known.roll(1, 0), curve - middle + middle.roll(1, 0), curve)
    return torch.cat([moved, voiced], dim=1)


def misplaced_pitch(pitch: Tensor, share: float) -> Tensor:
    """Curves [B, 2, T], of which a random share lies in another register and is wider or narrower: [B, 2, T]

    A live conversion places F0 by a median and a spread that it does not know well in its first seconds.
    """
    curve, voiced = pitch[:, :1], pitch[:, 1:]
    middle = (curve * voiced).sum(dim=2, keepdim=True) / voiced.sum(dim=2, keepdim=True).clamp(min=1)
    shift, spread = (torch.empty_like(middle).uniform_(low, high) for low, high in (REGISTER_OCTAVES, REGISTER_SPREAD))
    chosen = torch.rand_like(middle) < share
    return torch.cat([torch.where(chosen, middle + shift + spread * (curve - middle), curve), voiced], dim=1)


def without_some_references(content: Tensor, mel: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """References' content [B, C, K] and mel [B, N_MELS, 2K], of a random share of the items as where there is none."""
    dropped = torch.rand(len(mel), 1, 1, device=mel.device) < share
    return content.masked_fill(dropped, 0.0), mel.masked_fill(dropped, LOG_MEL_MIDDLE)
