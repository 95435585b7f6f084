"""The harmonic source: right pitch, no seams, nothing above its band."""

from __future__ import annotations

import numpy as np
import pytest

from vconv.excitation import MAX_FREQUENCY, PulseTrain
from vconv.features import F0_REFERENCE, OUTPUT_HOP, OUTPUT_RATE


def _curve(f0: np.ndarray) -> np.ndarray:
    return np.log2(f0 / F0_REFERENCE).astype(np.float32)


@pytest.mark.parametrize("f0", [60.0, 123.4, 220.0, 401.0, 780.0])
def test_partials_at_multiples_of_f0_up_to_the_band_limit(f0: float) -> None:
    wave = PulseTrain(_curve(np.full(125, f0))).samples(0, 125)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    frequency = np.fft.rfftfreq(len(wave), 1 / OUTPUT_RATE)
    for partial in (1, 2, int(0.99 * MAX_FREQUENCY // f0)):
        near = np.abs(frequency - partial * f0) < f0 / 2
        assert abs(frequency[near][spectrum[near].argmax()] - partial * f0) < 1.0
    assert spectrum[frequency > MAX_FREQUENCY + 20].max() < 1e-3 * spectrum.max()
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(1.0, abs=0.05)


def test_any_cut_gives_the_same_samples() -> None:
    curve = _curve(np.exp(np.random.default_rng(0).normal(5.2, 0.3, 200)))
    pulses = PulseTrain(curve)
    whole = pulses.samples(0, 200)
    parts = [pulses.samples(a, b) for a, b in [(0, 1), (1, 77), (77, 200)]]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(whole) == 200 * OUTPUT_HOP


def test_phase_does_not_drift_in_an_hour() -> None:
    frames = 225_000
    wave = PulseTrain(np.zeros(frames, np.float32)).samples(frames - 63, frames - 1)
    # 200 Hz has a period of exactly 120 samples, and a frame 3.2 of them.
    period = OUTPUT_RATE // 200
    np.testing.assert_allclose(wave[:-period], wave[period:], atol=1e-2)


def test_a_glide_reaches_both_ends() -> None:
    f0 = np.geomspace(100, 200, 250)
    wave = PulseTrain(_curve(f0)).samples(0, 250)
    pulses = [np.sum(np.diff((part > 0.5 * part.max()).astype(int)) == 1) for part in (wave[:12000], wave[-12000:])]
    # Half a second at each end of a geometric glide over four seconds.
    assert abs(pulses[0] - 52) <= 2
    assert abs(pulses[1] - 96) <= 3
