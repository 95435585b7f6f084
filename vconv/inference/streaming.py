"""Audio of any length through the networks in bounded memory, without seams.

A wave goes to a ``Spool`` (memory first, then an unnamed file on disk) and from there in stretches:

- mel and F0 frames are local, so a stretch with a few frames of context equals the whole.
- Instance norm is not: its statistics differ from stretch to stretch. The conversion model runs on long
  overlapping stretches, and their mels are cross-faded.
- The vocoder is local again: it runs on the cross-faded mel with context on each side, the harmonic
  source keeps its phase over the whole file, and its noise depends on the position alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

import numpy as np

from vconv import features
from vconv.equalizer import EQUALIZER_CONTEXT
from vconv.errors import VconvError
from vconv.excitation import PulseTrain
from vconv.features import HOP_LENGTH, N_FFT, OUTPUT_HOP
from vconv.frontends.pitch import PitchTracker
from vconv.inference.utterance import Utterance
from vconv.opening import temporary_space

CHUNK_FRAMES = 1250  # 20 s, the longest stretch for the conversion model
OVERLAP_FRAMES = 62  # about 1 s, where two of its results are cross-faded
VOCODER_FRAMES = 1024  # fresh frames in one run of the vocoder
# Frames on each side of them, more than can change a frame: 7 layers of kernel 7, the STFT, and the equalizer.
VOCODER_CONTEXT = 28 + EQUALIZER_CONTEXT
AFTER_FRAMES = EQUALIZER_CONTEXT  # vocoded after the last one and like it: at the end the STFTs see too little
MEL_CONTEXT = N_FFT // 2 // HOP_LENGTH  # frames on each side that the analysis window covers

_MEMORY_BYTES = 32 << 20  # a spool longer than this moves to disk
_NOISE_SEED = 20
_WORDS_A_STEP = 8  # 32-bit numbers that one step of the Philox counter yields


class Spool:
    """A growing float32 wave that lies in memory while it is short and in an unnamed file when it is long."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 (close() ends it)
        self._samples = 0
        self.offset = 0.0  # is taken out of what is read

    def __len__(self) -> int:
        return self._samples

    def append(self, block: np.ndarray) -> None:
        """Raises VconvError where the folder for temporary files is full."""
        try:
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(block, np.float32).tobytes())
        except OSError as error:
            raise VconvError(temporary_space(error)) from error
        self._samples += len(block)

    def read(self, start: int, end: int) -> np.ndarray:
        """Samples from ``start`` to ``end`` (exclusive), fewer where the wave does not reach."""
        start, end = max(start, 0), min(end, self._samples)
        self._file.seek(4 * start)
        samples = np.frombuffer(self._file.read(4 * max(end - start, 0)), np.float32)
        return samples - np.float32(self.offset) if self.offset else samples

    def blocks(self, size: int = 1 << 17) -> Iterator[np.ndarray]:
        for start in range(0, self._samples, size):
            yield self.read(start, start + size)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()


# ---------------------------------------------------------------- analysis


def mel_frames(wave: Spool, gain: float, start: int, end: int) -> np.ndarray:
    """Frames ``start`` to ``end`` of the log-mel of the 16 kHz ``wave`` times ``gain``: [N_MELS, end - start].

    Beyond the last frame of the wave comes silence, on the floor of the scale.
    """
    left = max(start - MEL_CONTEXT, 0)
    samples = wave.read(left * HOP_LENGTH, (end + MEL_CONTEXT) * HOP_LENGTH)
    mel = features.log_mel(samples * np.float32(gain))[:, start - left : end - left]
    inside = min(end, features.frame_count(len(wave))) - start
    out = np.full((features.N_MELS, end - start), features.LOG_MEL_MIN, np.float32)
    out[:, :inside] = mel[:, :inside]
    return out


def utterance(wave: Spool, gain: float, start: int, end: int) -> Utterance:
    """Frames ``start`` to ``end``, both even, of the 16 kHz ``wave`` times ``gain``."""
    stretch = wave.read(start * HOP_LENGTH, end * HOP_LENGTH) * np.float32(gain)
    return Utterance(stretch, mel_frames(wave, gain, start, end))


