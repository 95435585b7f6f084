"""Random batches for the conversion model as waves: the device makes their features.

The choice of clips, places and strengths is that of ``ConversionSampler``; workers only read, decode and cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vconv.data.augmentation import recording
from vconv.data.augmentation.recording import DisturbConfig
from vconv.data.batches import BatchConfig, ConversionSampler, Speech
from vconv.data.corpus import Corpus
from vconv.data.device.features import CONTEXT_FRAMES
from vconv.data.device.mels import draw_perturbations
from vconv.data.device.waves import draw_surroundings
from vconv.data.store import Entry
from vconv.features import OUTPUT_HOP, code_frames

ASR_CONTEXT_FRAMES = 64  # on each side of a crop whose ASR features are wanted: 1 s, as ``frontends.asr_encoder`` gives


class Crop(NamedTuple):
    """A crop of a clip's wave with its context, and the frames of it that are not filled with silence."""

    rows: np.ndarray  # [T, OUTPUT_HOP] int16
    inside: tuple[int, int]


class DeviceSampler(ConversionSampler):
    """Crops of waves, with what ``training.device_batches.DeviceFeatures`` is to do to them."""

    def __init__(self, corpus: Corpus, config: BatchConfig, seed: int) -> None:
        super().__init__(corpus, config, seed)
        self.context = ASR_CONTEXT_FRAMES if corpus.store.asr_channels else CONTEXT_FRAMES

    def batch(self, step: int, rank: int = 0) -> dict[str, np.ndarray]:
        """Arrays by name. Waves [B, N] are int16 at 24 kHz, with ``context`` frames on each side of source and clean
        speech and ``CONTEXT_FRAMES`` of the reference; the other names are explained where they are used.
        """
        config, items = self.config, self.corpus.items
        rng = np.random.default_rng([self.seed, step, rank])
        pairs = self.draw_pairs(rng)
        reference_frames = int(rng.integers(*config.reference_frames, endpoint=True)) // 2 * 2
        clean, source, reference, pitch, clean_pitch, pseudo_labels = [], [], [], [], [], []
        octaves, disturbed = [], []
        for a, b in pairs:
            frames = items[b].entry.frames
            start = int(rng.integers(0, max(1, frames - config.frames + 1))) // 2 * 2
            octaves.append(self._other_voice(rng))
            clean.append(self._cut(items[b].entry, start, config.frames))
            source.append(self._cut(items[a].entry, start, config.frames))
            disturbed.append(a == b or rng.random() < config.parallel_perturb)
            f0 = self.corpus.store.clip_f0(items[b].entry)
            tracked = self._as_tracked(rng, f0)
            clean_pitch.append(self._pitch(f0, start, octaves[-1]))
            pitch.append(clean_pitch[-1] if tracked is f0 else self._pitch(tracked, start, octaves[-1]))
            _, other = self._reference(rng, b, start, reference_frames + 2 * CONTEXT_FRAMES)
            reference.append(other.mel.astype(np.int16))
            pseudo_labels.append(self._pseudo_labels(b, start))
        known = np.array(octaves) == 0
        return {
            **_crops("clean", clean),
            **_crops("source", source),
            "reference_wave": np.stack(reference).reshape(len(reference), -1),
            "octaves": np.array(octaves, np.float32),
            "pitch": np.stack(pitch),
            "clean_pitch": np.stack(clean_pitch),
            "speaker": np.where(known, [items[b].speaker for _, b in pairs], -1),
            "source_speaker": np.array([items[a].speaker for a, _ in pairs]),
            "label": np.where(known, [items[b].label for _, b in pairs], -1),
            "pseudo_labels": np.stack(pseudo_labels),
            **self._disturbances(rng, "source", disturbed, len(pairs) * [config.frames], len(pairs)),
            **self._phone_waves(rng, len(pairs)),
        }

    def _speech(self, entry: Entry) -> Speech:
        """Frames of the wave in place of those of the mel, for ``_reference``."""
        wave = self.corpus.store.clip_wave(entry)
        return Speech(wave, np.zeros((code_frames(len(wave)), 0), np.float16))

    def _cut(self, entry: Entry, start: int, frames: int) -> Crop:
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
        return Crop(rows, (int(inside[0]), int(inside[-1]) + 1))

    def _disturbances(
        self, rng: np.random.Generator, name: str, disturbed: Sequence[bool], frames: Sequence[int], crowd: int
    ) -> dict[str, np.ndarray]:
        """What to do to the items' waves, then to their mels; ``crowd`` items of clean speech may talk behind them.

        ``_moved`` [K] are the numbers of the items whose waves are augmented, ``_rate`` [K] how much faster
        they become.
        """
        config = self.config
        moved = [k for k, one in enumerate(disturbed) if one and rng.random() < config.disturbed_share]
        configs = [None if not one else config.perturb for one in disturbed]
        for k in moved:
            configs[k] = self._milder
        surroundings = draw_surroundings(rng, len(moved), DisturbConfig())
        perturbations = draw_perturbations(rng, frames, crowd, configs)
        return {
            f"{name}_moved": np.array(moved, np.int64),
            f"{name}_rate": np.array([recording.voice_rate(rng) for _ in moved], np.float32),
            f"{name}_talker": rng.integers(crowd, size=(len(moved), recording.BABBLE_VOICES)),
            f"{name}_no_asr": rng.random(len(disturbed)) < config.asr_dropout,
            **{f"{name}_surround.{key}": value for key, value in surroundings.items()},
            **{f"{name}_perturb.{key}": value for key, value in perturbations.items()},
        }

    def _phone_waves(self, rng: np.random.Generator, crowd: int) -> dict[str, np.ndarray]:
        """Whole clips with known phones, as ``_phone_part`` has."""
        count = self.config.phone_items if self._phone_items else 0
        picked = rng.integers(0, max(1, len(self._phone_items)), count)
        chosen = [self.corpus.items[self._phone_items[k]] for k in picked]
        frames = np.array([item.entry.frames // 2 * 2 for item in chosen], np.int64)
        longest = int(frames.max(initial=0))
        phones = np.zeros((count, max((len(item.phones) for item in chosen), default=0)), np.int64)
        for k, item in enumerate(chosen):
            phones[k, : len(item.phones)] = item.phones
        disturbed = [rng.random() < self.config.phone_perturb for _ in chosen]
        return {
            **_crops("phone", [self._cut(item.entry, 0, longest) for item in chosen]),
            "phone_frames": frames,
            "phones": phones,
            "phone_counts": np.array([len(item.phones) for item in chosen], np.int64),
            **self._disturbances(rng, "phone", disturbed, count * [longest], crowd),
        }


def _crops(name: str, crops: Sequence[Crop]) -> dict[str, np.ndarray]:
    """Waves of one length as ``_wave`` [B, N] int16, and ``_inside`` [B, 2], their frames that are not silence."""
    rows = np.stack([crop.rows for crop in crops]) if crops else np.zeros((0, 0, OUTPUT_HOP), np.int16)
    inside = np.array([crop.inside for crop in crops], np.int64).reshape(-1, 2)
    return {f"{name}_wave": rows.reshape(len(rows), rows.shape[1] * OUTPUT_HOP), f"{name}_inside": inside}
