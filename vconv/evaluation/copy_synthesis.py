"""How far a vocoder's copy is from its recording, without any judge: figures to log while a vocoder trains.

The copy has to be aligned with the recording sample by sample. None of the networks that judge results is used, so
these figures may choose between checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vconv import audio
from vconv.evaluation.periodicity import BANDS, MIN_VOICED_FRAMES, Frames, key, periodicity
from vconv.features import FRAME_RATE, OUTPUT_RATE, SAMPLE_RATE

RESOLUTIONS = (256, 512, 1024, 2048)  # samples at 24 kHz of the windows; hops are a quarter of them
RANGE_DB = 80.0  # below the recording's loudest bin of each resolution nothing is compared


def measures(
    recording: np.ndarray, copy: np.ndarray, f0: np.ndarray, copy_f0: np.ndarray | None = None, top: float = 12000.0
) -> dict[str, float]:
    """Figures of one copy: ``recording`` and ``copy`` [N] at 24 kHz, their F0 [T] in Hz (0 where unvoiced) at 62.5 Hz.

    spectral_distance: multi-resolution log-spectral distance in dB, up to ``top`` Hz (a recording that ends at
    8 kHz is compared up to there). periodicity_LOW_HIGHk: median periodicity of the copy less that of the
    recording in each band of ``periodicity.BANDS``, at the lag of the recording's F0; positive where the copy buzzes.
    periodicity_error: mean of their absolute values. voicing_error: fraction of frames voiced in one and not in the
    other, with ``copy_f0``. Periodicity is left out where too few frames are voiced.
    """
    if len(recording) != len(copy):
        raise ValueError(f"the recording has {len(recording)} samples and the copy {len(copy)}; they must be aligned")
    out = {"spectral_distance": spectral_distance(recording, copy, top)}
    if copy_f0 is not None:
        frames = min(len(f0), len(copy_f0))
        out["voicing_error"] = float(np.mean((f0[:frames] > 0) != (copy_f0[:frames] > 0))) if frames else 0.0
    own, copied = (_periodicity(wave, f0) for wave in (recording, copy))
    if len(own.frames) >= MIN_VOICED_FRAMES:
        first, second = own.medians(), copied.medians()
        differences = {name: second[name] - first[name] for name in map(key, BANDS)}
        out |= differences
        out["periodicity_error"] = float(np.mean(np.abs(list(differences.values()))))
    return out


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the copies that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def spectral_distance(recording: np.ndarray, copy: np.ndarray, top: float = 12000.0) -> float:
    """Root mean square difference of log magnitudes over frequency, averaged over time and ``RESOLUTIONS``, in dB.

    Waves [N] at 24 kHz. Magnitudes more than 80 dB below the recording's loudest are raised to that level.
    """
    distances = []
    for size in RESOLUTIONS:
        bins = int(top / OUTPUT_RATE * size) + 1
        first, second = (_magnitudes(wave, size)[:, :bins] for wave in (recording, copy))
        floor = max(first.max() * 10 ** (-RANGE_DB / 20), 1e-9)
        gap = 20 * np.log10(np.maximum(first, floor) / np.maximum(second, floor))
        distances.append(np.sqrt(np.square(gap).mean(axis=1)).mean())
    return float(np.mean(distances))


def _periodicity(wave: np.ndarray, f0: np.ndarray) -> Frames:
    return periodicity(audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE), f0, FRAME_RATE)


def _magnitudes(wave: np.ndarray, size: int) -> np.ndarray:
    """[N] -> [frames, size // 2 + 1]."""
    padded = np.pad(wave, (size // 2, size))
    return np.abs(np.fft.rfft(sliding_window_view(padded, size)[:: size // 4] * np.hanning(size + 1)[:-1]))
