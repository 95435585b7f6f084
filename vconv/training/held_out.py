"""Conversions between validation clips, measured at each validation, and how many codes are in use.

The measures are distances in the frozen networks that training has as inputs and losses. The judges of
``vconv evaluate`` take no part, so that no checkpoint is chosen by them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vconv.data.corpus import Corpus, Item
from vconv.data.crops import Speech, part_of
from vconv.errors import InputError
from vconv.features import continuous_log_f0
from vconv.models.conversion import ConversionModel
from vconv.models.pretrained.campplus import CamPlusPlus, load_campplus
from vconv.models.pretrained.moonshine import Moonshine, load_moonshine
from vconv.models.vocoder import Vocoder
from vconv.training.perceptual import PerceptualLosses, content_distance, middle

MAX_FRAMES = 320  # 5.1 s of each clip
CODEBOOK_CLIPS = 64  # at most, whose codes are counted
LEAST_USE = 0.1  # of a codebook; less is an alarm
CONTENT, SPEAKER, MEL = "held_out/content_distance", "held_out/speaker_similarity", "held_out/mel_distance"
PERPLEXITY, USE = "codebook/perplexity", "codebook/use"


@dataclass(frozen=True)
class Encoders:
    """The frozen networks that conversions are measured with; without one, its measures are left out."""

    vocoder: Vocoder | None = None  # without it conversions have no wave for the two encoders
    speaker_encoder: CamPlusPlus | None = None
    asr_encoder: Moonshine | None = None


def load_encoders(vocoder: Vocoder | None, speaker_encoder: str, asr_encoder: str, device: torch.device) -> Encoders:
    """From the files that a training's configuration names; an empty name is no file."""
    speaker, asr = load_campplus(speaker_encoder).to(device) if speaker_encoder else None, None
    if asr_encoder and vocoder:
        with contextlib.suppress(InputError):  # as an input, training takes other ASR encoders than Moonshine's, too
            asr = load_moonshine(asr_encoder).to(device)
    return Encoders(vocoder, speaker, asr)


@dataclass(frozen=True)
class Pair:
    """A conversion to make."""

    source: Item
    target: Item  # its recording is what the conversion is compared with
    reference: Item  # a clip of the target's speaker, which the model gets


