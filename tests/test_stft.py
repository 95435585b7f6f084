"""The short-time Fourier transform that synthesis and the oracles share."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from vconv.stft import istft, stft


def test_it_is_the_usual_one() -> None:
    wave = np.random.default_rng(0).normal(size=64 * 30).astype(np.float32)
    usual = librosa.stft(wave, n_fft=256, hop_length=64, window="hann", pad_mode="constant").T[:30]
    assert stft(wave, 64) == pytest.approx(usual, abs=1e-4)


@pytest.mark.parametrize("hop", [96, 128, 192])
def test_the_inverse_gives_the_wave_back(hop: int) -> None:
    wave = np.random.default_rng(1).normal(size=hop * 40).astype(np.float32)
    spectrum = stft(wave, hop)
    assert spectrum.shape == (40, 2 * hop + 1) and spectrum.dtype == np.complex64
    assert istft(spectrum, hop) == pytest.approx(wave, abs=1e-5)
    assert istft(spectrum, hop).dtype == np.float32
