"""Periodicity by band, distances of a copy from its recording, and the oracles, on signals with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import speech
from vconv.evaluation import copy_synthesis, oracles
from vconv.evaluation.periodicity import BANDS, RATE, key, periodicity
from vconv.features import FRAME_RATE, OUTPUT_RATE
from vconv.stft import stft

RNG_SEED = 3
NAMES = [key(band) for band in BANDS]


def harmonics(f0: float, rate: int, seconds: float = 1.0, top: float = 7800.0) -> np.ndarray:
    """A pulse train [N] without what lies above ``top`` Hz."""
    time = np.arange(round(seconds * rate)) / rate
    return sum(np.cos(2 * np.pi * k * f0 * time) for k in range(1, int(top / f0) + 1))


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(RNG_SEED).standard_normal(samples)


def curve(f0: float, seconds: float = 1.0) -> np.ndarray:
    return np.full(round(seconds * FRAME_RATE), f0)


@pytest.mark.parametrize("f0", [83.0, 121.7, 251.3])
def test_a_pulse_train_is_periodic_in_every_band(f0: float) -> None:
    found = periodicity(harmonics(f0, RATE), curve(f0), FRAME_RATE).medians()
    assert list(found) == NAMES
    assert min(found.values()) > 0.95


def test_an_error_of_the_f0_tracker_is_no_noise() -> None:
    found = periodicity(harmonics(121.7, RATE), curve(124.0), FRAME_RATE).medians()
    assert min(found.values()) > 0.95


def test_noise_is_not_periodic() -> None:
    wave = np.random.default_rng(RNG_SEED).standard_normal(10 * RATE)
    found = periodicity(wave, curve(150.0, 10.0), FRAME_RATE).medians()
    assert max(abs(found[name]) for name in NAMES[:2]) < 0.2  # the lag is chosen here, so chance is above zero
    assert max(abs(found[name]) for name in NAMES[2:]) < 0.05


def test_breath_counts_in_its_own_band() -> None:
    mixed = harmonics(120.0, RATE, top=3000.0) + 3 * noise(RATE)
    found = periodicity(mixed, curve(120.0), FRAME_RATE).medians()
    assert found["periodicity_0_1k"] > 0.7 and abs(found["periodicity_4_7.5k"]) < 0.15


def test_unvoiced_frames_and_frames_at_the_ends_are_left_out() -> None:
    f0 = curve(100.0)
    f0[20:40] = 0
    frames = periodicity(harmonics(100.0, RATE), f0, FRAME_RATE).frames
    assert len(frames) and not set(frames) & set(range(20, 40))
    assert 0 not in frames  # its window would begin before the wave


@pytest.mark.parametrize("wave", [np.zeros(RATE), np.zeros(40), np.zeros(0)])
def test_silence_and_nothing_are_no_error(wave: np.ndarray) -> None:
    frames = periodicity(wave, curve(100.0), FRAME_RATE)
    assert np.isfinite(frames.values).all() and frames.values.shape == (len(BANDS), len(frames.frames))
    assert periodicity(wave, np.zeros(62), FRAME_RATE).medians() == {}


def test_a_copy_that_is_the_recording_has_no_distance() -> None:
    wave = speech(1.0, OUTPUT_RATE, f0=140.0)
    found = copy_synthesis.measures(wave, wave, curve(140.0), curve(140.0))
    assert set(found) == {"spectral_distance", "voicing_error", "periodicity_error", *NAMES}
    assert set(found.values()) == {0.0}


def test_a_copy_that_buzzes_is_too_periodic_above() -> None:
    clean = harmonics(120.0, OUTPUT_RATE, top=11000.0)
    breathy = harmonics(120.0, OUTPUT_RATE, top=2000.0) + 0.3 * noise(OUTPUT_RATE)
    found = copy_synthesis.measures(breathy, clean, curve(120.0))
    assert found["periodicity_4_7.5k"] > 0.8 and abs(found["periodicity_0_1k"]) < 0.1
    assert found["periodicity_error"] > 0.2 and "voicing_error" not in found


def test_spectral_distance_counts_decibels_up_to_the_top() -> None:
    wave = 0.1 * noise(OUTPUT_RATE)
    assert copy_synthesis.spectral_distance(wave, 2 * wave) == pytest.approx(6.02, abs=0.01)
    above = wave + np.sin(2 * np.pi * 10000 / OUTPUT_RATE * np.arange(OUTPUT_RATE))
    assert copy_synthesis.spectral_distance(wave, above, top=8000.0) < 0.3
    assert copy_synthesis.spectral_distance(wave, above) > 0.5


def test_voicing_error_is_a_share_of_frames() -> None:
    wave, f0 = speech(1.0, OUTPUT_RATE), curve(140.0)
    other = f0.copy()
    other[:31] = 0
    assert copy_synthesis.measures(wave, wave, f0, other)["voicing_error"] == pytest.approx(0.5)


def test_a_copy_that_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="aligned"):
        copy_synthesis.measures(np.zeros(100), np.zeros(99), np.zeros(1))


def test_the_mean_is_over_the_copies_that_have_a_figure() -> None:
    assert copy_synthesis.mean([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


def test_oracles_of_the_recording_itself_change_nothing() -> None:
    wave = speech(0.5, OUTPUT_RATE)
    assert oracles.with_magnitudes(wave, wave) == pytest.approx(wave, abs=1e-5)
    assert oracles.with_envelope(wave, wave) == pytest.approx(wave, abs=1e-5)


def test_the_oracle_of_the_envelope_undoes_a_filter() -> None:
    wave = 0.1 * noise(OUTPUT_RATE)
    muffled = np.convolve(wave, [0.5, 0.5], "same")  # a low-pass
    before, after = (
        copy_synthesis.spectral_distance(wave, x, 10000) for x in (muffled, oracles.with_envelope(muffled, wave))
    )
    assert after < 0.5 * before


def test_the_oracle_of_magnitudes_has_those_of_the_recording() -> None:
    recording, copy = speech(0.48, OUTPUT_RATE, seed=1), 0.05 * noise(90 * oracles.HOP)
    wanted, before, after = (
        np.abs(stft(wave, oracles.HOP)) for wave in (recording, copy, oracles.with_magnitudes(copy, recording))
    )
    assert np.linalg.norm(after - wanted) < 0.5 * np.linalg.norm(before - wanted)
