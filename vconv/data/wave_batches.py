"""Random batches for the vocoder: waves, and the mels and pulse trains that it gets. See ``batches``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple

import numpy as np

from vconv.data.corpus import Corpus, Item, by_length
from vconv.data.crops import Array, crop_frames
from vconv.data.pulse_alignment import Alignment, alignment
from vconv.data.store import WAVE_SCALE
from vconv.errors import InputError
from vconv.excitation import PulseTrain
from vconv.features import SAMPLE_RATE, continuous_log_f0

REMEMBERED = 1 << 14  # clips whose alignment stays in memory, at some 2 kB each


@dataclass(frozen=True)
class WaveBatchConfig:
    items: int = 8
    frames: int = 24  # of a crop whose wave is judged
    context_frames: int = 8  # more on each side, so that edges do not count
    full_band_rate: int = 22000  # Hz; clips recorded below it have no upper band to learn
    narrow_share: float = 0.0  # of the crops, from those: more speakers, judged where they have a band
    predicted_share: float = 0.75  # of the crops, where there are predicted mels


class WaveBatch(NamedTuple, Generic[Array]):
    mel: Array  # [B, N_MELS, T]
    pitch: Array  # [B, 2, T]
    source: Array  # [B, T * OUTPUT_HOP]
    noise: Array  # [B, T * OUTPUT_HOP]
    wave: Array  # [B, T * OUTPUT_HOP]
    narrow: Array  # [B] whether the recording ends at 8 kHz


def full_band_items(corpus: Corpus, config: WaveBatchConfig) -> list[int]:
    """Indices of the clips that a vocoder can learn from: long enough, and with an upper band."""
    return [i for i in _long_enough(corpus, config) if _has_upper_band(corpus.items[i], config)]


def narrow_items(corpus: Corpus, config: WaveBatchConfig) -> list[int]:
    """Indices of those that are long enough and end at 8 kHz, if the config asks for any."""
    if not config.narrow_share:
        return []
    wide_enough = (i for i in _long_enough(corpus, config) if corpus.items[i].sample_rate >= SAMPLE_RATE)
    return [i for i in wide_enough if not _has_upper_band(corpus.items[i], config)]


def items_of(corpus: Corpus, config: WaveBatchConfig) -> list[int]:
    """Indices of all clips that a sampler draws from."""
    return full_band_items(corpus, config) + narrow_items(corpus, config)


def _long_enough(corpus: Corpus, config: WaveBatchConfig) -> list[int]:
    length = config.frames + 2 * config.context_frames
    return [index for index, item in enumerate(corpus.items) if item.entry.frames > length]


def _has_upper_band(item: Item, config: WaveBatchConfig) -> bool:
    return not item.sample_rate or item.sample_rate >= config.full_band_rate


class WaveSampler:
    """Crops for the vocoder.

    ``predicted`` may hold, by an item's index, the mel [frames, N_MELS] that a conversion model makes of it;
    it then replaces the true one in ``predicted_share`` of the crops.
    """

    def __init__(
        self, corpus: Corpus, config: WaveBatchConfig, seed: int, predicted: Mapping[int, np.ndarray] | None = None
    ) -> None:
        self.corpus, self.config, self.seed, self.predicted = corpus, config, seed, predicted or {}
        self.length = config.frames + 2 * config.context_frames
        self._items = full_band_items(corpus, config)
        if not self._items:
            raise InputError(f"no clip recorded at {config.full_band_rate} Hz or more to train a vocoder on")
        self._weights = by_length([corpus.items[i] for i in self._items])
        self._narrow = narrow_items(corpus, config)
        self._narrow_weights = by_length([corpus.items[i] for i in self._narrow])
        self._alignments: dict[int, Alignment] = {}

    def batch(self, step: int, rank: int = 0) -> WaveBatch[np.ndarray]:
        rng = np.random.default_rng([self.seed, step, rank])
        count = round(self.config.items * self.config.narrow_share) if self._narrow else 0
        chosen = rng.choice(self._items, self.config.items - count, p=self._weights)
        if count:
            chosen = np.append(chosen, rng.choice(self._narrow, count, p=self._narrow_weights))
        mel, pitch, source, wave = map(np.stack, zip(*(self._crop(rng, int(index)) for index in chosen)))
        return WaveBatch(
            mel=np.ascontiguousarray(mel.transpose(0, 2, 1)),
            pitch=pitch,
            source=source,
            noise=rng.uniform(-1, 1, wave.shape).astype(np.float32),
            wave=wave,
            narrow=np.arange(len(wave)) >= len(wave) - count,
        )

    def _crop(self, rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mel [T, N_MELS], pitch [2, T], pulse train [N] and wave [N] of a random place in a clip."""
        store, entry = self.corpus.store, self.corpus.items[index].entry
        f0, wave = store.clip_f0(entry), store.clip_wave(entry)
        at = int(rng.integers(0, max(1, len(f0) - self.length)))
        crop = slice(at, at + self.length)
        use_predicted = index in self.predicted and rng.random() < self.config.predicted_share
        mel = self.predicted[index] if use_predicted else store.clip_mel(entry)
        # A clip whose features are made on the fly can turn out shorter than the manifest says.
        mel, f0, wave = (crop_frames(array, 0, max(len(array), self.length)) for array in (mel, f0, wave))
        curve, voiced = continuous_log_f0(f0)
        correction, inverted = self._alignment(index, wave, curve, voiced)
        return (
            mel[crop].astype(np.float32),
            np.stack([curve[crop], voiced[crop]]),
            PulseTrain(curve, correction=correction).samples(crop.start, crop.stop),
            wave[crop].reshape(-1).astype(np.float32) / (-WAVE_SCALE if inverted else WAVE_SCALE),
        )

    def _alignment(self, index: int, wave: np.ndarray, curve: np.ndarray, voiced: np.ndarray) -> Alignment:
        """Of the whole clip, remembered."""
        if index not in self._alignments:
            if len(self._alignments) >= REMEMBERED:
                self._alignments.clear()
            self._alignments[index] = alignment(wave.reshape(-1) / WAVE_SCALE, curve, voiced)
        return self._alignments[index]
