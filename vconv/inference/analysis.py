"""A source, read once and measured; and what the engine encodes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from vconv import audio
from vconv.audio import Source
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.pitch import PitchTracker
from vconv.inference import streaming
from vconv.inference.engine import Engine
from vconv.inference.output import not_finite
from vconv.inference.prior import Prior
from vconv.inference.streaming import Spool
from vconv.inference.targets import check_length
from vconv.inference.utterance import Utterance
from vconv.untrusted import all_finite


@dataclass(frozen=True)
class Analysis:
    """A source, read and measured."""

    wave: Spool  # 16 kHz mono, as loud as the source
    gain: float  # brings it to the reference loudness
    loudness: float  # dBFS
    active_seconds: float  # of speech, pauses left out
    output_samples: int  # its length at 24 kHz
    f0: np.ndarray  # [T] Hz, 0 where unvoiced

    @property
    def frames(self) -> int:
        """T, made even."""
        return len(self.f0) + len(self.f0) % 2

    @property
    def even_f0(self) -> np.ndarray:
        """[frames]"""
        return np.pad(self.f0, (0, self.frames - len(self.f0)))

    def utterance(self, start: int, end: int) -> Utterance:
        """From one frame to another, both even."""
        return streaming.utterance(self.wave, self.gain, start, end)


Inspect = Callable[[Analysis], None]  # is shown the source, measured, before it is converted


@dataclass(frozen=True)
class Extraction:
    """What the model takes from a recording: codes [G, T / 2], f0 [T] in Hz (0 where unvoiced), T even.

    codes is None where the model's bottleneck has none.
    """

    codes: np.ndarray | None
    f0: np.ndarray


@dataclass(frozen=True)
class Rebuilt:
    """A stretch of sound through the networks and back, in its own voice. T frames, even."""

    mel: np.ndarray  # [N_MELS, T] log-mel
    f0: np.ndarray  # [T] Hz, 0 where unvoiced
    embedding: np.ndarray  # [E] of unit length
    codes: np.ndarray | None  # [G, T / 2]; None where the model has no codes
    again: np.ndarray  # [N_MELS, T], what the decoder makes of these


@contextmanager
def analyse(source: Source, tracker: PitchTracker) -> Iterator[Analysis]:
    """Read a source once into a spool, which lives as long as the context, and measure it."""
    reader = audio.BlockReader(source, SAMPLE_RATE)
    meter = audio.LoudnessMeter(SAMPLE_RATE)
    with Spool() as wave:
        for block in reader:
            meter.add(block)
            wave.append(block)
        check_length(reader.name, reader.source_samples, reader.source_rate, "of audio")
        loudness = meter.loudness()
        if audio.is_silent(loudness):
            raise InputError(f"{reader.name}: {reader.why_silent(loudness)}")
        wave.offset = meter.offset()
        gain = audio.gain(loudness)
        yield Analysis(
            wave=wave,
            gain=gain,
            loudness=loudness,
            active_seconds=meter.active_seconds(),
            output_samples=audio.scaled_length(reader.source_samples, reader.source_rate, OUTPUT_RATE),
            f0=streaming.f0_curve(wave, gain, tracker),
        )


def codes_of(engine: Engine, analysis: Analysis, prior: Prior) -> np.ndarray | None:
    """Content codes of a source [G, frames / 2], None where the bottleneck has none."""
    parts = []
    done = 0
    for start, end in streaming.chunk_bounds(analysis.frames):
        codes = prior.content(engine, analysis.utterance(start, end)).codes
        if codes is None:
            return None
        last = end == analysis.frames
        until = end if last else end - streaming.OVERLAP_FRAMES // 2  # halfway through the overlap
        parts.append(codes[:, (done - start) // 2 : (until - start) // 2])
        done = until
    return np.concatenate(parts, axis=1)


def embedding_of(engine: Engine, analysis: Analysis) -> np.ndarray:
    """Speaker embedding [E] of a source: of its stretches, without silence around them, by their voiced frames."""
    embeddings, voiced = [], []
    for start, end in streaming.chunk_bounds(analysis.frames):
        wave = audio.trim_silence(analysis.wave.read(start * HOP_LENGTH, end * HOP_LENGTH), SAMPLE_RATE)
        if len(wave):
            embeddings.append(engine.speaker(Utterance.of(wave * np.float32(analysis.gain))))
            voiced.append(np.count_nonzero(analysis.f0[start:end]))
    embedding = np.average(embeddings, axis=0, weights=voiced if any(voiced) else None)
    if not all_finite(embedding):
        raise not_finite()
    return embedding
