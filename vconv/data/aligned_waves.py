"""Random batches of whole clips as waves, each with the same words in another voice where the corpus has them.

A batch is a function of (seed, step, rank) alone, as in ``vconv.data.batches``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np

from vconv import audio
from vconv.data.augmentation.recording import BABBLE_VOICES, DisturbConfig, surround
from vconv.data.batches import phones_of
from vconv.data.corpus import Corpus
from vconv.data.crops import Array
from vconv.data.store import WAVE_SCALE
from vconv.errors import InputError
from vconv.features import FRAME_RATE, HOP_LENGTH, OUTPUT_RATE, SAMPLE_RATE, continuous_log_f0, log_mel

NEIGHBOURS = 48  # clips of similar length, of which a batch is drawn: little of it is padding


@dataclass(frozen=True)
class AlignedConfig:
    items: int = 5
    seconds: float = 6.0  # longer clips are not used
    reference_frames: int = 240  # 3.8 s, even
    balance: float = 0.5  # a language with n frames is drawn in proportion to n ** balance
    disturbed: float = 0.5  # share of the sources that are disturbed
    disturb: DisturbConfig = DisturbConfig(clean=0.0)


class AlignedBatch(NamedTuple, Generic[Array]):
    """T is even, and the longest clip's; shorter ones end with silence."""

    source: Array  # [B, T * HOP_LENGTH] at 16 kHz
    source_mel: Array  # [B, N_MELS, T]
    wanted: Array  # [B, N_MELS, T], the same words in the target's voice
    pitch: Array  # [B, 2, T] of these
    reference: Array  # [B, 2K * HOP_LENGTH], other speech of the target
    reference_mel: Array  # [B, N_MELS, 2K]
    voice: Array  # [B, V] of the reference, by a pretrained speaker encoder
    frames: Array  # [B] of the mel that are speech
    phones: Array  # [B, P]
    counts: Array  # [B] of phones


