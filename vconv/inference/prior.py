"""The population's share in the instance norms of a short source.

Mean and variance over a word or two are those of its few sounds more than those of its speaker, and of the silence
around them. With a share of the population's statistics, content and mel of a short source are nearer to those that it
has as a part of a long one (recipes/base/history/RUNS.md, run 16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vconv.inference.engine import Decoded, Encoded, Engine
from vconv.inference.utterance import Utterance
from vconv.voice import Voice

if TYPE_CHECKING:
    from vconv.live import Enrolment

ENOUGH_SECONDS = 4.0  # of active speech; a source with as much is normalized by itself alone
POPULATION_FRAMES = 312  # of the population's speech, even: what a voice makes of it gives the decoder's statistics


@dataclass(frozen=True)
class Prior:
    """What instance norms take from the population; without one, nothing."""

    population: Enrolment | None
    share: float = 0.0  # of the population's statistics, and the rest is the source's own

    @classmethod
    def of(cls, population: Enrolment | None, seconds: float) -> Prior:
        """For a source with so many seconds of active speech, fewer than ``ENOUGH_SECONDS``."""
        return cls(population, 1 - seconds / ENOUGH_SECONDS)

    def content(self, engine: Engine, utterance: Utterance) -> Encoded:
        """What the content encoder makes of a stretch of the source."""
        if self.population is None:
            return engine.content(utterance)
        return engine.content(utterance, self.population.statistics, self.share)

    def decoder(self, engine: Engine, melody: np.ndarray, voice: Voice) -> Callable[[np.ndarray, np.ndarray], Decoded]:
        """The decoder for a source with a melody [2, T], the networks' pitch input, in a voice.

        It takes content [C, N / 2] and pitch [2, N] of a stretch of the source.
        """
        if self.population is None:
            return lambda content, pitch: engine.decode(content, pitch, voice)
        known, part = self.population, slice(POPULATION_FRAMES)
        curve = known.curve[part] - np.float32(known.log_f0) + _median(melody)
        pitch = np.stack([curve, known.voiced[part]]).astype(np.float32)
        decoded = engine.decode(known.content[:, : pitch.shape[1] // 2], pitch, voice)
        statistics, share = decoded.statistics, self.share
        return lambda content, pitch: engine.decode(content, pitch, voice, statistics, share)


def _median(melody: np.ndarray) -> np.float32:
    """Median log2 F0 of the voiced frames of a melody [2, T], of all where none is voiced."""
    curve, voiced = melody[0], melody[1] > 0
    return np.float32(np.median(curve[voiced] if voiced.any() else curve))
