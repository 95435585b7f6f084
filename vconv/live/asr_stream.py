"""ASR features of a stream: each frame is encoded with its block, and before that with earlier blocks' lookahead."""

from __future__ import annotations

import math

import numpy as np

from vconv.features import SAMPLE_RATE
from vconv.frontends.ends import MIRRORED_SAMPLES, mirrored_end
from vconv.frontends.grid import CODE_HOP, at_places, places
from vconv.frontends.live_asr_encoder import LiveAsrEncoder
from vconv.live.statistics import NormEstimate

CATCH_UP = 24  # last known frames, 0.6 s, that are encoded at once after a pause; a long block has more of its own


class AsrStream:
    """Frames and samples are numbered from the start of the stream."""

    def __init__(self, encoder: LiveAsrEncoder, past: int) -> None:
        """``past``: frames of the code for which features are asked again after their block."""
        self._encoder, self._memory = encoder, encoder.begin()
        self._kept = math.ceil(past * CODE_HOP / encoder.stride) + 2
        self._level = NormEstimate(encoder.level[:, None], frozen=False)
        self._rows = np.zeros((0, encoder.channels), np.float32)  # features of the last final frames
        self._next = 0  # the frame after these

    def features(self, wave: np.ndarray, frames: range, due: range, end: int) -> np.ndarray:
        """Features [R, K] of K frames of the code; after the last known samples the last ones are repeated.

        Args:
            wave: [N], the last known samples.
            frames: of the code.
            due: those of the block; what follows is its lookahead.
            end: the frame with which what is known ends.
        """
        encoder, samples = self._encoder, end * CODE_HOP
        known = (samples - encoder.span) // encoder.stride + 1  # frames all of whose samples are known
        own = math.floor(self._places(due.start))  # the block's first frame
        first = max(self._next, min(known - CATCH_UP, own), -((len(wave) - samples) // encoder.stride))
        if first > self._next:
            self._rows = np.repeat(self._rows[-1:], self._kept, axis=0)
        count = (samples + MIRRORED_SAMPLES - encoder.span) // encoder.stride + 1 - first
        start = len(wave) - samples + first * encoder.stride
        seen = mirrored_end(wave, MIRRORED_SAMPLES)[start : start + encoder.samples(count)]
        encoded = encoder(seen, self._level.value[:, 0], self._memory)
        self._level.add(encoded.level[:, None], len(due) * CODE_HOP / SAMPLE_RATE)
        rows = np.concatenate([self._rows, encoded.features])
        at = self._places(np.array(frames)) - (first - len(self._rows))
        final = max(min(math.floor(self._places(due.stop)), known) - first, 0)
        self._memory, self._next = encoded.into(self._memory, final), first + final
        self._rows = rows[: len(self._rows) + final][-self._kept :]
        return at_places(rows, at).T

    def _places(self, frames: np.ndarray | int) -> np.ndarray:
        return places(np.asarray(frames), self._encoder.stride, self._encoder.centre)
