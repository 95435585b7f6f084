"""How periodic voiced speech is, by frequency band. Numpy alone.

The periodicity of a frame is the correlation of the band-passed wave with itself one pitch period later, normalized by
the energies of the two windows: 1 for a pulse train, 0 for noise. Voices are near 1 below 1 kHz and fall towards 0.2
above 4 kHz, where breath prevails. A copy that is more periodic than its recording buzzes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

BANDS = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 7.5))  # kHz
RATE = 16000  # Hz of the waves
MIN_VOICED_FRAMES = 10  # below which a median says nothing

_UPSAMPLING = 4  # the highest band has two samples a period, too few to hit the lag
_WINDOW = 0.012  # s; a longer one would count gliding pitch as noise
_EDGE = 0.1  # kHz, width of the bands' raised-cosine edges
_LAG_BAND = (0.0, 2.0)  # kHz, where the exact period is searched
_LAG_WINDOW = 0.03  # s, for that search: more than for the correlation, so that less is owed to chance
_LAG_RANGE = 0.04  # of the given period, to either side
_COARSE = 4  # samples between those used in the search, which is below 2 kHz


@dataclass(frozen=True)
class Frames:
    """Periodicity of the voiced frames: ``values`` [len(BANDS), V], at ``frames`` [V] of the F0 curve."""

    values: np.ndarray
    frames: np.ndarray

    def medians(self) -> dict[str, float]:
        """Median of each band by its key; empty with too few voiced frames."""
        if len(self.frames) < MIN_VOICED_FRAMES:
            return {}
        return {key(band): float(value) for band, value in zip(BANDS, np.median(self.values, axis=1))}


def key(band: tuple[float, float]) -> str:
    """Name of a band's figure: ``periodicity_4_7.5k``."""
    return f"periodicity_{band[0]:g}_{band[1]:g}k"


def periodicity(wave: np.ndarray, f0: np.ndarray, frame_rate: float) -> Frames:
    """Periodicity of a wave [N] at 16 kHz by band, at the frames where ``f0`` [T] (Hz, 0 where unvoiced) is voiced.

    Frame ``t`` is centred on second ``t / frame_rate``. The lag is the period of ``f0``, corrected by up to 4 % to the
    highest correlation below 2 kHz, so that errors of the F0 tracker do not count as noise. Frames whose windows
    do not fit into the wave are left out.
    """
    rate = RATE * _UPSAMPLING
    half, wide = int(_WINDOW * rate / 2), int(_LAG_WINDOW * rate / 2)
    voiced = np.flatnonzero(f0 > 0)
    centres = np.round(voiced / frame_rate * rate).astype(int)
    lags = rate / np.asarray(f0, float)[voiced]
    longest = (lags * (1 + _LAG_RANGE)).astype(int) + 1
    fits = (centres - wide - longest // 2 >= 0) & (centres + wide + longest // 2 + 1 < len(wave) * _UPSAMPLING)
    voiced, centres, lags = voiced[fits], centres[fits], lags[fits]
    if not len(voiced):
        return Frames(np.zeros((len(BANDS), 0)), voiced)
    exact = _best_lags(_band_pass(wave, _LAG_BAND), centres, lags, wide)
    values = [_correlation(_band_pass(wave, band), centres, exact, half) for band in BANDS]
    return Frames(np.stack(values), voiced)


def _best_lags(wave: np.ndarray, centres: np.ndarray, lags: np.ndarray, half: int) -> np.ndarray:
    """The lag [V] of highest correlation around each of ``lags`` [V]."""
    factors = np.linspace(1 - _LAG_RANGE, 1 + _LAG_RANGE, 33)
    candidates = np.round(factors[:, None] * lags).astype(int)
    scores = np.stack([_correlation(wave, centres, row, half, _COARSE) for row in candidates])
    return candidates[scores.argmax(axis=0), np.arange(len(lags))]


def _correlation(wave: np.ndarray, centres: np.ndarray, lags: np.ndarray, half: int, step: int = 1) -> np.ndarray:
    """Normalized correlation [V] of the windows half a lag before and after each centre."""
    offsets = np.arange(-half, half, step)
    first = wave[(centres - lags // 2)[:, None] + offsets]
    second = wave[(centres - lags // 2 + lags)[:, None] + offsets]
    energy = np.einsum("vn,vn->v", first, first) * np.einsum("vn,vn->v", second, second)
    product = np.einsum("vn,vn->v", first, second)
    return np.where(energy > 0, product / np.sqrt(np.maximum(energy, 1e-30)), 0.0)


def _band_pass(wave: np.ndarray, band: tuple[float, float]) -> np.ndarray:
    """One band of a wave [N], at four times the rate: [4 N], without delay."""
    spectrum = np.fft.rfft(wave, _length(len(wave)))
    kilohertz = np.linspace(0, RATE / 2000, len(spectrum))
    spectrum *= _ramp((kilohertz - band[0]) / _EDGE) if band[0] else 1
    spectrum *= _ramp((band[1] - kilohertz) / _EDGE)
    return np.fft.irfft(spectrum, _UPSAMPLING * _length(len(wave)))[: _UPSAMPLING * len(wave)] * _UPSAMPLING


def _ramp(x: np.ndarray) -> np.ndarray:
    """Raised cosine from 0 at -1 to 1 at 0."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(x, -1, 0))


@cache
def _length(samples: int) -> int:
    """A power of two with room, so that the end does not wrap into the beginning."""
    return 1 << (samples + RATE // 50).bit_length()
