"""Perturbations: each does what its name says, all keep the shape, and the seed decides."""

from __future__ import annotations

import numpy as np
import pytest

from vconv.features import LOG_MEL_MIN, N_MELS
from vconv.training.perturb import PerturbConfig, perturb, warp

NOISE = PerturbConfig(warp=0, equalizer=0, blur=0, noise=1, noise_snr_db=(15, 15), reverb=0, band_limit=0)
NOTHING = PerturbConfig(warp=0, equalizer=0, blur=0, noise=0, reverb=0, band_limit=0)


@pytest.fixture
def mel() -> np.ndarray:
    """Speech-like: bursts of energy with a formant at band 30, silence between."""
    band = np.arange(N_MELS)
    envelope = -3 - ((band - 30) / 12) ** 2
    frames = np.sin(np.arange(100) / 6)[:, None] * 2 - 1
    return np.maximum(envelope + frames, LOG_MEL_MIN).astype(np.float32)


def test_nothing_asked_nothing_done(mel: np.ndarray) -> None:
    np.testing.assert_array_equal(perturb(mel, np.random.default_rng(0), NOTHING), mel)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_warp_moves_the_formant(mel: np.ndarray, factor: float) -> None:
    moved = warp(mel, factor).mean(axis=0).argmax() - mel.mean(axis=0).argmax()
    assert np.sign(moved) == np.sign(factor - 1)
    np.testing.assert_allclose(warp(mel, 1.0), mel, atol=1e-4)


def test_noise_fills_the_gaps_and_spares_the_peaks(mel: np.ndarray) -> None:
    noisy = perturb(mel, np.random.default_rng(1), NOISE)
    quiet, loud = mel < -9, mel > -2.5
    assert noisy[quiet].mean() > mel[quiet].mean() + 1
    assert abs(noisy[loud].mean() - mel[loud].mean()) < 0.3


def test_reverb_rings_on_after_an_onset() -> None:
    click = np.full((60, N_MELS), LOG_MEL_MIN, np.float32)
    click[20] = 0.0
    config = PerturbConfig(warp=0, equalizer=0, blur=0, noise=0, reverb=1, band_limit=0)
    wet = perturb(click, np.random.default_rng(0), config)
    assert wet[:20].max() < LOG_MEL_MIN + 0.5  # the floor's own ringing
    tail = wet[20:40].mean(axis=1)
    assert (np.diff(tail) < 0).all()
    assert tail[5] > LOG_MEL_MIN + 1


def test_the_seed_decides(mel: np.ndarray) -> None:
    config = PerturbConfig(warp=1, equalizer=1, blur=1, noise=1, reverb=1, band_limit=1)
    first = perturb(mel, np.random.default_rng(5), config)
    np.testing.assert_array_equal(first, perturb(mel, np.random.default_rng(5), config))
    assert np.abs(first - perturb(mel, np.random.default_rng(6), config)).mean() > 0.1
    assert first.shape == mel.shape
    assert np.isfinite(first).all()
    assert first.min() >= LOG_MEL_MIN
