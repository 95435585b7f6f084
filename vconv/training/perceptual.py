"""Perceptual losses: pretrained networks applied to converted mels, through the vocoder."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv import audio
from vconv.data.augmentation.recording import faster
from vconv.data.corpus import Corpus
from vconv.data.decoded import Decoded
from vconv.data.on_the_fly import OnTheFly
from vconv.data.store import WAVE_SCALE, Entry, Store
from vconv.errors import InputError
from vconv.excitation import PulseTrain
from vconv.features import OUTPUT_RATE, SAMPLE_RATE
from vconv.files import digest, replacing
from vconv.frontends.speaker_encoder import WINDOW_SECONDS
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus
from vconv.models.pretrained.moonshine import Moonshine
from vconv.models.vocoder import Vocoder

CLIPS_AT_A_TIME = 16


class Converted(NamedTuple):
    """Conversions, and what the perceptual losses compare them with."""

    mel: Tensor  # [B, N_MELS, T]
    pitch: Tensor  # [B, 2, T]
    source: Tensor  # [B, N_MELS, T], the clean mel with the same content
    source_pitch: Tensor  # [B, 2, T]
    speaker: Tensor | None = None  # [B] of the target, -1 where unknown
    speaker_embedding: Tensor | None = None  # [B, V] of the target, pretrained


class PerceptualLosses:
    """Vocoder, speaker encoder and ASR encoder, all frozen, on one device. No nn.Module: checkpoints leave them out."""

    def __init__(
        self, vocoder: Vocoder, speaker_encoder: CamPlusPlus | None = None, asr_encoder: Moonshine | None = None
    ) -> None:
        self.vocoder = vocoder
        self.speaker_encoder, self.asr_encoder = speaker_encoder, asr_encoder

    def wave(self, mel: Tensor, pitch: Tensor) -> Tensor:
        """mel [B, N_MELS, T], pitch [B, 2, T] -> wave [B, N] at 16 kHz. Gradients reach the mel."""
        return to_analysis_rate(vocoded(self.vocoder, mel, pitch))

    def __call__(self, converted: Converted, voices: Tensor | None) -> dict[str, Tensor]:
        """``speaker_similarity`` to the embeddings ``voices`` [K, E], and ``content_consistency`` with the source."""
        wave, losses = self.wave(converted.mel, converted.pitch), {}
        if self.speaker_encoder is not None:
            losses["speaker_similarity"] = speaker_similarity(
                self.speaker_encoder(wave), voices, converted.speaker, converted.speaker_embedding
            )
        if self.asr_encoder is not None:
            with torch.no_grad():  # the same stretch through the same vocoder, so that only the content can differ
                wanted = self.asr_encoder(self.wave(converted.source, converted.source_pitch))
            losses["content_consistency"] = content_distance(self.asr_encoder(wave), wanted)
        return losses


def vocoded(vocoder: Vocoder, mel: Tensor, pitch: Tensor) -> Tensor:
    """mel [B, N_MELS, T], pitch [B, 2, T] -> wave [B, T * OUTPUT_HOP] at 24 kHz, with its pulse train and new noise."""
    curves = pitch[:, 0].detach().cpu().numpy()
    source = torch.from_numpy(np.stack([PulseTrain(curve).samples(0, len(curve)) for curve in curves])).to(mel.device)
    return vocoder(mel, pitch, source, 2 * torch.rand_like(source) - 1)


def to_analysis_rate(wave: Tensor) -> Tensor:
    """24 kHz to 16 kHz by leaving out the upper band of the spectrum: [B, N] -> [B, 2N / 3], N divisible by three."""
    samples = wave.shape[1] * SAMPLE_RATE // OUTPUT_RATE
    spectrum = torch.fft.rfft(wave.float())[:, : samples // 2 + 1]
    return torch.fft.irfft(spectrum, samples) * (SAMPLE_RATE / OUTPUT_RATE)


def speaker_similarity(found: Tensor, voices: Tensor, speaker: Tensor, voice: Tensor | None = None) -> Tensor:
    """One minus the cosine of embeddings [B, E] with those of the target speakers: voices [K, E], speaker [B].

    Unknown speakers (-1) are compared with ``voice`` [B, E] if it is given, and left out otherwise.
    """
    known, wanted = speaker >= 0, voices[speaker.clamp(min=0)]
    if voice is not None:
        wanted, known = torch.where(known[:, None], wanted, voice), torch.ones_like(known)
    distance = 1 - (found * wanted).sum(dim=1)
    return (distance * known).sum() / known.sum().clamp(min=1)


def content_distance(found: Tensor, source: Tensor, weights: Tensor | None = None) -> Tensor:
    """One minus the cosine of two feature sequences [B, R, T], frame by frame, both less the mean of the source's.

    The result is the mean over all frames, or with ``weights`` [T], whose sum is 1, a weighted one.
    """
    middle = source.mean(dim=(0, 2), keepdim=True)
    distance = 1 - F.cosine_similarity(found - middle, source - middle, dim=1)
    return distance.mean() if weights is None else (distance * weights).sum(dim=1).mean()


def clip_embeddings(corpus: Corpus, speaker_encoder: str, octaves: float = 0.0) -> np.ndarray:
    """Pretrained embedding of each clip of the corpus, made so much higher: [items, E] of unit length.

    The result is kept beside the corpus's arrays or shards: of a feature store for all clips, of decoded audio, which
    may be large, for this part of the corpus.

    Raises:
        InputError: features are made on the fly, or the file is no speaker encoder.
    """
    if isinstance(corpus.store, OnTheFly):
        raise InputError("speaker_encoder: needs the clips of a feature store; set corpus.features to store")
    moved = f"{octaves:+g}" if octaves else ""
    entries, part = corpus.store.entries, ""
    if isinstance(corpus.store, Decoded):
        entries = [item.entry for item in corpus.items]
        part = f"-{zlib.crc32(' '.join(entry.path for entry in entries).encode('utf-8', 'surrogateescape')):08x}"
    path = corpus.store.folder / f"voices-{digest(speaker_encoder)[:16]}{moved}{part}.npy"
    if not path.exists():
        embeddings = _embed_clips(corpus.store, entries, load_campplus(speaker_encoder), octaves)
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, embeddings.numpy().astype(np.float16))
    clips = {entry.path: row for entry, row in zip(entries, np.load(path).astype(np.float32))}
    return np.stack([clips[item.entry.path] for item in corpus.items])


def speaker_embeddings(corpus: Corpus, speaker_encoder: str) -> Tensor:
    """Mean embedding of each speaker of the corpus: [K, E] of unit length. Raises InputError as ``clip_embeddings``."""
    rows = torch.from_numpy(clip_embeddings(corpus, speaker_encoder))
    speakers = torch.tensor([item.speaker for item in corpus.items])
    sums = torch.zeros(len(corpus.speakers), rows.shape[1]).index_add_(0, speakers, rows)
    return F.normalize(sums, dim=1)


@torch.no_grad()
def _embed_clips(
    store: Store | Decoded, entries: Sequence[Entry], speaker_encoder: CamPlusPlus, octaves: float
) -> Tensor:
    """Of each clip, in order: [clips, E]"""
    groups = (entries[start : start + CLIPS_AT_A_TIME] for start in range(0, len(entries), CLIPS_AT_A_TIME))
    waves = (np.stack([faster(middle(store, entry), 2**octaves) for entry in group]) for group in groups)
    return torch.cat([speaker_encoder(torch.from_numpy(batch)) for batch in waves])


def middle(store: Store | OnTheFly | Decoded, entry: Entry) -> np.ndarray:
    """``WINDOW_SECONDS`` of a clip at 16 kHz, from its middle; shorter ones are repeated."""
    wave, wanted = store.clip_wave(entry).reshape(-1), round(WINDOW_SECONDS * OUTPUT_RATE)
    at = max(0, len(wave) - wanted) // 2
    wave = np.resize(wave[at : at + wanted], wanted).astype(np.float32) / WAVE_SCALE
    return audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE).astype(np.float32)