class AlignedSampler:
    """Clips with phones. The target is another clip of the same group or, where there is none, the clip itself.

    Args:
        voices: pretrained embeddings of the items, [items, V].

    Raises:
        InputError: no clip has phones and is short enough.
    """

    def __init__(self, corpus: Corpus, config: AlignedConfig, seed: int, voices: np.ndarray) -> None:
        self.corpus, self.config, self.seed, self.voices = corpus, config, seed, voices
        frames = np.array([item.entry.frames for item in corpus.items])
        usable = [
            k
            for k, item in enumerate(corpus.items)
            if item.phones and frames[k] <= config.seconds * FRAME_RATE and 2 * len(item.phones) < frames[k]
        ]
        if not usable:
            raise InputError(
                f"no clip of the manifest has phones and lasts {config.seconds:g} s or less; add a column 'phones'"
            )
        self._usable = np.array(usable)[np.argsort(frames[usable], kind="stable")]
        self._weights = self._balanced(frames[self._usable])

    def batch(self, step: int, rank: int = 0) -> AlignedBatch[np.ndarray]:
        rng = np.random.default_rng([self.seed, step, rank])
        pairs = [(a, self._target(rng, a)) for a in self._neighbours(rng)]
        items = self.corpus.items
        frames = np.array([min(items[a].entry.frames, items[b].entry.frames) for a, b in pairs])
        total = int(-(-frames.max() // 2) * 2)
        sources = np.stack([self._source(rng, a, n, total) for (a, _), n in zip(pairs, frames)])
        wanted = np.stack([padded(self._wave(b)[: n * HOP_LENGTH], total) for (_, b), n in zip(pairs, frames)])
        others = [self._reference(rng, b) for _, b in pairs]
        length = self.config.reference_frames * HOP_LENGTH
        references = np.stack([self._part(rng, self._wave(k), length) for k in others])
        phones, counts = phones_of([items[a] for a, _ in pairs])
        return AlignedBatch(
            source=sources,
            source_mel=mels(sources),
            wanted=mels(wanted),
            pitch=np.stack([self._pitch(b, int(n), total) for (_, b), n in zip(pairs, frames)]),
            reference=references,
            reference_mel=mels(references),
            voice=self.voices[others],
            frames=frames,
            phones=phones,
            counts=counts,
        )

    def _balanced(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities of the usable clips, of so many frames each: [usable]"""
        languages = np.array([self.corpus.items[k].language for k in self._usable])
        weights = frames.astype(float)
        for language in set(languages):
            same = languages == language
            weights[same] *= weights[same].sum() ** (self.config.balance - 1)
        return weights / weights.sum()

    def _neighbours(self, rng: np.random.Generator) -> list[int]:
        """Clips of a batch, of similar length."""
        place = int(rng.choice(len(self._usable), p=self._weights))
        first = max(0, min(place - NEIGHBOURS // 2, len(self._usable) - NEIGHBOURS))
        near = slice(first, first + NEIGHBOURS)
        weights = self._weights[near]
        return rng.choice(self._usable[near], self.config.items, p=weights / weights.sum()).tolist()

    def _target(self, rng: np.random.Generator, index: int) -> int:
        group = self.corpus.items[index].group
        others = [k for k in self.corpus.by_group.get(group, []) if k != index] if group else []
        return int(rng.choice(others)) if others else index

    def _reference(self, rng: np.random.Generator, index: int) -> int:
        """Another clip of the same speaker: were it the same one, the embedding could carry words."""
        item = self.corpus.items[index]
        same = self.corpus.by_name[item.speaker_name]
        others = [k for k in same if k != index and (not item.group or self.corpus.items[k].group != item.group)]
        return int(rng.choice(others)) if others else index

    def _source(self, rng: np.random.Generator, index: int, frames: int, total: int) -> np.ndarray:
        """A clip, disturbed or not, with silence after it: [total * HOP_LENGTH]"""
        wave = self._wave(index)[: frames * HOP_LENGTH]
        if rng.random() < self.config.disturbed:
            crowd = rng.integers(len(self.corpus.items), size=BABBLE_VOICES)
            others = [self._part(rng, self._wave(int(k)), len(wave)) for k in crowd]
            wave = audio.normalize(surround(wave, rng, others, self.config.disturb), SAMPLE_RATE)
        return padded(wave, total)

    def _wave(self, index: int) -> np.ndarray:
        """A clip at 16 kHz and the loudness that models expect: [N] float32"""
        steps = self.corpus.store.clip_wave(self.corpus.items[index].entry).reshape(-1)
        wave = audio.resample(steps.astype(np.float32) / WAVE_SCALE, OUTPUT_RATE, SAMPLE_RATE)
        return audio.normalize(wave, SAMPLE_RATE).astype(np.float32)

    def _part(self, rng: np.random.Generator, wave: np.ndarray, samples: int) -> np.ndarray:
        """A random part of a wave, repeated where it is too short: [samples]"""
        first = int(rng.integers(max(1, len(wave) - samples + 1)))
        return np.resize(wave[first : first + samples], samples)

    def _pitch(self, index: int, frames: int, total: int) -> np.ndarray:
        """Curve and voiced flags of a clip, unvoiced after it: [2, total]"""
        curve, voiced = continuous_log_f0(self.corpus.store.clip_f0(self.corpus.items[index].entry)[:frames])
        after = (0, total - frames)
        return np.stack([np.pad(curve, after, "edge"), np.pad(voiced, after)])


def padded(wave: np.ndarray, frames: int) -> np.ndarray:
    """[N] -> [frames * HOP_LENGTH] float32, with silence at the end"""
    wave = wave[: frames * HOP_LENGTH]
    return np.pad(wave, (0, frames * HOP_LENGTH - len(wave))).astype(np.float32)


def mels(waves: np.ndarray) -> np.ndarray:
    """[B, N] -> [B, N_MELS, T]"""
    return np.stack([log_mel(wave) for wave in waves])
