"""What happens to recordings on their way: noise, other people, rooms, lines. Waves [N] at 16 kHz, mono."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vconv import audio
from vconv.features import SAMPLE_RATE

FIRST_ECHO = 0.004  # seconds after the direct sound


def mix(wave: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``noise``, repeated to the length of ``wave``, under it: by the loudness of active speech, not of pauses."""
    noise = np.resize(noise, len(wave))
    level = audio.gain(10 * np.log10(np.mean(noise**2) + 1e-12), audio.loudness(wave, SAMPLE_RATE) - snr_db)
    return wave + level * noise


def crowd(voices: Sequence[np.ndarray], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Several people at the same time, each as loud as the others, from a random moment on: [samples]"""
    moved = [np.roll(np.resize(voice, samples), rng.integers(samples)) for voice in voices]
    return np.sum([audio.normalize(voice, SAMPLE_RATE) for voice in moved], axis=0)


def colored(samples: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls with frequency to twice the ``exponent``: [samples]"""
    return _filtered(rng.standard_normal(samples), lambda hz: np.maximum(hz, 30.0) ** -exponent)


def reverberant(wave: np.ndarray, seconds: float, direct_db: float, rng: np.random.Generator) -> np.ndarray:
    """In a room: noise that decays exponentially to -60 dB in ``seconds``, the direct sound ``direct_db`` above it."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[: round(FIRST_ECHO * SAMPLE_RATE)] = 0.0
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    size = len(wave) + len(tail)
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size)[: len(wave)]


def band_limited(wave: np.ndarray, low: float, high: float) -> np.ndarray:
    """What a line leaves between two frequencies in Hz."""
    return _filtered(wave, lambda hz: (hz >= low) & (hz <= high))


def clipped(wave: np.ndarray, share: float) -> np.ndarray:
    """Cut off at a share of the peak."""
    limit = share * np.abs(wave).max()
    return np.clip(wave, -limit, limit)


def _filtered(wave: np.ndarray, response: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """With a gain for each frequency [F] in Hz."""
    spectrum = np.fft.rfft(wave)
    return np.fft.irfft(spectrum * response(np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)), len(wave))
