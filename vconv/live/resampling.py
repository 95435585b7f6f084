"""Resampling of a stream with a delay of a millisecond or two.

soxr, which resamples files, filters long streams in large blocks and holds back up to 40 ms each way.
"""

from __future__ import annotations

from math import ceil, gcd

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

ZERO_CROSSINGS = 24  # of the sinc on each side
ROLLOFF = 0.94  # of the lower Nyquist frequency, where the filter's passband ends
KAISER_BETA = 9.0  # about 90 dB of stop-band attenuation


class StreamResampler:
    """Windowed-sinc interpolation (Smith 1984, "A flexible sampling-rate conversion method"), block after block.

    Output sample n lies at input position n * from_rate / to_rate exactly, and the result does not depend on how the
    input is cut into blocks.

    Attributes:
        latency: seconds of input that an output sample needs after its own time.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        common = gcd(from_rate, to_rate)
        self._up, self._down = to_rate // common, from_rate // common
        scale = min(1.0, to_rate / from_rate) * ROLLOFF
        self._half = 0 if from_rate == to_rate else ceil(ZERO_CROSSINGS / scale)
        self.latency = self._half / from_rate
        self._table = _filters(self._up, self._half, scale)
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        # Silence before the first sample, so that output 0 has a left side.
        self._held = np.zeros(max(self._half - 1, 0), np.float32)
        self._phase = 0  # of the next output, in 1 / up of an input sample after the first that it needs

    def process(self, block: np.ndarray) -> np.ndarray:
        """[n] -> the samples [m] that are complete with it."""
        if not self._half:
            return np.asarray(block, np.float32)
        held = np.concatenate([self._held, np.asarray(block, np.float32)])
        width = 2 * self._half
        last = (len(held) - width) * self._up + self._up - 1  # the latest phase for which all taps are there
        count = max(0, (last - self._phase) // self._down + 1)
        phases = self._phase + np.arange(count, dtype=np.int64) * self._down
        starts, fractions = phases // self._up, phases % self._up
        out = np.zeros(0, np.float32)
        if count:
            out = np.einsum("nt,nt->n", sliding_window_view(held, width)[starts], self._table[fractions])
        following = self._phase + count * self._down
        drop = min(following // self._up, len(held))
        self._held, self._phase = held[drop:], following - drop * self._up
        return out.astype(np.float32)

    def flush(self) -> np.ndarray:
        """What silence after the last sample completes; then the next stream can begin."""
        rest = self.process(np.zeros(self._half, np.float32))
        self.reset()
        return rest


def _filters(phases: int, half: int, scale: float) -> np.ndarray:
    """Interpolation filters for positions of k / phases between two samples: [phases, 2 * half] float32"""
    if not half:
        return np.ones((1, 1), np.float32)
    fraction = np.arange(phases)[:, None] / phases
    distance = np.arange(-half + 1, half + 1) - fraction  # in input samples
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, 1))) / np.i0(KAISER_BETA)
    taps = scale * np.sinc(scale * distance) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