def f0_curve(wave: Spool, gain: float, tracker: PitchTracker) -> np.ndarray:
    """F0 in Hz of the whole 16 kHz ``wave`` times ``gain``, 0 where unvoiced: [T]. Few numbers for 16 ms are small."""
    return tracker.f0(
        lambda start, end: wave.read(start * HOP_LENGTH, end * HOP_LENGTH) * np.float32(gain),
        features.frame_count(len(wave)),
    )


# ---------------------------------------------------------------- conversion in overlapping chunks


def chunk_bounds(frames: int, longest: int = CHUNK_FRAMES, overlap: int = OVERLAP_FRAMES) -> list[tuple[int, int]]:
    """Chunks [start, end) that cover an even number of frames, each overlapping the next.

    All of one length but for rounding: a short rest at the end would be normalized by the statistics
    of a word or two. All bounds are even: a content code spans two frames.
    """
    count = max(1, -(-(frames - overlap) // (longest - overlap)))
    step = (frames - overlap) / count
    starts = [2 * round(index * step / 2) for index in range(count)]
    return [(start, end + overlap) for start, end in zip(starts, [*starts[1:], frames - overlap])]


def crossfade(chunks: Iterable[tuple[int, np.ndarray]]) -> Iterator[np.ndarray]:
    """Overlapping chunks (start, mel [N_MELS, n]) joined into consecutive blocks [N_MELS, m]."""
    held: np.ndarray | None = None  # the end of the chunk before, from ``held_start`` on
    held_start = 0
    for start, mel in chunks:
        if held is not None:
            ready, tail = held[:, : start - held_start], held[:, start - held_start :]
            yield ready
            overlap = tail.shape[1]
            fade = ((np.arange(overlap) + 0.5) / overlap).astype(np.float32)
            mel = np.concatenate([tail * (1 - fade) + mel[:, :overlap] * fade, mel[:, overlap:]], axis=1)
        held, held_start = mel, start
    if held is not None:
        yield held


# ---------------------------------------------------------------- vocoder


def noise(start: int, end: int) -> np.ndarray:
    """Uniform noise in -1 to 1 for the frames ``start`` to ``end``: [(end - start) * OUTPUT_HOP] float32.

    A function of the position alone, so stretches fit together and a result can be repeated.
    """
    generator = np.random.Generator(np.random.Philox(_NOISE_SEED).advance(start * (OUTPUT_HOP // _WORDS_A_STEP)))
    return 2 * generator.random((end - start) * OUTPUT_HOP, np.float32) - 1


Vocode = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def vocode(
    vocoder: Vocode,
    mels: Iterable[np.ndarray],
    pitch: np.ndarray,
    fresh: int = VOCODER_FRAMES,
    context: int = VOCODER_CONTEXT,
) -> Iterator[np.ndarray]:
    """Waves of consecutive mel blocks [N_MELS, n] that cover the frames of ``pitch`` [2, T]: blocks [m * OUTPUT_HOP].

    ``fresh`` and ``context`` are even. The result does not depend on how the mel is cut into blocks.
    """
    frames = pitch.shape[1]
    pitch = np.pad(pitch, ((0, 0), (0, AFTER_FRAMES)), mode="edge")
    pulses = PulseTrain(pitch[0])
    held = np.zeros((features.N_MELS, 0), np.float32)
    held_start = done = 0  # frame of held[:, 0]; frames vocoded so far

    def run(end: int) -> np.ndarray:
        nonlocal held, held_start, done
        last = held_start + held.shape[1] if end == frames else end + context
        wave = vocoder(
            held[:, : last - held_start],
            pitch[:, held_start:last],
            pulses.samples(held_start, last),
            noise(held_start, last),
        )[(done - held_start) * OUTPUT_HOP : (end - held_start) * OUTPUT_HOP]
        done = end
        keep = max(done - context, 0)
        held, held_start = held[:, keep - held_start :], keep
        return wave

    for mel in mels:
        held = np.concatenate([held, mel], axis=1)
        while held_start + held.shape[1] >= done + fresh + context:
            yield run(done + fresh)
    if done < frames:
        held = np.pad(held, ((0, 0), (0, AFTER_FRAMES)), mode="edge")
        yield run(frames)
