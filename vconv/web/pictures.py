"""What the page draws of a recording: log-mel spectrogram and F0, reduced to the width of a screen."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vconv import audio, features
from vconv.features import FRAME_RATE, HOP_LENGTH, SAMPLE_RATE
from vconv.inference.analysis import Analysis
from vconv.web.uploads import columns

WIDTH = 1200  # columns of a picture, at most
SECONDS = 600.0  # of a recording that are drawn
_BLOCK = round(20 * FRAME_RATE) * HOP_LENGTH  # samples analysed at once
_MEL_RANGE = (features.LOG_MEL_MIN, 2.5)  # log-mel that black and white stand for, at the reference loudness

Track = Callable[[np.ndarray], np.ndarray]  # wave [N] at 16 kHz -> F0 [T] in Hz, 0 where unvoiced


def of_analysis(analysis: Analysis) -> dict[str, Any]:
    """Of a source that is being converted."""
    most = round(SECONDS * SAMPLE_RATE)
    blocks = (block * np.float32(analysis.gain) for block in analysis.wave.blocks())
    f0 = analysis.f0[: most // HOP_LENGTH]
    return _picture(_mel(blocks, most), f0, min(analysis.output_samples / features.OUTPUT_RATE, SECONDS))


def of_file(source: audio.Source, loudness: float, track: Track) -> dict[str, Any]:
    """Of a recording of known loudness in dBFS.

    Raises:
        InputError: it cannot be read.
    """
    gain, most = np.float32(audio.gain(loudness)), round(SECONDS * SAMPLE_RATE)
    mels, f0, samples = [], [], 0
    for block in _regular((block * gain for block in audio.BlockReader(source, SAMPLE_RATE)), most):
        mels.append(features.log_mel(block))
        f0.append(track(block)[: mels[-1].shape[1]])
        samples += len(block)
    return _picture(np.concatenate(mels, axis=1), np.concatenate(f0), samples / SAMPLE_RATE)


def _mel(blocks: Iterable[np.ndarray], most: int) -> np.ndarray:
    return np.concatenate([features.log_mel(block) for block in _regular(blocks, most)], axis=1)


def _regular(blocks: Iterable[np.ndarray], most: int) -> Iterable[np.ndarray]:
    """Blocks of ``_BLOCK`` samples from blocks of any length, the last one shorter, ``most`` samples in all."""
    rest, given = np.zeros(0, np.float32), 0
    for block in blocks:
        rest = np.concatenate([rest, block])
        while len(rest) >= _BLOCK and given < most:
            yield rest[:_BLOCK]
            rest, given = rest[_BLOCK:], given + _BLOCK
        if given >= most:
            return
    rest = rest[: most - given]
    if len(rest):
        yield rest if len(rest) >= features.N_FFT else np.pad(rest, (0, features.N_FFT - len(rest)))


def _picture(mel: np.ndarray, f0: np.ndarray, seconds: float) -> dict[str, Any]:
    low, high = _MEL_RANGE
    shades = (np.clip((columns(mel, WIDTH) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    curve = columns(f0[None], WIDTH)[0]
    return {
        "seconds": seconds,
        "bands": shades.shape[0],
        "columns": shades.shape[1],
        "mel": base64.b64encode(shades.T.tobytes()).decode(),  # column after column, low bands first
        "f0": [round(float(hertz), 1) for hertz in curve],
    }
