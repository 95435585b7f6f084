"""The public object: a loaded model that converts, embeds and extracts."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vconv import audio, features
from vconv.audio import Source
from vconv.config import ConversionConfig
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.asr_encoder import encoder_input, no_asr_features
from vconv.frontends.pitch import PitchTracker
from vconv.inference import streaming
from vconv.inference.engine import Engine
from vconv.inference.output import Progress, finished, not_finite, write
from vconv.inference.register import check_pitch, moved_pitch
from vconv.inference.streaming import Spool
from vconv.inference.targets import check_length, clips_in, make_voice, speech_features, speech_of
from vconv.tokens.tokens import MODEL_BYTES, Melody, Tokens, coarse_embedding
from vconv.untrusted import all_finite
from vconv.voice import Reference, Voice, is_saved_voice

if TYPE_CHECKING:
    from vconv.live import Enrolment, LiveConverter


Target = Source | np.ndarray | Voice  # a clip, a folder or a saved voice; an embedding [E]; a voice
Inspect = Callable[["Analysis"], None]  # is shown the source, measured, before it is converted
ContentOf = Callable[[int, int], np.ndarray]  # frames from, to -> content [C, (to - from) / 2]


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

    @property
    def even_f0(self) -> np.ndarray:
        """[frames]"""
        return np.pad(self.f0, (0, self.frames - len(self.f0)))


@dataclass(frozen=True)
class Extraction:
    """What the model takes from a recording: codes [G, T / 2], f0 [T] in Hz (0 where unvoiced), T even.

    G is 0 where the model's bottleneck has no codes.
    """

    codes: np.ndarray
    f0: np.ndarray


@dataclass(frozen=True)
class Rebuilt:
    """A stretch of sound through the networks and back, in its own voice. T frames, even."""

    mel: np.ndarray  # [N_MELS, T] log-mel
    f0: np.ndarray  # [T] Hz, 0 where unvoiced
    embedding: np.ndarray  # [E] of unit length
    codes: np.ndarray  # [G, T / 2]; no rows where the model has no codes
    again: np.ndarray  # [N_MELS, T], what the decoder makes of these


class Converter:
    """Any speaker's speech in any other speaker's voice.

    ``vconv.load()`` makes one. A source or clip is a path, or (wave [N] or [N, channels], rate). A target is
    a clip, a folder of clips, a saved voice (.npz), several of the former in a list, a ``Voice``, or an
    embedding [E] alone, which leaves the melody in the source's register.
    """

    def __init__(
        self, engine: Engine, config: ConversionConfig, threads: int = 1, identity: str = "", folder: Path | None = None
    ) -> None:
        self._engine = engine
        self.folder = folder  # of the model, if it is one
        self._config = config
        self._threads = threads
        self.model = hashlib.sha256(identity.encode()).digest()[:MODEL_BYTES]  # marks its tokens and tuned voices

    @property
    def has_codes(self) -> bool:
        """Whether the bottleneck gives discrete codes, as ``encode`` needs."""
        return self._config.bottleneck.codes_per_frame > 0

    @cached_property
    def _tracker(self) -> PitchTracker:
        return PitchTracker(self._threads)

    def convert(
        self, source: Source, target: Target | list[Target], *, pitch: float = 0.0, keep_pitch: bool = False
    ) -> np.ndarray:
        """``source`` in the voice of ``target``: 24 kHz float32, [round(seconds * 24000)].

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
        inspect: Inspect | None = None,
        overwrite: bool = True,
    ) -> float:
        """Like ``convert``, into a file in the format of its suffix; returns the seconds of audio converted.

        The file appears whole or not at all; one that exists in the end is replaced, or without ``overwrite`` an
        InputError. "-" writes wav to standard output.
        """
        blocks = self.stream(source, target, pitch=pitch, keep_pitch=keep_pitch, progress=progress, inspect=inspect)
        return write(output, blocks, overwrite)

    def stream(
        self,
        source: Source,
        target: Target | list[Target],
        *,
        pitch: float = 0.0,
        keep_pitch: bool = False,
        progress: Progress | None = None,
        inspect: Inspect | None = None,
    ) -> Iterator[np.ndarray]:
        """Like ``convert``, in blocks [n] and in bounded memory, however long the source is.

        The first block comes when the last is computed: one gain for the whole result matches its
        loudness to the source's, so all of it has to be measured first.
        """
        check_pitch(pitch)
        voice = self.voice(target)
        with self._analyse(source) as analysis:
            if inspect:
                inspect(analysis)

            def content(start: int, end: int) -> np.ndarray:
                return self._hear(analysis, start, end)[0]

            melody = moved_pitch(analysis.f0, analysis.frames, voice, pitch / 12, keep_pitch)
            blocks = self._blocks(content, melody, voice)
            yield from finished(blocks, analysis.output_samples, analysis.loudness, progress)

    def encode(self, source: Source, stages: int | None = None) -> Tokens:
        """A recording as discrete tokens, melody and voice, which ``decode`` makes speech of again.

        Unlike ``convert``, the decoder then gets the nearest codebook entries: no soft_temperature, no residual_mix.

        Args:
            stages: of the quantizer whose codes to take, the first so many: fewer bits, and fewer words survive.

        Raises:
            InputError: the source cannot be used, or the model's bottleneck has no codes, or not so many stages.
        """
        self._check_has_codes()
        bottleneck = self._config.bottleneck
        rows = bottleneck.codes_of(stages)
        with self._analyse(source) as analysis:
            return Tokens(
                codes=self._codes(analysis)[:rows],
                melody=Melody.of(analysis.even_f0),
                samples=analysis.output_samples,
                loudness=round(analysis.loudness, 2),
                embedding=coarse_embedding(self._own_embedding(analysis)) if self._config.embeds_speakers else None,
                model=self.model,
                bits=(bottleneck.code_values - 1).bit_length(),
            )

    def decode(
        self,
        tokens: Tokens | str | os.PathLike[str],
        target: Target | list[Target] | None = None,
        *,
        pitch: float = 0.0,
        keep_pitch: bool = False,
    ) -> np.ndarray:
        """The speech that tokens, or a file of them, stand for: 24 kHz float32, [tokens.samples].

        Args:
            target: whose voice; None takes the one that the tokens came with.
            pitch: semitones to add to the melody.
            keep_pitch: leave the melody where the tokens have it, instead of in the target's register.

        Raises:
            InputError: the tokens are of another model or have no voice, or the target cannot be used.
        """
        tokens = tokens if isinstance(tokens, Tokens) else Tokens.load(tokens)
        return np.concatenate(list(self.decode_stream(tokens, target, pitch=pitch, keep_pitch=keep_pitch)))

    def decode_file(
        self,
        tokens: Tokens,
        output: str | os.PathLike[str],
        target: Target | list[Target] | None = None,
        *,
        pitch: float = 0.0,
        keep_pitch: bool = False,
        progress: Progress | None = None,
        overwrite: bool = True,
    ) -> float:
        """Like ``decode``, into a file, as ``convert_file`` does; returns the seconds of audio made."""
        blocks = self.decode_stream(tokens, target, pitch=pitch, keep_pitch=keep_pitch, progress=progress)
        return write(output, blocks, overwrite)

    def decode_stream(
        self,
        tokens: Tokens,
        target: Target | list[Target] | None = None,
        *,
        pitch: float = 0.0,
        keep_pitch: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Like ``decode``, in blocks [n] and in bounded memory, as ``stream`` does."""
        check_pitch(pitch)
        self._check_tokens(tokens)
        voice = self.voice(tokens.voice if target is None else target)
        f0 = tokens.melody.f0
        melody = moved_pitch(f0, len(f0), voice, pitch / 12, keep_pitch)
        missing = self._config.bottleneck.codes_per_frame - len(tokens.codes)
        codes = np.pad(tokens.codes, ((0, missing), (0, 0)), constant_values=-1)  # of the stages left out
        blocks = self._blocks(
            lambda start, end: self._engine.content_of(codes[:, start // 2 : end // 2]), melody, voice
        )
        yield from finished(blocks, tokens.samples, tokens.loudness, progress)

    def resynthesize(self, source: Source) -> np.ndarray:
        """``source`` through analysis and vocoder alone, no network between: 24 kHz float32.

        What the vocoder loses, a conversion cannot have.
        """
        with self._analyse(source) as analysis:
            pitch = moved_pitch(analysis.f0, analysis.frames, Voice(np.zeros(0), None), 0.0, keep_pitch=True)
            chunks = (
                (start, streaming.mel_frames(analysis.wave, analysis.gain, start, end))
                for start, end in streaming.chunk_bounds(analysis.frames)
            )
            blocks = streaming.vocode(self._engine.vocode, streaming.crossfade(chunks), pitch)
            wave = np.concatenate([*blocks, np.zeros(OUTPUT_HOP, np.float32)])[: analysis.output_samples]
            return wave * np.float32(audio.gain(audio.loudness(wave, OUTPUT_RATE), analysis.loudness))

    def rebuild(self, wave: np.ndarray, f0: np.ndarray | None = None) -> Rebuilt:
        """What the networks make of a few seconds [N] at 16 kHz and the reference loudness; F0 [T] is tracked if None.

        Nothing is refused: the error tells how similar the sound is to the training data.
        """
        mel, asr_features = encoder_input(wave, self._engine.asr_features)
        f0 = (self._tracker(wave) if f0 is None else f0)[: mel.shape[1]]
        f0 = np.pad(f0, (0, mel.shape[1] - len(f0)))
        embedding = self._engine.speaker(wave, mel)
        content, codes = self._engine.content(mel, asr_features)
        pitch = np.stack(features.continuous_log_f0(f0))
        adapter = np.zeros(self._config.adapter_shape, np.float32)
        again = self._engine.decode(content, pitch, embedding, Reference.none(self._config.content_channels), adapter)
        return Rebuilt(mel, f0, embedding, codes, again)

    def embed(self, wave: Source | list[Source]) -> np.ndarray:
        """Speaker embedding [E] of unit length, of one recording, a folder, or several of one speaker."""
        return self.voice(wave).embedding

    def embed_clip(self, clip: Source) -> tuple[np.ndarray, float]:
        """Speaker embedding [E] of unit length of one recording, and the seconds of speech in it.

        The same as ``embed`` gives, in less time: neither F0 nor content is computed.

        Raises:
            InputError: the clip cannot be read, is silent or too short.
        """
        wave = speech_of(clip)
        mel, _ = encoder_input(wave, no_asr_features)
        embedding = self._engine.speaker(wave, mel).astype(np.float64)
        if not all_finite(embedding):
            raise not_finite()
        return embedding / np.linalg.norm(embedding), len(wave) / features.SAMPLE_RATE

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

    def speech_features(self, clip: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mel [N_MELS, T], T even, F0 [T'] and ASR features [R, T / 2] of a clip, trimmed of silence.

        Raises:
            InputError: the clip cannot be used as a target.
        """
        return speech_features(clip, self._tracker, self._engine.asr_features)

    def extract(self, source: Source) -> Extraction:
        """Content codes and F0 of a recording.

        Raises:
            InputError: the source cannot be used.
        """
        with self._analyse(source) as analysis:
            return Extraction(self._codes(analysis), analysis.even_f0)

    def live(
        self, target: Target | list[Target], block: float = 0.096, enrolment: Enrolment | None = None, **options: Any
    ) -> LiveConverter:
        """A converter for sound as it comes; the options are those of ``LiveConverter``.

        Raises:
            InputError: the target or the enrolment cannot be used, or an option is out of range.
        """
        from vconv.live.engine import LiveConverter, Parts

        parts = Parts(self._engine, self._config, self._tracker, self.model, self.voice, self._population)
        return LiveConverter(parts, target, block, enrolment, **options)

    def enrol(self, clips: Source | list[Source]) -> Enrolment:
        """Statistics of the person at the microphone, for live conversion: ten seconds are enough.

        Raises:
            InputError: a clip cannot be used; the message says which and why.
        """
        from vconv.live.statistics import enrol

        found = itertools.chain.from_iterable(map(clips_in, clips if isinstance(clips, list) else [clips]))
        return enrol(list(found), self._engine, self._tracker, self.model)

    @cached_property
    def _population(self) -> Enrolment | None:
        """The average speaker, if the model folder has one of these weights."""
        from vconv.live.statistics import ENROLMENT, Enrolment

        path = self.folder and self.folder / ENROLMENT
        if path is None or not path.is_file():
            return None
        population = Enrolment.load(path)
        return population if population.model == self.model else None

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
                raise InputError(f"{reader.name}: {reader.why_silent(loudness)}")
            wave.offset = meter.offset()
            gain = audio.gain(loudness)
            yield Analysis(
                wave=wave,
                gain=gain,
                loudness=loudness,
                output_samples=audio.scaled_length(reader.source_samples, reader.source_rate, OUTPUT_RATE),
                f0=streaming.f0_curve(wave, gain, self._tracker),
            )

    def _hear(self, analysis: Analysis, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Content [C, T / 2] and codes [G, T / 2] of a source from one frame to another, both even."""
        stretch = (analysis.wave, analysis.gain, start, end)
        asr_features = streaming.asr_frames(*stretch, self._engine.asr_features)
        return self._engine.content(streaming.mel_frames(*stretch), asr_features)

    def _codes(self, analysis: Analysis) -> np.ndarray:
        """Content codes of a source [G, frames / 2]."""
        parts = []
        done = 0
        for start, end in streaming.chunk_bounds(analysis.frames):
            codes = self._hear(analysis, start, end)[1]
            last = end == analysis.frames
            until = end if last else end - streaming.OVERLAP_FRAMES // 2  # halfway through the overlap
            parts.append(codes[:, (done - start) // 2 : (until - start) // 2])
            done = until
        return np.concatenate(parts, axis=1)

    def _own_embedding(self, analysis: Analysis) -> np.ndarray:
        """Speaker embedding [E] of a source: of its stretches, without silence around them, by their voiced frames."""
        embeddings, voiced = [], []
        for start, end in streaming.chunk_bounds(analysis.frames):
            wave = audio.trim_silence(analysis.wave.read(start * HOP_LENGTH, end * HOP_LENGTH), SAMPLE_RATE)
            if len(wave):
                wave = wave * np.float32(analysis.gain)
                mel = features.log_mel(wave)
                embeddings.append(self._engine.speaker(wave, mel[:, : mel.shape[1] // 2 * 2]))
                voiced.append(np.count_nonzero(analysis.f0[start:end]))
        embedding = np.average(embeddings, axis=0, weights=voiced if any(voiced) else None)
        if not all_finite(embedding):
            raise not_finite()
        return embedding

    def _blocks(self, content: ContentOf, pitch: np.ndarray, voice: Voice) -> Iterator[np.ndarray]:
        """Wave of content and pitch [2, T] in a voice, whatever its loudness: blocks [n], together [T * OUTPUT_HOP]."""
        reference = voice.reference or Reference.none(self._config.content_channels)
        adapter = np.zeros(self._config.adapter_shape, np.float32) if voice.adapter is None else voice.adapter

        def chunks() -> Iterator[tuple[int, np.ndarray]]:
            for start, end in streaming.chunk_bounds(pitch.shape[1]):
                part = content(start, end)
                yield start, self._engine.decode(part, pitch[:, start:end], voice.embedding, reference, adapter)

        return streaming.vocode(self._engine.vocode, streaming.crossfade(chunks()), pitch)

    def _check_has_codes(self) -> None:
        if not self.has_codes:
            kind = self._config.bottleneck.kind
            raise InputError(f"this model has no codes, as its bottleneck is '{kind}'; use another with --model")

    def _check_tokens(self, tokens: Tokens) -> None:
        """Raise InputError unless they are this model's and long enough to be spoken."""
        self._check_has_codes()
        if tokens.model not in (None, self.model):
            raise InputError(f"{tokens.name}: was encoded with another model; name that one with --model")
        bottleneck = self._config.bottleneck
        rows, values = bottleneck.codes_per_frame, bottleneck.code_values
        if not 0 < len(tokens.codes) <= rows or len(tokens.codes) % bottleneck.codes_of(1):
            raise InputError(f"{tokens.name}: has {len(tokens.codes)} codes a frame, this model has {rows}")
        if tokens.codes.min() < 0 or tokens.codes.max() >= values:
            raise InputError(f"{tokens.name}: has the code {tokens.codes.max()}, this model's end at {values - 1}")
        check_length(tokens.name, tokens.samples, OUTPUT_RATE, "of tokens")

    def _checked(self, voice: Voice, name: str) -> Voice:
        """The voice with its embedding at unit length, if it is one of this model's."""
        voice.check(name)
        expected, embedding = (self._config.embedding_channels,), np.asarray(voice.embedding, np.float32)
        length = float(np.linalg.norm(embedding))
        if embedding.shape != expected or not 0 < length < np.inf:
            raise InputError(
                f"{name}: is no embedding of this model ({_why_none(embedding, expected)}); "
                "make it again with `vconv embed`"
            )
        if voice.reference is not None and not self._fits(voice.reference):
            raise InputError(f"{name}: holds speech for another model; make it again with `vconv embed`")
        strange = np.shape(voice.adapter) != self._config.adapter_shape or voice.model not in (None, self.model)
        if voice.adapter is not None and strange:
            raise InputError(f"{name}: was tuned for another model; make it again with `vconv finetune`")
        return dataclasses.replace(voice, embedding=embedding / length)

    def _fits(self, reference: Reference) -> bool:
        content, mel = np.shape(reference.content), np.shape(reference.mel)
        frames = content[-1]
        return frames > 0 and content == (self._config.content_channels, frames) and mel == (N_MELS, 2 * frames)


def _why_none(embedding: np.ndarray, expected: tuple[int, ...]) -> str:
    """What is wrong with an embedding that is none of a model's."""
    if embedding.shape != expected:
        return f"shape {embedding.shape}, expected {expected}"
    return "all of it is zero" if not embedding.any() else "its numbers are not finite"
