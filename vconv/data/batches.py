"""Random batches for the conversion model. A batch is a function of (seed, step, rank) alone.

So a resumed run sees exactly what an uninterrupted one would have, without any state to save, and
several processes never draw the same batch.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np

from vconv.data.augmentation.mel import PerturbConfig, perturb
from vconv.data.corpus import Corpus, Item
from vconv.data.crops import Array, Speech, crop_frames, in_voice, joined, part_of
from vconv.data.store import Entry
from vconv.errors import InputError
from vconv.features import continuous_log_f0

REFERENCE_CLIPS = 3  # at most, of one reference in training


@dataclass(frozen=True)
class BatchConfig:
    items: int = 16
    frames: int = 112  # of a crop, even
    parallel_share: float = 0.4  # of the items, where the corpus has aligned groups
    reference_frames: tuple[int, int] = (128, 288)  # 2 to 4.6 s
    phone_items: int = 4  # whole clips with known phones, beside the crops
    phone_frames: int = 320  # longer clips are not used for phones
    phone_perturb: float = 1.0  # share of these that is disturbed
    balance: float = 0.5  # a speaker with n frames is drawn in proportion to n ** balance
    perturb: PerturbConfig = PerturbConfig()
    parallel_perturb: float = 0.5  # share of the parallel items whose source is disturbed as well
    disturbed_share: float = (
        0.6  # of the augmented sources, those whose ASR features were computed with the augmentation
    )
    asr_dropout: float = 0.2  # share of all sources without ASR features
    false_voicing: float = 0.0  # share of the items where F0 is found that is not theirs, as in a crowd
    other_voice: float = 0.0  # share of the items whose voice is shifted: clean speech, reference and pitch, not source
    other_octaves: float = 0.15  # by which it then is higher or lower at most, formants and F0 together


class PhoneClips(NamedTuple, Generic[Array]):
    """Whole clips with known phones."""

    speech: Speech[Array]  # [P, N_MELS, L] and [P, R, L / 2]
    frames: Array  # [P]
    phones: Array  # [P, M]
    counts: Array  # [P] of phones


class ConversionBatch(NamedTuple, Generic[Array]):
    source: Speech[Array]  # [B, N_MELS, T] and [B, R, T / 2], in another voice, or augmented
    clean: Speech[Array]  # [B, N_MELS, T] and [B, R, T / 2], the same words in the target's voice, undisturbed
    pitch: Array  # [B, 2, T] as it may be found in disturbed speech
    clean_pitch: Array  # [B, 2, T]
    reference: Speech[Array]  # [B, N_MELS, 2K] and [B, R, K], other speech of the target
    speaker_embedding: Array | None  # [B, V] of the reference, by a pretrained speaker encoder, if there is one
    speaker: Array  # [B] of the target, -1 where the voice was shifted or is unknown
    label: Array  # [B] of the target's clip, -1 where unknown
    pseudo_labels: Array  # [B, T / 2] of each frame of the code, -1 where unknown
    phone_clips: PhoneClips[Array] | None  # where the corpus has clips with phones


class ConversionSampler:
    """Crops for the conversion model.

    ``voices`` holds pretrained embeddings of the items [items, V], by the octaves by which they are shifted.
    """

    def __init__(
        self, corpus: Corpus, config: BatchConfig, seed: int, voices: dict[float, np.ndarray] | None = None
    ) -> None:
        if not corpus.items:
            raise InputError("the manifest has no clips to train on")
        self.corpus, self.config, self.seed, self.voices = corpus, config, seed, voices or {}
        # For what was augmented as a wave already, as its ASR features were.
        self._milder = dataclasses.replace(config.perturb, noise=0.0, babble=0.0, reverb=0.0, band_limit=0.0)
        self._groups = sorted(group for group, members in corpus.by_group.items() if len(members) > 1)
        parallel = set(self._groups)
        self._singles = [i for i, item in enumerate(corpus.items) if item.group not in parallel]
        self._phone_items = [
            i
            for i, item in enumerate(corpus.items)
            if item.phones and item.entry.frames <= config.phone_frames and len(item.phones) * 2 < item.entry.frames
        ]
        pool = self._singles or range(len(corpus.items))
        self._pool = np.array(pool)
        self._weights = self._balanced(self._pool)

    def _balanced(self, pool: np.ndarray) -> np.ndarray:
        items = [self.corpus.items[i] for i in pool]
        total: dict[str, float] = defaultdict(float)
        for item in items:
            total[item.speaker_name] += item.entry.frames
        power = self.config.balance - 1
        weights = np.array([item.entry.frames * total[item.speaker_name] ** power for item in items])
        return weights / weights.sum()

    def batch(self, step: int, rank: int = 0) -> ConversionBatch[np.ndarray]:
        rng = np.random.default_rng([self.seed, step, rank])
        pairs = self.draw_pairs(rng)
        reference_frames = int(rng.integers(*self.config.reference_frames, endpoint=True)) // 2 * 2
        items = [self._item(rng, a, b, reference_frames) for a, b in pairs]
        return joined(items)._replace(phone_clips=self._phone_clips(rng))

    def _item(self, rng: np.random.Generator, a: int, b: int, reference_frames: int) -> ConversionBatch[np.ndarray]:
        """One item from source ``a`` and target ``b``, without the batch's axis."""
        config, item = self.config, self.corpus.items[b]
        whole = self._speech(item.entry)
        start = int(rng.integers(0, max(1, len(whole.mel) - config.frames + 1))) // 2 * 2
        octaves = self._other_voice(rng)
        clean = in_voice(whole.crop(start, config.frames), octaves)
        disturb = a == b or rng.random() < config.parallel_perturb
        source = self._source(rng, self.corpus.items[a].entry, start, config.frames, disturb)
        pitch, clean_pitch = self._pitches(rng, item.entry, start, octaves)
        clips, reference = self._reference(rng, b, start, reference_frames)
        return ConversionBatch(
            source=source.transposed(),
            clean=clean.transposed(),
            pitch=pitch,
            clean_pitch=clean_pitch,
            reference=in_voice(reference, octaves).transposed(),
            speaker_embedding=self._voice(clips, octaves) if self.voices else None,
            speaker=-1 if octaves else item.speaker,
            label=-1 if octaves else item.label,
            pseudo_labels=self._pseudo_labels(b, start),
            phone_clips=None,
        )

    def draw_pairs(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Items of source and target: of aligned groups, or the same one twice."""
        parallel = round(self.config.items * self.config.parallel_share) if self._groups else 0
        if not self._singles:
            parallel = self.config.items
        pairs = [self._parallel_pair(rng) for _ in range(parallel)]
        singles = rng.choice(self._pool, self.config.items - parallel, p=self._weights)
        return pairs + [(int(i), int(i)) for i in singles]

    def _pitches(
        self, rng: np.random.Generator, entry: Entry, start: int, octaves: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Curve and voiced flags of a crop, so much higher, as they may be tracked and as they are: [2, frames] each.

        If this one is drawn, F0 of others is found where the clip is unvoiced.
        """
        f0, items = self.corpus.store.clip_f0(entry), self.corpus.items
        tracked = f0
        if self.config.false_voicing and rng.random() < self.config.false_voicing:
            other = self.corpus.store.clip_f0(items[int(rng.integers(len(items)))].entry)
            tracked = np.where(f0 > 0, f0, np.resize(np.roll(other, rng.integers(len(other))), len(f0)))
        curves = (np.stack(continuous_log_f0(each)) + np.float32([[octaves], [0]]) for each in (tracked, f0))
        return tuple(crop_frames(curve.T, start, self.config.frames).T for curve in curves)

    def _parallel_pair(self, rng: np.random.Generator) -> tuple[int, int]:
        members = self.corpus.by_group[self._groups[rng.integers(len(self._groups))]]
        a, b = rng.choice(members, 2, replace=False)
        return int(a), int(b)

    def _speech(self, entry: Entry) -> Speech:
        return Speech(self.corpus.store.clip_mel(entry), self.corpus.store.clip_asr_features(entry))

    def _source(self, rng: np.random.Generator, entry: Entry, start: int, frames: int | None, disturb: bool) -> Speech:
        """A clip, or a crop of it, as input of the content encoder."""
        store, has_asr_features = self.corpus.store, bool(self.corpus.store.asr_channels)
        before = has_asr_features and disturb and rng.random() < self.config.disturbed_share
        speech = Speech(*store.clip_disturbed(entry)) if before else self._speech(entry)
        speech = part_of(speech, 0, len(speech.mel)) if frames is None else speech.crop(start, frames)
        mel, asr_features = speech.each(lambda rows, _: rows.astype(np.float32))
        if disturb:
            mel = perturb(mel, rng, self._milder if before else self.config.perturb, self._somebody)
        if has_asr_features and rng.random() < self.config.asr_dropout:
            asr_features = np.zeros_like(asr_features)
        return Speech(mel, asr_features)

    def _voice(self, clips: list[int], octaves: float) -> np.ndarray:
        """Mean pretrained embedding of clips of one speaker, shifted by so many octaves: [V] of unit length"""
        total = self.voices[octaves][clips].sum(axis=0)
        return total / np.linalg.norm(total)

    def _reference(self, rng: np.random.Generator, index: int, start: int, frames: int) -> tuple[list[int], Speech]:
        """Speech of the same speaker, of other clips (which) or at least of another place, so many frames (even).

        Were it the crop itself, the embedding could carry words.
        """
        item = self.corpus.items[index]
        others = [i for i in self.corpus.by_name[item.speaker_name] if i != index]
        if others:
            clips, parts, missing = [], [], frames
            for i in rng.permutation(others)[:REFERENCE_CLIPS]:
                clips.append(int(i))
                other = self._speech(self.corpus.items[i].entry)
                at = int(rng.integers(0, max(1, len(other.mel) - missing + 1))) // 2 * 2
                parts.append(part_of(other, at, at + missing))
                missing -= len(parts[-1].mel)
                if not missing:
                    break
            return clips, joined(parts, np.concatenate).crop(0, frames)
        whole = self._speech(item.entry)
        before, after = part_of(whole, 0, start), part_of(whole, start + self.config.frames, len(whole.mel))
        rest = after if len(after.mel) >= len(before.mel) else before
        return [index], (rest if len(rest.mel) >= 24 else whole).crop(0, frames)

    def _other_voice(self, rng: np.random.Generator) -> float:
        """Octaves by which an item's voice is moved, 0 where it stays."""
        if not (self.config.other_voice and rng.random() < self.config.other_voice):
            return 0.0
        if self.voices:  # embeddings were computed for these shifts only
            return float(rng.choice([octaves for octaves in self.voices if octaves]))
        return float(rng.uniform(-self.config.other_octaves, self.config.other_octaves))

    def _pseudo_labels(self, index: int, start: int) -> np.ndarray:
        """Of the frames of the code in the crop that begins with a frame of the mel: [frames / 2]"""
        count, pseudo_labels = self.config.frames // 2, self.corpus.items[index].pseudo_labels
        if pseudo_labels is None:
            return np.full(count, -1)
        return crop_frames(pseudo_labels, start // 2, count).astype(np.int64)

    def _somebody(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Some speech of anybody in the corpus: [frames, N_MELS]"""
        mel = self.corpus.store.clip_mel(self.corpus.items[int(rng.integers(len(self.corpus.items)))].entry)
        start = int(rng.integers(0, max(1, len(mel) - frames + 1)))
        return crop_frames(mel, start, frames).astype(np.float32)

    def _phone_clips(self, rng: np.random.Generator) -> PhoneClips[np.ndarray] | None:
        if not (chosen := self._draw_phone_items(rng)):
            return None
        spoken = [self._source(rng, item.entry, 0, None, rng.random() < self.config.phone_perturb) for item in chosen]
        frames = np.array([len(speech.mel) for speech in spoken], np.int64)
        # Padded by repetition: instance norm sees the padding too, and CTC reads only the true frames.
        speech = joined([speech.crop(0, int(frames.max())).transposed() for speech in spoken])
        phones, counts = phones_of(chosen)
        return PhoneClips(speech=speech, frames=frames, phones=phones, counts=counts)

    def _draw_phone_items(self, rng: np.random.Generator) -> list[Item]:
        """Items with known phones, if there are any."""
        count = self.config.phone_items if self._phone_items else 0
        picked = rng.integers(0, max(1, len(self._phone_items)), count)
        return [self.corpus.items[self._phone_items[k]] for k in picked]


def phones_of(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray]:
    """Phones [P, M] of the items, and how many each has [P]"""
    counts = np.array([len(item.phones) for item in items], np.int64)
    phones = np.zeros((len(items), counts.max()), np.int64)
    for row, item in zip(phones, items):
        row[: len(item.phones)] = item.phones
    return phones, counts
