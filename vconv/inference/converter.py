"""The public object: a loaded model that converts, embeds and extracts."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vconv import audio, features
from vconv.audio import Source
from vconv.config import ConversionConfig
from vconv.errors import InputError
from vconv.features import F0_MAX, F0_MIN, F0_REFERENCE, OUTPUT_RATE, SAMPLE_RATE
from vconv.inference import streaming
from vconv.inference.engine import Engine
from vconv.inference.streaming import Spool
from vconv.inference.voice import Voice, check_length, clips_in, is_saved_voice, make_voice

PEAK = 0.99  # of full scale, which no result exceeds
SPECTRUM_SHARE = 0.5  # of the way to the target's average spectrum
SPECTRUM_SMOOTHING = 13  # mel bands
SPECTRUM_LIMIT = 1.2  # nepers: a stretch without speech has any spectrum
MAX_PITCH = 24.0  # semitones either way
# Where a shifted melody ends: an octave beyond what voices do, and well within the harmonic source's reach.
LOG_F0_RANGE = (math.log2(F0_MIN / 2 / F0_REFERENCE), math.log2(F0_MAX * 2 / F0_REFERENCE))

Target = Source | np.ndarray | Voice  # a clip, a folder or a saved voice; an embedding [E]; a voice
Progress = Callable[[float], None]  # is told the seconds of the source that were just converted


@dataclass(frozen=True)
class Analysis:
    """A source, read and measured."""

    wave: Spool  # 16 kHz mono, as loud as the source
    gain: float  # brings it to the reference loudness
    loudness: float  # dBFS
    output_samples: int  # its length at 24 kHz
    f0: np.ndarray  # [T] Hz, 0 where unvoiced

    @property
    def frames(self) -> int:
        """T, made even."""
        return len(self.f0) + len(self.f0) % 2


@dataclass(frozen=True)
class Extraction:
    """What the model takes from a recording: codes [G, T / 2], f0 [T] in Hz (0 where unvoiced), T even."""

    codes: np.ndarray
    f0: np.ndarray


class Converter:
    """Any speaker's speech in any other speaker's voice.

    ``vconv.load()`` makes one. A source or clip is a path, or (wave [N] or [N, channels], rate). A target is
    a clip, a folder of clips, a saved voice (.npz), several of the former in a list, a ``Voice``, or an
    embedding [E] alone, which leaves the melody in the source's register.
    """

    def __init__(self, engine: Engine, config: ConversionConfig, threads: int = 1) -> None:
        self._engine = engine
        self._config = config
        self._threads = threads

    @cached_property
    def _tracker(self) -> features.PitchTracker:
        return features.PitchTracker(self._threads)

    def convert(
        self, source: Source, target: Target | list[Target], *, pitch: float = 0.0, keep_pitch: bool = False
    ) -> np.ndarray:
        """What ``source`` says, in the voice of ``target``: 24 kHz float32, [round(seconds * 24000)].

        Args:
            pitch: semitones to add to the melody.
            keep_pitch: leave the melody where the source has it, instead of in the target's register.

        Raises:
            InputError: source or target cannot be used; the message says which and why.
        """
        return np.concatenate(list(self.stream(source, target, pitch=pitch, keep_pitch=keep_pitch)))

    def convert_file(
        self,
        source: Source,
        target: Target | list[Target],
        output: str | os.PathLike[str],
        *,
        pitch: float = 0.0,
        keep_pitch: bool = False,
        progress: Progress | None = None,
    ) -> float:
        """Like ``convert``, into a file in the format of its suffix; returns the seconds of audio converted.

        The file appears whole or not at all; one that exists is replaced.
        """
        audio.check_writable(output)
        samples = 0
        blocks = self.stream(source, target, pitch=pitch, keep_pitch=keep_pitch, progress=progress)
        first = next(blocks)  # all the work; only then is a file begun
        with audio.AudioWriter(output, OUTPUT_RATE) as writer:
            for block in itertools.chain([first], blocks):
                writer.write(block)
                samples += len(block)
        return samples / OUTPUT_RATE

    def stream(
        self,
        source: Source,
        target: Target | list[Target],
        *,
        pitch: float = 0.0,
        keep_pitch: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Like ``convert``, in blocks [n] and in bounded memory, however long the source is.

        The first block comes when the last is computed: one gain for the whole result matches its
        loudness to the source's, so all of it has to be measured first.
        """
        _check_pitch(pitch)
        voice = self.voice(target)
        with self._analyse(source) as analysis, Spool() as result:
            meter = audio.LoudnessMeter(OUTPUT_RATE)
            peak = 0.0
            for block in self._blocks(analysis, voice, pitch / 12, keep_pitch):
                block = block[: analysis.output_samples - len(result)]
                meter.add(block)
                peak = max(peak, float(np.abs(block).max(initial=0.0)))
                result.append(block)
                if progress:
                    progress(len(block) / OUTPUT_RATE)
            # Rounding to the sample can ask for one more than the frames hold.
            result.append(np.zeros(analysis.output_samples - len(result), np.float32))
            gain = min(audio.gain(meter.loudness(), analysis.loudness), PEAK / max(peak, 1e-9))
            for block in result.blocks():
                yield block * np.float32(gain)

    def embed(self, wave: Source | list[Source]) -> np.ndarray:
        """Speaker embedding [E] of unit length, of one recording, a folder, or several of one speaker."""
        return self.voice(wave).embedding

    def voice(self, target: Target | list[Target]) -> Voice:
        """The voice of a target. ``convert`` takes it too, and so it is computed once for many sources.

        Raises:
            InputError: the target cannot be used; the message says which clip and why.
        """
        if isinstance(target, Voice):
            return self._checked(target, "the voice")
        if isinstance(target, np.ndarray):
            return self._checked(Voice(target, None), "the embedding")
        targets = target if isinstance(target, list) else [target]
        if len(targets) == 1 and is_saved_voice(targets[0]):
            return self._checked(Voice.load(targets[0]), str(targets[0]))
        return make_voice(list(itertools.chain.from_iterable(map(clips_in, targets))), self._engine, self._tracker)

    def extract(self, source: Source) -> Extraction:
        """Content codes and F0 of a recording.

        Raises:
            InputError: the source cannot be used, or the model's bottleneck has no codes.
        """
        if self._config.bottleneck.kind == "identity":
            raise InputError("this model has no bottleneck and so no codes to extract; use another with --model")
        with self._analyse(source) as analysis:
            f0 = np.zeros(analysis.frames, np.float32)
            f0[: len(analysis.f0)] = analysis.f0
            parts = []
            done = 0
            for start, end in streaming.chunk_bounds(analysis.frames):
                codes = self._engine.content(streaming.mel_frames(analysis.wave, analysis.gain, start, end))[1]
                last = end == analysis.frames
                until = end if last else end - streaming.OVERLAP_FRAMES // 2  # halfway through the overlap
                parts.append(codes[:, (done - start) // 2 : (until - start) // 2])
                done = until
        return Extraction(np.concatenate(parts, axis=1), f0)

    @contextmanager
    def _analyse(self, source: Source) -> Iterator[Analysis]:
        """Read a source once into a spool, which lives as long as the context, and measure it."""
        reader = audio.BlockReader(source, SAMPLE_RATE)
        meter = audio.LoudnessMeter(SAMPLE_RATE)
        with Spool() as wave:
            for block in reader:
                meter.add(block)
                wave.append(block)
            check_length(reader.name, reader.source_samples, reader.source_rate, "of audio")
            loudness = meter.loudness()
            if audio.is_silent(loudness):
                raise InputError(f"{reader.name}: only silence; give a recording of speech")
            gain = audio.gain(loudness)
            yield Analysis(
                wave=wave,
                gain=gain,
                loudness=loudness,
                output_samples=audio.scaled_length(reader.source_samples, reader.source_rate, OUTPUT_RATE),
                f0=streaming.f0_curve(wave, gain, self._tracker),
            )

    def _blocks(self, analysis: Analysis, voice: Voice, octaves: float, keep_pitch: bool) -> Iterator[np.ndarray]:
        """Converted wave, before its loudness is matched: blocks [n], together one frame's length or so too long."""
        pitch = _moved_pitch(analysis.f0, analysis.frames, voice, octaves, keep_pitch)

        def chunks() -> Iterator[tuple[int, np.ndarray]]:
            for start, end in streaming.chunk_bounds(analysis.frames):
                content, _ = self._engine.content(streaming.mel_frames(analysis.wave, analysis.gain, start, end))
                mel = self._engine.decode(content, pitch[:, start:end], voice.embedding)
                yield start, _match_spectrum(mel, voice.spectrum)

        return streaming.vocode(self._engine.vocode, streaming.crossfade(chunks()), pitch)

    def _checked(self, voice: Voice, name: str) -> Voice:
        """The voice with its embedding at unit length, if it is one of this model's."""
        expected, embedding = (self._config.embedding_channels,), np.asarray(voice.embedding, np.float32)
        length = float(np.linalg.norm(embedding))
        if embedding.shape != expected or not 0 < length < np.inf:
            raise InputError(
                f"{name}: is no embedding of this model (shape {embedding.shape}, expected {expected}); "
                "make it again with `vconv embed`"
            )
        if voice.spectrum is not None and np.shape(voice.spectrum) != (features.N_MELS,):
            raise InputError(f"{name}: is no voice of this version of vconv; make it again with `vconv embed`")
        return Voice(embedding / length, voice.log_f0, voice.spectrum)


def _check_pitch(pitch: float) -> None:
    if not abs(pitch) <= MAX_PITCH:  # also NaN
        raise InputError(f"a pitch shift of {pitch} semitones is out of range; use {-MAX_PITCH:g} to {MAX_PITCH:g}")


def _match_spectrum(mel: np.ndarray, spectrum: np.ndarray | None) -> np.ndarray:
    """Half of the way from a mel's average spectrum to the target's, in coarse shape and not in level: [N_MELS, T].

    The embedding leaves something of the target's long-term spectrum out. Half: on held-out parallel
    speech the error is least there, because a few seconds of other words average to another spectrum.
    """
    if spectrum is None:
        return mel
    window = np.hanning(SPECTRUM_SMOOTHING + 2)[1:-1]
    padded = np.pad(spectrum - features.average_spectrum(mel), SPECTRUM_SMOOTHING // 2, mode="edge")
    change = np.convolve(padded, window / window.sum(), mode="valid")
    change = np.clip(change - change.mean(), -SPECTRUM_LIMIT, SPECTRUM_LIMIT)
    return mel + (SPECTRUM_SHARE * change[:, None]).astype(np.float32)


def _moved_pitch(f0: np.ndarray, frames: int, voice: Voice, octaves: float, keep_pitch: bool) -> np.ndarray:
    """The source's melody in the target's register: F0 [T'] Hz -> pitch input of the networks [2, frames].

    What is added to log2 F0 is the difference of the two medians (unless ``keep_pitch``, or where either
    is unknown) and ``octaves``.
    """
    median = features.median_log_f0(f0)
    if not keep_pitch and median is not None and voice.log_f0 is not None:
        octaves += voice.log_f0 - median
    curve, voiced = features.continuous_log_f0(f0)
    padding = (0, frames - len(f0))
    return np.stack(
        [
            np.pad(np.clip(curve + octaves, *LOG_F0_RANGE), padding, mode="edge"),
            np.pad(voiced, padding),
        ]
    ).astype(np.float32)
