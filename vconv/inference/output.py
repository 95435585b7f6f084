"""A result: measured, brought to its loudness, written."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.errors import VconvError
from vconv.features import OUTPUT_RATE
from vconv.inference.streaming import Spool
from vconv.opening import STANDARD_STREAM
from vconv.untrusted import all_finite

Progress = Callable[[float], None]  # gets the seconds of the source that were just converted
PEAK = 0.99  # of full scale, which no result exceeds


def not_finite() -> VconvError:
    """For what networks give of finite inputs."""
    return VconvError(
        "the networks gave numbers that are not finite, and nothing was written; "
        "the model or the voice is damaged or was trained badly: use another one"
    )


def finished(
    blocks: Iterator[np.ndarray], samples: int, loudness: float, progress: Progress | None
) -> Iterator[np.ndarray]:
    """The blocks [n] of a result, cut to a number of samples, at one gain that gives it its loudness in dBFS.

    The first comes when the last is there, of which the loudness depends too.
    """
    with Spool() as result:
        meter = audio.LoudnessMeter(OUTPUT_RATE)
        peak = 0.0
        for block in blocks:
            block = block[: samples - len(result)]
            if not all_finite(block):
                raise not_finite()
            meter.add(block)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            result.append(block)
            if progress:
                progress(len(block) / OUTPUT_RATE)
        # Rounding to the sample can ask for one more than the frames hold.
        result.append(np.zeros(samples - len(result), np.float32))
        gain = min(audio.gain(meter.loudness(), loudness), PEAK / max(peak, 1e-9))
        for block in result.blocks():
            yield block * np.float32(gain)


def write(output: str | os.PathLike[str], blocks: Iterator[np.ndarray], overwrite: bool) -> float:
    """Write a result into a file or, for "-", to standard output; returns its seconds."""
    if Path(output) == STANDARD_STREAM:
        return audio.write_to_stdout(blocks, OUTPUT_RATE) / OUTPUT_RATE
    audio.check_writable(output)
    samples = 0
    first = next(blocks)  # all the work; only then is a file begun
    with audio.AudioWriter(output, OUTPUT_RATE, overwrite) as writer:
        for block in itertools.chain([first], blocks):
            writer.write(block)
            samples += len(block)
    return samples / OUTPUT_RATE
