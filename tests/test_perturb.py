"""Perturbations: each does what its name says, all keep the shape, and the seed decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from vconv.data.augmentation.mel import PerturbConfig, perturb, warp
from vconv.features import LOG_MEL_MIN, N_MELS

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


def test_a_bend_moves_low_and_high_formants_apart_or_together() -> None:
    band = np.arange(N_MELS)
    peaks = np.maximum(-((band - 15) ** 2), -((band - 65) ** 2)) / 30.0 - 2
    still = np.tile(peaks, (4, 1)).astype(np.float32)
    config = dataclasses.replace(NOTHING, warp=1, warp_octaves=0.0, bend_octaves=0.2)
    for seed in range(6):
        bent = perturb(still, np.random.default_rng(seed), config)[0]
        low, high = bent[:40].argmax() - 15, 40 + bent[40:].argmax() - 65
        assert low * high <= 0
    moved = [np.abs(perturb(still, np.random.default_rng(seed), config) - still).max() for seed in range(6)]
    assert max(moved) > 1


def test_noise_fills_the_gaps_and_spares_the_peaks(mel: np.ndarray) -> None:
    noisy = perturb(mel, np.random.default_rng(1), NOISE)
    quiet, loud = mel < -9, mel > -2.5
    assert noisy[quiet].mean() > mel[quiet].mean() + 1
    assert abs(noisy[loud].mean() - mel[loud].mean()) < 0.3


def test_babble_comes_from_the_others_at_the_level_asked_for(mel: np.ndarray) -> None:
    config = dataclasses.replace(NOTHING, babble=1, babble_voices=(3, 3), babble_snr_db=(10, 10))
    asked: list[int] = []

    def others(rng: np.random.Generator, frames: int) -> np.ndarray:
        asked.append(frames)
        return np.roll(mel, 17 * len(asked), axis=0) + rng.uniform(-2, 2)  # louder or softer: it makes no difference

    noisy = perturb(mel, np.random.default_rng(0), config, others)
    assert asked == [len(mel)] * 3
    behind = np.maximum(np.exp(2 * noisy.astype(float)) - np.exp(2 * mel), 0)
    snr = 10 * np.log10(np.exp(2 * mel.astype(float)).mean() / behind.mean())
    assert snr == pytest.approx(10, abs=0.1)
    np.testing.assert_array_equal(perturb(mel, np.random.default_rng(0), config), mel)  # nobody there: no babble


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


# ---------------------------------------------------------------- masks


def masked(mel: np.ndarray, seed: int, **settings: object) -> np.ndarray:
    """Whether each value is another after masking, [T, N_MELS], and that it then is its band's mean."""
    result = perturb(mel, np.random.default_rng(seed), dataclasses.replace(NOTHING, **settings))
    changed = result != mel
    mean = np.broadcast_to(mel.mean(axis=0), mel.shape)
    np.testing.assert_allclose(result[changed], mean[changed], rtol=1e-6)
    return changed


@pytest.fixture
def restless() -> np.ndarray:
    """A mel in which no value is its band's mean."""
    return np.random.default_rng(0).normal(-5, 1, (120, N_MELS)).astype(np.float32)


def test_a_mask_is_so_many_whole_spans_of_frames_and_nothing_else(restless: np.ndarray) -> None:
    counts, lengths = set(), []
    for seed in range(60):
        changed = masked(restless, seed, mask=1.0, mask_spans=(1, 2), mask_frames=(5, 9))
        frames = changed[:, 0]
        assert (changed == frames[:, None]).all()  # a frame goes in all of its bands or in none
        edges = np.flatnonzero(np.diff(np.concatenate([[0], frames, [0]])))
        runs = edges[1::2] - edges[::2]
        counts.add(len(runs))
        if len(runs) == 2:  # else two may have met
            lengths += list(runs)
    assert counts == {1, 2}
    assert set(lengths) == {5, 6, 7, 8, 9}


def test_a_mask_of_bands_is_one_span_of_frequencies(restless: np.ndarray) -> None:
    for seed in range(20):
        changed = masked(restless, seed, mask_band=1.0, mask_band_mels=(3, 6))
        bands = np.flatnonzero(changed[0])
        assert (changed == changed[0]).all()
        assert 3 <= len(bands) <= 6 and np.ptp(bands) == len(bands) - 1


def test_masks_are_as_frequent_as_they_are_asked_for(restless: np.ndarray) -> None:
    share = np.mean([masked(restless, seed, mask=0.3).any() for seed in range(400)])
    assert share == pytest.approx(0.3, abs=0.07)  # three standard deviations


def test_a_mask_leaves_half_of_a_short_clip(restless: np.ndarray) -> None:
    changed = masked(restless[:12], 0, mask=1.0, mask_spans=(1, 1), mask_frames=(20, 20))
    assert changed[:, 0].sum() == 6


def test_without_masks_the_random_numbers_are_those_of_before(restless: np.ndarray) -> None:
    """A run that was begun without them goes on as it was."""
    rngs = [np.random.default_rng(3) for _ in range(2)]
    perturb(restless, rngs[0], PerturbConfig())
    perturb(restless, rngs[1], PerturbConfig(mask=0.0, mask_spans=(2, 5), mask_band=0.0))
    assert rngs[0].random() == rngs[1].random()
