"""The harmonic source of the vocoder: a band-limited pulse train that follows an F0 curve exactly."""

from __future__ import annotations

import numpy as np

from vconv.features import F0_REFERENCE, OUTPUT_HOP, OUTPUT_RATE

MAX_FREQUENCY = 0.45 * OUTPUT_RATE  # Hz, the highest partial: safely under the Nyquist frequency


class PulseTrain:
    """Equal-amplitude cosines at all multiples of F0 up to ``MAX_FREQUENCY``, at 24 kHz.

    The sum of K cosines has a closed form, the Dirichlet kernel
    ``1 + 2 Σ cos(kφ) = sin((K + ½)φ) / sin(φ/2)``, so a sample costs two sines whatever F0 is.
    The phase is integrated once for the whole file, in double precision: any stretch of frames can
    be computed, in any order, and neighbours fit together without a seam.

    It goes on through unvoiced frames, where the curve is bridged: the vocoder decides from the mel
    its level, which reduces the effect of a pitch tracker's voicing errors.
    """

    def __init__(self, curve: np.ndarray, phase: float = 0.0, correction: np.ndarray | None = None) -> None:
        """``curve``: log2 F0 relative to ``F0_REFERENCE``, [T] octaves, as ``continuous_log_f0`` makes it.

        ``phase``, in cycles, is where it begins; ``correction`` [T + 1], in cycles, is added where frames begin and
        end, and in between linearly.
        """
        frequency = F0_REFERENCE * np.exp2(curve.astype(np.float64))
        # Linear between frame centres, so the phase (in cycles) is piecewise quadratic.
        self._frequency = np.append(frequency, frequency[-1:])
        advance = (self._frequency[:-1] + self._frequency[1:]) / 2 * (OUTPUT_HOP / OUTPUT_RATE)
        self._phase = phase + np.concatenate([[0.0], np.cumsum(advance)])
        self._correction = correction

    def phase_at(self, frame: int) -> float:
        """Phase at the beginning of a frame, in cycles from 0 to 1: where a train of the rest begins."""
        return float(self._phase[frame] % 1.0)

    def phases(self, start: int, end: int) -> np.ndarray:
        """Phase of the frames ``start`` to ``end`` (exclusive), in cycles: [end - start, OUTPUT_HOP] float64."""
        u = np.arange(OUTPUT_HOP) / OUTPUT_HOP  # place between two frame centres
        left, right = self._edges(start, end, self._frequency)
        phase = self._phase[start:end, None] + (left * u + (right - left) * u**2 / 2) * (OUTPUT_HOP / OUTPUT_RATE)
        if self._correction is None:
            return phase
        before, after = self._edges(start, end, self._correction)
        return phase + before + (after - before) * u

    @staticmethod
    def _edges(start: int, end: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values [T + 1] where frames begin and where they end, [end - start, 1] each."""
        return values[start:end, None], values[start + 1 : end + 1, None]

    def samples(self, start: int, end: int) -> np.ndarray:
        """Samples of the frames ``start`` to ``end`` (exclusive): [(end - start) * OUTPUT_HOP] float32, rms 1."""
        phase = self.phases(start, end)
        partials = np.floor(MAX_FREQUENCY / np.maximum(*self._edges(start, end, self._frequency)))
        # Of angles around zero, where numerator and denominator vanish, single precision is enough, and twice as fast.
        angle = (2 * np.pi * (phase - np.rint(phase))).astype(np.float32)
        partials = partials.astype(np.float32)
        denominator = np.sin(angle / 2)
        near_zero = np.abs(denominator) < 1e-6
        kernel = np.sin((partials + 0.5) * angle) / np.where(near_zero, 1.0, denominator)
        kernel = np.where(near_zero, 2 * partials + 1, kernel)
        # The kernel is 1 + 2 Σ cos; its sum of K cosines has mean square K / 2.
        return ((kernel - 1) / np.sqrt(2 * partials)).reshape(-1)
