"""Random batches for the conversion model as waves: the device makes their features.

The choice of clips, places and strengths is that of ``ConversionSampler``; workers only read, decode and cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple

import numpy as np

from vconv.data.augmentation import recording
from vconv.data.augmentation.recording import DisturbConfig
from vconv.data.batches import BatchConfig, ConversionSampler, phones_of
from vconv.data.corpus import Corpus
from vconv.data.crops import Array, Speech, joined
from vconv.data.device.features import CONTEXT_FRAMES
from vconv.data.device.mels import draw_perturbations
from vconv.data.device.waves import draw_surroundings
from vconv.data.store import Entry
from vconv.features import OUTPUT_HOP

ASR_CONTEXT_FRAMES = 64  # on each side of a crop whose ASR features are wanted: 1 s, as ``frontends.asr_encoder`` gives


class Waves(NamedTuple, Generic[Array]):
    """Crops of clips with their context."""

    wave: Array  # [B, N] int16 at 24 kHz
    inside: Array  # [B, 2] frames from and to which they are not filled with silence


class Disturbances(NamedTuple, Generic[Array]):
    """What is done to the waves of items, then to their mels."""

    moved: Array  # [K] numbers of the items whose waves are augmented
    rate: Array  # [K] how much faster they become
    talker: Array  # [K, V] items of clean speech that may talk behind them
    surround: dict[str, Array]  # of ``draw_surroundings``
    perturb: dict[str, Array]  # of ``draw_perturbations``
    no_asr: Array  # [B] whether the ASR features are left out


class PhoneWaves(NamedTuple, Generic[Array]):
    """Of what ``batches.PhoneClips`` are made."""

    waves: Waves[Array]
    disturbances: Disturbances[Array]
    frames: Array
    phones: Array
    counts: Array


class DeviceBatch(NamedTuple, Generic[Array]):
    """Of what a ``ConversionBatch`` is made, whose fields some of these are."""

    clean: Waves[Array]
    source: Waves[Array]
    disturbances: Disturbances[Array]  # of the source
    reference: Array  # [B, N] int16 at 24 kHz
    octaves: Array  # [B] by which the voices are moved
    pitch: Array
    clean_pitch: Array
    speaker: Array
    label: Array
    pseudo_labels: Array
    phone_clips: PhoneWaves[Array] | None


class DeviceSampler(ConversionSampler):
    """Crops of waves, with what ``training.device_batches.DeviceFeatures`` is to do to them."""

    def __init__(self, corpus: Corpus, config: BatchConfig, seed: int) -> None:
        super().__init__(corpus, config, seed)
        self.context = ASR_CONTEXT_FRAMES if corpus.store.asr_channels else CONTEXT_FRAMES

    def batch(self, step: int, rank: int = 0) -> DeviceBatch[np.ndarray]:
        """With ``context`` frames on each side of source and clean speech and ``CONTEXT_FRAMES`` of the reference."""
        rng = np.random.default_rng([self.seed, step, rank])
        pairs = self.draw_pairs(rng)
        reference_frames = int(rng.integers(*self.config.reference_frames, endpoint=True)) // 2 * 2
        items, disturbed = zip(*(self._item(rng, a, b, reference_frames) for a, b in pairs))
        return joined(items)._replace(
            disturbances=self._disturbances(rng, disturbed, self.config.frames, len(pairs)),
            phone_clips=self._phone_clips(rng, len(pairs)),
        )

    def _item(
        self, rng: np.random.Generator, a: int, b: int, reference_frames: int
    ) -> tuple[DeviceBatch[np.ndarray], bool]:
        """One item, without the batch's axis, and whether its source is to be disturbed."""
        frames, item = self.config.frames, self.corpus.items[b]
        start = int(rng.integers(0, max(1, item.entry.frames - frames + 1))) // 2 * 2
        octaves = self._other_voice(rng)
        disturb = a == b or rng.random() < self.config.parallel_perturb
        pitch, clean_pitch = self._pitches(rng, item.entry, start, octaves)
        _, other = self._reference(rng, b, start, reference_frames + 2 * CONTEXT_FRAMES)
        drawn = DeviceBatch(
            clean=self._cut(item.entry, start, frames),
            source=self._cut(self.corpus.items[a].entry, start, frames),
            disturbances=None,
            reference=other.mel.astype(np.int16).reshape(-1),
            octaves=np.float32(octaves),
            pitch=pitch,
            clean_pitch=clean_pitch,
            speaker=-1 if octaves else item.speaker,
            label=-1 if octaves else item.label,
            pseudo_labels=self._pseudo_labels(b, start),
            phone_clips=None,
        )
        return drawn, disturb

    def _speech(self, entry: Entry) -> Speech:
        """Frames of the wave in place of those of the mel, for ``_reference``."""
        return Speech(self.corpus.store.clip_wave(entry), None)

    def _cut(self, entry: Entry, start: int, frames: int) -> Waves[np.ndarray]:
        """Frames of a clip's wave from ``start`` on, with their context.

        Outside of the clip there is silence. A clip that is too short is repeated, as its mel would be.
        """
        wave, total = self.corpus.store.clip_wave(entry), frames + 2 * self.context
        place = start - self.context + np.arange(total)
        fits = len(wave) >= start + frames
        held = (place >= 0) & (place < len(wave)) if fits else (place >= start) & (place < start + frames)
        rows = np.zeros((total, OUTPUT_HOP), np.int16)
        rows[held] = wave[place[held] % len(wave)]
        inside = np.flatnonzero(held)
        return Waves(wave=rows.reshape(-1), inside=np.array([inside[0], inside[-1] + 1]))

    def _disturbances(
        self, rng: np.random.Generator, disturbed: Sequence[bool], frames: int, crowd: int
    ) -> Disturbances[np.ndarray]:
        """Of items with so many frames; ``crowd`` items of clean speech may talk behind them."""
        config = self.config
        moved = [k for k, one in enumerate(disturbed) if one and rng.random() < config.disturbed_share]
        configs = [None if not one else config.perturb for one in disturbed]
        for k in moved:
            configs[k] = self._milder
        surround = draw_surroundings(rng, len(moved), DisturbConfig())
        perturb = draw_perturbations(rng, len(disturbed) * [frames], crowd, configs)
        return Disturbances(
            moved=np.array(moved, np.int64),
            rate=np.array([recording.voice_rate(rng) for _ in moved], np.float32),
            talker=rng.integers(crowd, size=(len(moved), recording.BABBLE_VOICES)),
            surround=surround,
            perturb=perturb,
            no_asr=rng.random(len(disturbed)) < config.asr_dropout,
        )

    def _phone_clips(self, rng: np.random.Generator, crowd: int) -> PhoneWaves[np.ndarray] | None:
        if not (chosen := self._draw_phone_items(rng)):
            return None
        frames = np.array([item.entry.frames // 2 * 2 for item in chosen], np.int64)
        longest = int(frames.max())
        phones, counts = phones_of(chosen)
        disturbed = [rng.random() < self.config.phone_perturb for _ in chosen]
        return PhoneWaves(
            waves=joined([self._cut(item.entry, 0, longest) for item in chosen]),
            disturbances=self._disturbances(rng, disturbed, longest, crowd),
            frames=frames,
            phones=phones,
            counts=counts,
        )
