"""Features and augmentation in batches on the training device are those of the CPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.synthetic import FORMANTS, RATE, speak  # noqa: E402
from vconv import audio, features  # noqa: E402
from vconv.data.augmentation import mel as mel_cpu  # noqa: E402
from vconv.data.augmentation import recording  # noqa: E402
from vconv.data.augmentation import wave as wave_cpu  # noqa: E402
from vconv.data.augmentation.mel import PerturbConfig  # noqa: E402
from vconv.data.augmentation.recording import DisturbConfig  # noqa: E402
from vconv.data.device import features as device  # noqa: E402
from vconv.data.device import mels, waves  # noqa: E402
from vconv.features import LOG_MEL_MIN, N_MELS, OUTPUT_RATE, SAMPLE_RATE  # noqa: E402
from vconv.frontends.grid import at_places  # noqa: E402

CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Three voices at the reference loudness, [3, N] at 24 kHz."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list(FORMANTS), 10)) for _ in range(3)]
    spoken = [speak(text, f0, tract, 7) for text, f0, tract in zip(words, (110, 160, 220), (0.9, 1.0, 1.2))]
    return np.stack([audio.normalize(wave, RATE) for wave in spoken])


@pytest.fixture(scope="module")
def narrow(clips: np.ndarray) -> np.ndarray:
    return np.stack([audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE) for wave in clips])


@pytest.fixture(scope="module")
def log_mels(narrow: np.ndarray) -> np.ndarray:
    """[3, T, N_MELS]"""
    return np.stack([features.log_mel(wave).T for wave in narrow])


def tensors(drawn: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in drawn.items()}


def test_resampling_is_that_of_the_cpu(clips: np.ndarray, narrow: np.ndarray) -> None:
    for length in (24000, 24001, 24002, 7, 1, 0):
        found = device.resample(torch.from_numpy(clips[:, :length]), OUTPUT_RATE, SAMPLE_RATE)
        own = np.stack([audio.resample(wave[:length], OUTPUT_RATE, SAMPLE_RATE) for wave in clips])
        np.testing.assert_allclose(found, own, rtol=0, atol=3e-6)
    noise = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32)  # up to the highest frequency
    for rates in ((OUTPUT_RATE, SAMPLE_RATE), (SAMPLE_RATE, OUTPUT_RATE), (48000, SAMPLE_RATE)):
        own = np.stack([audio.resample(wave, *rates) for wave in noise])
        np.testing.assert_allclose(device.resample(torch.from_numpy(noise), *rates), own, rtol=0, atol=2e-5)


def test_log_mels_are_those_of_the_cpu(clips: np.ndarray, narrow: np.ndarray, log_mels: np.ndarray) -> None:
    np.testing.assert_allclose(device.log_mel(torch.from_numpy(narrow)), log_mels, **CLOSE)
    short = features.log_mel(narrow[0, :300]).T
    np.testing.assert_allclose(device.log_mel(torch.from_numpy(narrow[:1, :300]))[0], short, **CLOSE)
    # From 24 kHz on, in a crop with its context, as in training.
    at, frames, context = 20, 32, device.CONTEXT_FRAMES
    crop = clips[:, (at - context) * features.OUTPUT_HOP : (at + frames + context) * features.OUTPUT_HOP]
    found = device.log_mel(device.resample(torch.from_numpy(crop), OUTPUT_RATE, SAMPLE_RATE))
    np.testing.assert_allclose(found[:, context : context + frames], log_mels[:, at : at + frames], **CLOSE)


def test_loudness_is_that_of_the_cpu(narrow: np.ndarray) -> None:
    padded = np.pad(narrow, ((0, 0), (0, SAMPLE_RATE)))
    own = [audio.loudness(wave, SAMPLE_RATE) for wave in padded]
    np.testing.assert_allclose(device.loudness(torch.from_numpy(padded)), own, **CLOSE)
    silent = device.gain(device.loudness(torch.zeros(1, SAMPLE_RATE)))
    assert silent.item() == 1.0


def test_places_between_rows_are_those_of_the_cpu(log_mels: np.ndarray) -> None:
    place = np.random.default_rng(0).uniform(-3, log_mels.shape[1] + 3, (3, 50)).astype(np.float32)
    own = np.stack([at_places(rows, where) for rows, where in zip(log_mels, place)])
    np.testing.assert_allclose(device.at_places(torch.from_numpy(log_mels), torch.from_numpy(place)), own, **CLOSE)


# ---------------------------------------------------------------- mels

ALWAYS = PerturbConfig(
    warp=1,
    bend_octaves=0.1,
    equalizer=1,
    blur=1,
    noise=0,
    reverb=1,
    band_limit=1,
    mask=1,
    mask_band=1,
)
NEVER = PerturbConfig(warp=0, equalizer=0, blur=0, noise=0, reverb=0, band_limit=0)


@pytest.mark.parametrize(
    "config",
    [
        ALWAYS,
        NEVER,
        *(dataclasses.replace(NEVER, **{name: 1.0}) for name in ("warp", "equalizer", "blur", "reverb", "band_limit")),
        dataclasses.replace(NEVER, mask=1.0, mask_band=1.0),
        PerturbConfig(noise=0),
    ],
    ids=["all", "none", "warp", "equalizer", "blur", "reverb", "band_limit", "mask", "default"],
)
def test_perturbations_are_those_of_the_cpu(log_mels: np.ndarray, config: PerturbConfig) -> None:
    """From the same random numbers, item by item."""
    for seed in range(8):
        own = np.stack(
            [mel_cpu.perturb(mel, np.random.default_rng([seed, k]), config) for k, mel in enumerate(log_mels)]
        )
        drawn = [
            mels.draw_perturbations(np.random.default_rng([seed, k]), [len(mel)], 3, [config])
            for k, mel in enumerate(log_mels)
        ]
        together = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
        np.testing.assert_allclose(mels.perturb(torch.from_numpy(log_mels), tensors(together)), own, **CLOSE)


def test_items_without_a_config_stay_as_they_are(log_mels: np.ndarray) -> None:
    drawn = mels.draw_perturbations(np.random.default_rng(0), 3 * [log_mels.shape[1]], 3, [None, ALWAYS, None])
    found = mels.perturb(torch.from_numpy(log_mels), tensors(drawn), torch.from_numpy(log_mels)).numpy()
    np.testing.assert_allclose(found[[0, 2]], log_mels[[0, 2]], **CLOSE)
    assert np.abs(found[1] - log_mels[1]).max() > 1


def test_noise_and_talkers_have_the_level_that_was_drawn(log_mels: np.ndarray) -> None:
    quiet = np.full_like(log_mels, LOG_MEL_MIN)
    quiet[:, ::2] = log_mels[:, ::2]  # pauses, in which only what was added is found
    for name, config in (
        ("noise", dataclasses.replace(NEVER, noise=1.0, noise_snr_db=(10.0, 10.0))),
        ("babble", dataclasses.replace(NEVER, babble=1.0, babble_snr_db=(10.0, 10.0))),
    ):
        drawn = mels.draw_perturbations(np.random.default_rng(0), 3 * [quiet.shape[1]], 3, 3 * [config])
        torch.manual_seed(0)
        found = mels.perturb(torch.from_numpy(quiet), tensors(drawn), torch.from_numpy(log_mels))
        added = torch.from_numpy(quiet)[:, 1::2]
        before, after = mels.level(torch.from_numpy(quiet)).flatten(), mels.level(found[:, 1::2]).flatten()
        assert (found[:, 1::2] > added + 0.1).float().mean() > 0.9, name
        below = (before - after) * 8.686
        assert ((below > 2) & (below < 18)).all(), f"{name}: {below}"  # the colour moves noise by some dB


# ---------------------------------------------------------------- waves


def test_wave_disturbances_are_those_of_the_cpu(narrow: np.ndarray) -> None:
    waves_in, rng = torch.from_numpy(narrow), np.random.default_rng(1)
    samples = narrow.shape[1]
    seconds, direct = np.array([0.2, 0.5, 0.8], np.float32), np.array([0.0, 4.0, 8.0], np.float32)
    longest = round(0.8 * SAMPLE_RATE)
    grain = rng.standard_normal((3, longest)).astype(np.float32)

    class Given:
        """In place of a random generator: numbers drawn before."""

        def __init__(self, row: np.ndarray) -> None:
            self.row = row

        def standard_normal(self, count: int) -> np.ndarray:
            return self.row[:count]

    own = [wave_cpu.reverberant(w, float(s), float(d), Given(g)) for w, s, d, g in zip(narrow, seconds, direct, grain)]
    found = waves.reverberant(waves_in, *map(torch.from_numpy, (seconds, direct, grain)))
    np.testing.assert_allclose(found, np.stack(own), **CLOSE)

    exponent = np.array([-0.5, 0.0, 1.0], np.float32)
    white = rng.standard_normal((3, samples)).astype(np.float32)
    own = np.stack([wave_cpu.colored(samples, float(e), Given(w)) for e, w in zip(exponent, white)])
    found = waves.colored(torch.from_numpy(white), torch.from_numpy(exponent)).numpy()
    np.testing.assert_allclose(found / own.std(axis=1, keepdims=True), own / own.std(axis=1, keepdims=True), **CLOSE)

    snr = np.array([4.0, 10.0, 25.0], np.float32)
    own = np.stack([wave_cpu.mix(w, n, float(s)) for w, n, s in zip(narrow, own, snr)])
    np.testing.assert_allclose(waves.mix(waves_in, torch.from_numpy(found), torch.from_numpy(snr)), own, **CLOSE)

    low, high = np.array([100, 200, 400], np.float32), np.array([3000, 4000, 4500], np.float32)
    own = np.stack([wave_cpu.band_limited(w, a, b) for w, a, b in zip(narrow, low, high)])
    np.testing.assert_allclose(
        waves.band_limited(waves_in, torch.from_numpy(low), torch.from_numpy(high)), own, **CLOSE
    )
    share = np.array([0.1, 0.3, 1.0], np.float32)
    own = np.stack([wave_cpu.clipped(w, s) for w, s in zip(narrow, share)])
    np.testing.assert_allclose(waves.clipped(waves_in, torch.from_numpy(share)), own, **CLOSE)

    voices = waves_in.roll(1, 0).unsqueeze(1).expand(-1, 2, -1).contiguous()
    own = np.stack([2 * audio.normalize(w, SAMPLE_RATE) for w in np.roll(narrow, 1, axis=0)])
    np.testing.assert_allclose(waves.crowd(voices, torch.tensor([2, 2, 2])), own, **CLOSE)


def test_voices_are_moved_as_by_the_cpu(narrow: np.ndarray) -> None:
    """Pitch and formants: the same log-mel below 6 kHz; there the longer filter of the CPU begins to differ."""
    rate = np.array([0.85, 1.0, 1.18], np.float32)
    found = waves.faster(torch.from_numpy(narrow), torch.from_numpy(rate)).numpy()
    below = mel_cpu.CENTRES < 5500
    for row, wave, one in zip(found, narrow, rate):
        own = recording.faster(wave, float(one))
        assert not np.abs(row[len(own) + 50 :]).any()
        ours, theirs = (features.log_mel(w[: len(own)]).T[2:-3, below] for w in (row, own))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.05)


def test_surroundings_leave_level_and_clean_clips(narrow: np.ndarray) -> None:
    torch.manual_seed(0)
    wave, voices = torch.from_numpy(narrow), torch.from_numpy(np.stack([np.roll(narrow, 1, 0)] * 6, axis=1))
    clean = tensors(waves.draw_surroundings(np.random.default_rng(0), 3, DisturbConfig(clean=1.0)))
    torch.testing.assert_close(waves.surround(wave, clean, voices), wave, rtol=0, atol=1e-6)
    every = DisturbConfig(clean=0, reverb=1, babble=1, noise=1, clipping=1, band_limit=1)
    drawn = tensors(waves.draw_surroundings(np.random.default_rng(0), 3, every))
    found = waves.surround(wave, drawn, voices)
    torch.testing.assert_close(device.loudness(found), device.loudness(wave), rtol=0, atol=0.01)
    assert ((found - wave).square().mean(dim=1) > 0.05 * wave.square().mean(dim=1)).all()
    high = mel_cpu.CENTRES > 5500
    assert device.log_mel(found)[..., high].mean() < device.log_mel(wave)[..., high].mean() - 0.2  # the line's band
    assert len(waves.draw_surroundings(np.random.default_rng(0), 0, every)["noise_snr_db"]) == 0
    assert mels.draw_perturbations(np.random.default_rng(0), [], 0, [])["factor"].shape == (0, N_MELS)
