"""Kaldi's log filterbank energies, the input of pretrained speaker encoders."""

from __future__ import annotations

import functools

import numpy as np

from vconv.features import SAMPLE_RATE

FBANKS = 80
FRAME_SAMPLES, FRAME_HOP, N_FFT = 400, 160, 512  # at 16 kHz
LOWEST = 20.0  # Hz
PREEMPHASIS = 0.97
ENERGY_FLOOR = 1.1920929e-07


@functools.lru_cache(1)
def filterbank() -> np.ndarray:
    """Kaldi's triangular filters, of height one on the HTK mel scale: [FBANKS, N_FFT // 2 + 1]"""
    mel = lambda hz: 1127.0 * np.log1p(hz / 700.0)  # noqa: E731
    edges = np.linspace(mel(LOWEST), mel(SAMPLE_RATE / 2), FBANKS + 2)
    place = mel(np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT)
    rising = (place - edges[:-2, None]) / (edges[1] - edges[0])
    falling = (edges[2:, None] - place) / (edges[1] - edges[0])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


# Beside the encoder's graph, not in it: there, ONNX's DFT takes nearly twice as long as numpy's FFT, and a DFT matrix
# as long, but the file grows fourfold. Of the encoder's time 3 % are spent here.
def fbank(wave: np.ndarray) -> np.ndarray:
    """Kaldi's log filterbank energies, without dither, less their mean over time: [N] at 16 kHz -> [T, FBANKS].

    100 frames a second. Frames lie within the wave: at least ``FRAME_SAMPLES`` are needed.
    """
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float32), FRAME_SAMPLES)[::FRAME_HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = np.hanning(FRAME_SAMPLES) ** 0.85
    power = np.square(np.abs(np.fft.rfft(frames * window, N_FFT))).astype(np.float32)
    energies = np.log(np.maximum(power @ filterbank().T, ENERGY_FLOOR))
    return energies - energies.mean(axis=0)
