"""The equalizer of vocoded waves, and the mel of 24 kHz waves that it measures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import speech
from vconv import audio
from vconv.equalizer import EQUALIZER_CONTEXT, equalized
from vconv.features import N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE, log_mel, output_log_mel

FRAMES = 120
HEARD = slice(4, FRAMES - 4)  # away from the ends, where windows reach beyond the wave


def wave(f0: float = 140.0, seed: int = 0) -> np.ndarray:
    """Speech-like sound [FRAMES * OUTPUT_HOP] at 24 kHz."""
    made = audio.resample(speech(3.0, f0=f0, seed=seed), SAMPLE_RATE, OUTPUT_RATE)
    return made[: FRAMES * OUTPUT_HOP].astype(np.float32)


def test_the_mel_at_24_khz_is_that_of_the_resampled_wave() -> None:
    sound = wave()
    expected = log_mel(audio.resample(sound, OUTPUT_RATE, SAMPLE_RATE))
    found = output_log_mel(sound)
    assert found.shape == (N_MELS, FRAMES) and found.dtype == np.float32
    np.testing.assert_allclose(found[:70, HEARD], expected[:70, HEARD], atol=0.02)  # the resampling filter ends below


def test_a_wave_that_has_the_mel_stays_as_it_is() -> None:
    sound = wave()
    again = equalized(sound, output_log_mel(sound))
    assert again.shape == sound.shape and again.dtype == np.float32
    inner = slice(OUTPUT_HOP, -OUTPUT_HOP)
    np.testing.assert_allclose(again[inner], sound[inner], atol=1e-4)


def test_a_wave_gets_nearer_to_the_mel() -> None:
    sound, wanted = wave(), output_log_mel(wave(f0=150.0, seed=3))
    before = np.abs(output_log_mel(sound) - wanted)[:, HEARD].mean()
    after = np.abs(output_log_mel(equalized(sound, wanted)) - wanted)[:, HEARD].mean()
    assert after < 0.85 * before


def test_a_constant_difference_is_a_filter() -> None:
    sound = wave()
    shift = 0.3 * np.sin(np.arange(N_MELS) / 20)[:, None].astype(np.float32)
    mel = output_log_mel(sound)
    found = output_log_mel(equalized(sound, mel + shift)) - mel
    np.testing.assert_allclose(found[2:76, HEARD].mean(axis=1), shift[2:76, 0], atol=0.05)


def test_nothing_changes_above_the_mel() -> None:
    sound = np.random.default_rng(0).normal(0, 0.05, FRAMES * OUTPUT_HOP).astype(np.float32)
    before, after = (
        np.abs(np.fft.rfft(made[: 60 * OUTPUT_HOP])) for made in (sound, equalized(sound, output_log_mel(sound) - 1.0))
    )
    top = np.fft.rfftfreq(60 * OUTPUT_HOP, 1 / OUTPUT_RATE) > 8600
    assert np.abs(after[top]).mean() == pytest.approx(before[top].mean(), rel=0.01)
    assert after[~top].mean() < 0.6 * before[~top].mean()


def test_a_frame_far_away_changes_nothing() -> None:
    sound = wave()
    mel = output_log_mel(sound)
    other = mel.copy()
    other[:, 60:] += 1.0
    reach = (60 - EQUALIZER_CONTEXT) * OUTPUT_HOP
    np.testing.assert_array_equal(equalized(sound, other)[:reach], equalized(sound, mel)[:reach])
    assert np.abs(equalized(sound, other) - equalized(sound, mel))[reach:].max() > 0.01