class HeldOut:
    """Measures of conversions and codes, by their names in the log; always of the same clips.

    ========================================================================================================
    held_out/content_distance    1 - cosine of the ASR encoder's features, between the conversion and the source
                                 through the same vocoder (``perceptual.content_distance``)
    held_out/speaker_similarity  cosine of CAM++ embeddings of the conversion and of the target's recording
    held_out/mel_distance        mean absolute log-mel difference, in nepers, to the target speaker's recording of
                                 the same sentence, from the manifest's aligned groups
    codebook/perplexity          2 ** entropy of the codes, least of all codebooks
    codebook/use                 the same as a share of the codebook's entries
    ========================================================================================================

    Args:
        count: conversions of each kind, at most.
    """

    def __init__(
        self, corpus: Corpus, validation: Corpus, encoders: Encoders, count: int, device: torch.device
    ) -> None:
        self._encoders, self._store, self._device = encoders, validation.store, device
        self._perceptual = PerceptualLosses(encoders.vocoder) if encoders.vocoder else None
        self._clips = _spread(validation.items, CODEBOOK_CLIPS)
        measured = self._perceptual and (encoders.speaker_encoder or encoders.asr_encoder)
        self._pairs = conversion_pairs(validation.items, count) if measured else []
        self._parallel = parallel_pairs(corpus, validation, count)

    def names(self, model: ConversionModel) -> list[str]:
        """Names of the measures of this model."""
        found = [MEL] if _convertible(self._parallel, model) else []
        if _convertible(self._pairs, model):
            found += [CONTENT] if self._encoders.asr_encoder else []
            found += [SPEAKER] if self._encoders.speaker_encoder else []
        return found + ([PERPLEXITY, USE] if model.config.bottleneck.codes_per_frame else [])

    @torch.no_grad()
    def __call__(self, model: ConversionModel, step: int) -> dict[str, float]:
        """Measures by name. Prints a line where a codebook collapses."""
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(0)  # of the vocoder's noise
            found = [self._measure(model, pair) for pair in _convertible(self._pairs, model)]
            found += [self._measure_parallel(model, pair) for pair in _convertible(self._parallel, model)]
        values = {name: [one[name] for one in found if name in one] for name in (CONTENT, SPEAKER, MEL)}
        return {name: float(np.mean(each)) for name, each in values.items() if each} | self._codebooks(model, step)

    def _measure(self, model: ConversionModel, pair: Pair) -> dict[str, float]:
        """Of a conversion with the source's melody in the target's register."""
        own = self._pitch(pair.source, MAX_FRAMES)
        pitch = into_register(own, self._pitch(pair.target, MAX_FRAMES))
        wave, found = self._perceptual.wave(self._convert(model, pair, pitch), pitch), {}
        if (asr_encoder := self._encoders.asr_encoder) is not None:
            source = self._perceptual.wave(self._mel(pair.source, MAX_FRAMES), own)
            found[CONTENT] = content_distance(asr_encoder(wave), asr_encoder(source)).item()
        if (speaker_encoder := self._encoders.speaker_encoder) is not None:
            found[SPEAKER] = (speaker_encoder(wave) * self._embedding(pair.target)).sum().item()
        return found

    def _measure_parallel(self, model: ConversionModel, pair: Pair) -> dict[str, float]:
        """Of a conversion with the target's melody."""
        source, target = (self._mel(item, MAX_FRAMES) for item in (pair.source, pair.target))
        frames = min(source.shape[2], target.shape[2])
        mel = self._convert(model, pair, self._pitch(pair.target, frames))
        return {MEL: (mel - target[:, :, :frames]).abs().mean().item()}

    def _convert(self, model: ConversionModel, pair: Pair, pitch: Tensor) -> Tensor:
        """The source, as far as the pitch [1, 2, T] goes, in the voice of the reference: [1, N_MELS, T]"""
        if model.config.speaker == "pretrained":
            speaker = self._embedding(pair.reference)
        else:
            speaker = torch.tensor([pair.target.speaker], device=self._device)
        source = self._input(pair.source, pitch.shape[2])
        reference = self._input(pair.reference, MAX_FRAMES)
        return model(source[0], pitch, reference[0], speaker, source[1], reference[1])

    def _codebooks(self, model: ConversionModel, step: int) -> dict[str, float]:
        size = model.config.bottleneck.code_values
        if not size or not self._clips:
            return {}
        codes = torch.cat([model.encode(*self._input(item, MAX_FRAMES)).codes[0] for item in self._clips], dim=1)
        least = min(perplexities(codes, size))
        # In fewer frames than there are entries, a codebook in full use may show few of them.
        if least < LEAST_USE * size and codes.shape[1] >= size:
            print(
                f"step {step}: a codebook collapses: perplexity {least:.1f} of {size} entries, under 10 %", flush=True
            )
        return {PERPLEXITY: least, USE: least / size}

    def _input(self, item: Item, frames: int) -> Speech:
        """Mel and ASR features [1, R, T / 2] of a clip's first frames."""
        whole = Speech(self._store.clip_mel(item.entry), self._store.clip_asr_features(item.entry))
        return part_of(whole, 0, frames).each(lambda rows, _: self._tensor(rows.T))

    def _mel(self, item: Item, frames: int) -> Tensor:
        """The first frames of a clip, at most so many and an even number: [1, N_MELS, T]"""
        return self._tensor(_first(self._store.clip_mel(item.entry).T, frames))

    def _pitch(self, item: Item, frames: int) -> Tensor:
        """Curve and voiced flags of the same frames: [1, 2, T]"""
        curves = np.stack(continuous_log_f0(self._store.clip_f0(item.entry)))
        return self._tensor(_first(curves, frames))

    def _embedding(self, item: Item) -> Tensor:
        """CAM++ embedding of a clip: [1, V]"""
        return self._encoders.speaker_encoder(self._tensor(middle(self._store, item.entry)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None].to(self._device)


def conversion_pairs(items: Sequence[Item], count: int) -> list[Pair]:
    """From clips spread over all of them, each to a clip of another speaker, drawn once and for all."""
    rng, pairs = np.random.default_rng(0), []
    for source in _spread(items, count):
        others = [item for item in items if item.speaker_name != source.speaker_name]
        if others:
            target = others[int(rng.integers(len(others)))]
            pairs.append(Pair(source, target, target))
    return pairs


def parallel_pairs(corpus: Corpus, validation: Corpus, count: int) -> list[Pair]:
    """Between two speakers of an aligned group of the validation part; the reference is another sentence."""
    pairs = []
    for group in sorted(validation.by_group):
        members = [validation.items[k] for k in validation.by_group[group]]
        source = members[0]
        target = next((item for item in members if item.speaker_name != source.speaker_name), None)
        reference = target and _another_sentence(target, corpus, validation)
        if reference:
            pairs.append(Pair(source, target, reference))
    return _spread(pairs, count)


def _another_sentence(item: Item, corpus: Corpus, validation: Corpus) -> Item | None:
    """A clip of the same speaker outside the item's group, in the validation part if there is one, or in training."""
    clips = (part.items[k] for part in (validation, corpus) for k in part.by_name.get(item.speaker_name, ()))
    return next((clip for clip in clips if clip.group != item.group), None)


def into_register(pitch: Tensor, other: Tensor) -> Tensor:
    """Pitch [1, 2, T] with the mean of another's voiced frames; unchanged where either has none."""
    if not (pitch[:, 1].any() and other[:, 1].any()):
        return pitch
    means = [(each[:, 0] * each[:, 1]).sum() / each[:, 1].sum() for each in (pitch, other)]
    return torch.stack([pitch[:, 0] - means[0] + means[1], pitch[:, 1]], dim=1)


def perplexities(codes: Tensor, size: int) -> list[float]:
    """Two to the power of the entropy in bits of each codebook's numbers: codes [G, N] from 0 to ``size`` - 1 -> G"""
    found = []
    for row in codes:
        share = torch.bincount(row.flatten(), minlength=size).double() / row.numel()
        found.append(float(torch.exp2(torch.special.entr(share).sum() / np.log(2))))
    return found


def _convertible(pairs: Sequence[Pair], model: ConversionModel) -> list[Pair]:
    """Those whose target the model can convert to: with a table of speakers, its own ones only."""
    return [pair for pair in pairs if model.config.embeds_speakers or pair.target.speaker >= 0]


def _spread(items: Sequence, count: int) -> list:
    """So many of them at most, at even distances."""
    count = min(count, len(items))
    return [items[k * len(items) // count] for k in range(count)]


def _first(array: np.ndarray, frames: int) -> np.ndarray:
    """[R, T]: at most so many frames and an even number; an entry's own may count silence that is trimmed."""
    return array[:, : min(frames, array.shape[1]) // 2 * 2]
