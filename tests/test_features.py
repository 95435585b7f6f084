"""The mel and F0 grid."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import speech
from vconv import features
from vconv.features import HOP_LENGTH, N_FFT, N_MELS, SAMPLE_RATE
from vconv.frontends.pitch import PitchTracker


def test_filterbank_is_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS)
    np.testing.assert_allclose(features.mel_filterbank(), expected, atol=1e-7)


def test_log_mel_is_librosas_spectrum() -> None:
    librosa = pytest.importorskip("librosa")
    wave = speech(1.0)
    spectrum = np.abs(librosa.stft(wave, n_fft=N_FFT, hop_length=HOP_LENGTH, pad_mode="constant"))
    expected = np.log(np.maximum(features.mel_filterbank() @ spectrum, features.LOG_FLOOR))
    mel = features.log_mel(wave)
    np.testing.assert_allclose(mel, expected[:, : mel.shape[1]], atol=1e-3)


@pytest.mark.parametrize("samples", [1, 255, 256, 257, 16000, 16001])
def test_mel_and_f0_have_one_frame_a_hop(samples: int) -> None:
    wave = speech(2.0)[:samples]
    frames = -(-samples // HOP_LENGTH)
    assert features.frame_count(samples) == frames
    assert features.log_mel(wave).shape == (N_MELS, frames)
    assert PitchTracker()(wave).shape == (frames,)


def test_a_click_is_loudest_in_the_frame_it_is_centred_in() -> None:
    wave = np.zeros(64 * HOP_LENGTH, np.float32)
    wave[20 * HOP_LENGTH] = 1.0
    energy = np.exp(features.log_mel(wave)).sum(axis=0)
    assert energy.argmax() == 20
    np.testing.assert_allclose(energy[19], energy[21], rtol=1e-3)


def test_silence_lies_on_the_floor() -> None:
    np.testing.assert_allclose(features.log_mel(np.zeros(4000, np.float32)), features.LOG_MEL_MIN, rtol=1e-6)


@pytest.mark.parametrize("f0", [80.0, 150.0, 300.0])
def test_f0_follows_a_steady_voice(f0: float) -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    wave = sum(np.cos(2 * np.pi * k * f0 * time) / k for k in range(1, 20)).astype(np.float32) * 0.05
    tracked = PitchTracker()(wave)[5:-5]
    assert (tracked > 0).mean() > 0.95
    assert np.median(tracked[tracked > 0]) == pytest.approx(f0, rel=0.02)


def test_noise_has_no_f0() -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    assert (PitchTracker()(noise) > 0).mean() < 0.1


def test_f0_of_a_crowd_behind_is_not_the_speakers() -> None:
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    pause = (time % 1.0) > 0.6
    spoken = speech(4.0, f0=120.0) * ~pause
    behind = sum(
        speech(6.0, f0=f0, seed=k)[k * 3000 :][: len(time)] for k, f0 in enumerate((95.0, 140.0, 170.0, 215.0, 260.0))
    )
    behind *= 10 ** (-15 / 20) * np.sqrt(np.mean(spoken**2) / np.mean(behind**2))
    tracker, inside = PitchTracker(), np.convolve(pause[::HOP_LENGTH], np.ones(9), "same") == 9
    alone, beside = tracker(spoken), tracker((spoken + behind).astype(np.float32))
    assert (beside[inside] > 0).mean() < 0.35
    both = (alone > 0) & (beside > 0)
    assert both.sum() > 0.65 * (alone > 0).sum()
    np.testing.assert_allclose(np.median(beside[both] / alone[both]), 1.0, atol=0.02)


def test_f0_is_bridged_over_unvoiced_frames() -> None:
    curve, voiced = features.continuous_log_f0(np.array([0, 200, 0, 0, 0, 400, 0], np.float32))
    np.testing.assert_allclose(curve, [0, 0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(voiced, [0, 1, 0, 0, 0, 1, 0])


def test_median_counts_voiced_frames_in_octaves() -> None:
    assert features.median_log_f0(np.array([0, 100, 200, 0, 800])) == pytest.approx(0.0)
    assert features.median_log_f0(np.zeros(5)) is None


def test_spread_of_f0_is_in_octaves_and_unknown_for_little_speech() -> None:
    f0 = np.array([0, 100, 200] * 20)
    assert features.log_f0_spread(f0) == pytest.approx(0.5)
    assert features.log_f0_spread(f0[:30]) is None
