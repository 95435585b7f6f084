"""The public object: a loaded model that converts, embeds and extracts."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vconv import audio, features
from vconv.audio import Source
from vconv.config import ConversionConfig
from vconv.features import OUTPUT_HOP, OUTPUT_RATE
from vconv.frontends.pitch import PitchTracker
from vconv.inference import streaming
from vconv.inference.analysis import Extraction, Inspect, Rebuilt, analyse, codes_of, embedding_of
from vconv.inference.checks import check_has_codes, check_not_too_long, check_tokens, checked, fitting
from vconv.inference.engine import Engine
from vconv.inference.output import Progress, finished, write
from vconv.inference.prior import ENOUGH_SECONDS, Prior
from vconv.inference.register import check_pitch, moved_pitch
from vconv.inference.targets import Clip, clips_in, embed_clip, make_voice, speech_features
from vconv.inference.utterance import Utterance
from vconv.tokens.tokens import MODEL_BYTES, Melody, Tokens, coarse_embedding
from vconv.voice import Voice, is_saved_voice

if TYPE_CHECKING:
    from vconv.frontends.live_asr_encoder import LiveAsrEncoder
    from vconv.live import Enrolment, LiveConverter


Target = Clip | np.ndarray | Voice  # a clip, a folder or a saved voice; an embedding [E]; a voice
ContentOf = Callable[[int, int], np.ndarray]  # frames from, to -> content [C, (to - from) / 2]


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
        look = fitting(output, inspect)
        blocks = self.stream(source, target, pitch=pitch, keep_pitch=keep_pitch, progress=progress, inspect=look)
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
        with analyse(source, self._tracker) as analysis:
            if inspect:
                inspect(analysis)
            prior = self._prior(analysis.active_seconds)

            def content(start: int, end: int) -> np.ndarray:
                return prior.content(self._engine, analysis.utterance(start, end)).content

            melody = moved_pitch(analysis.f0, analysis.frames, None if keep_pitch else voice, pitch / 12)
            blocks = self._blocks(content, melody, voice, prior)
            yield from finished(blocks, analysis.output_samples, analysis.loudness, progress)

    def encode(self, source: Source, stages: int | None = None) -> Tokens:
        """A recording as discrete tokens, melody and voice, which ``decode`` makes speech of again.

        Unlike ``convert``, the decoder then gets the nearest codebook entries: no soft_temperature, no residual_mix.

        Args:
            stages: of the quantizer whose codes to take, the first so many: fewer bits, and fewer words survive.

        Raises:
            InputError: the source cannot be used, or the model's bottleneck has no codes, or not so many stages.
        """
        check_has_codes(self._config)
        bottleneck = self._config.bottleneck
        rows = bottleneck.codes_of(stages)
        with analyse(source, self._tracker) as analysis:
            check_not_too_long(audio.source_name(source), analysis.frames)
            return Tokens(
                codes=codes_of(self._engine, analysis, self._prior(analysis.active_seconds))[:rows],
                melody=Melody.of(analysis.even_f0),
                samples=analysis.output_samples,
                loudness=round(analysis.loudness, 2),
                embedding=coarse_embedding(embedding_of(self._engine, analysis))
                if self._config.embeds_speakers
                else None,
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
        audio.check_fits(output, tokens.samples, OUTPUT_RATE)
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
        check_tokens(tokens, self._config, self.model)
        voice = self.voice(tokens.voice if target is None else target)
        f0 = tokens.melody.f0
        melody = moved_pitch(f0, len(f0), None if keep_pitch else voice, pitch / 12)
        missing = self._config.bottleneck.codes_per_frame - len(tokens.codes)
        codes = np.pad(tokens.codes, ((0, missing), (0, 0)), constant_values=-1)  # of the stages left out
        prior = self._prior(tokens.samples / OUTPUT_RATE)
        blocks = self._blocks(
            lambda start, end: self._engine.content_of(codes[:, start // 2 : end // 2]), melody, voice, prior
        )
        yield from finished(blocks, tokens.samples, tokens.loudness, progress)

    def resynthesize(self, source: Source) -> np.ndarray:
        """``source`` through analysis and vocoder alone, no network between: 24 kHz float32.

        What the vocoder loses, a conversion cannot have.
        """
        with analyse(source, self._tracker) as analysis:
            pitch = moved_pitch(analysis.f0, analysis.frames)
            chunks = (
                (start, streaming.mel_frames(analysis.wave, analysis.gain, start, end))
                for start, end in streaming.chunk_bounds(analysis.frames)
            )
            blocks = streaming.vocode(self._engine.vocode, streaming.crossfade(chunks), pitch)
            wave = np.concatenate([*blocks, np.zeros(OUTPUT_HOP, np.float32)])[: analysis.output_samples]
            return wave * np.float32(audio.gain(audio.loudness(wave, OUTPUT_RATE), analysis.loudness))

    def rebuild(self, wave: np.ndarray, f0: np.ndarray | None = None) -> Rebuilt:
        """What the networks make of a few seconds [N] at 16 kHz and the reference loudness; F0 [T] is tracked if None.

        Nothing is refused: the error measures how similar the sound is to the training data.
        """
        utterance = Utterance.of(wave)
        f0 = (self._tracker(wave) if f0 is None else f0)[: utterance.frames]
        f0 = np.pad(f0, (0, utterance.frames - len(f0)))
        embedding, encoded = self._engine.speaker(utterance), self._engine.content(utterance)
        pitch = np.stack(features.continuous_log_f0(f0))
        again = self._engine.decode(encoded.content, pitch, Voice(embedding, None)).mel
        return Rebuilt(utterance.mel, f0, embedding, encoded.codes, again)

    def embed(self, wave: Source | list[Source]) -> np.ndarray:
        """Speaker embedding [E] of unit length, of one recording, a folder, or several of one speaker."""
        return self.voice(wave).embedding

    def embed_clip(self, clip: Source) -> tuple[np.ndarray, float]:
        """Speaker embedding [E] of unit length of one recording, and the seconds of speech in it.

        The same as ``embed`` gives, in less time: neither F0 nor content is computed.

        Raises:
            InputError: the clip cannot be read, is silent or too short.
        """
        return embed_clip(clip, self._engine)

    def voice(self, target: Target | list[Target], adapter: np.ndarray | None = None) -> Voice:
        """The voice of a target, with the ``adapter`` tuned on its clips if given. ``convert`` takes it as a target.

        Raises:
            InputError: the target cannot be used; the message says which clip and why.
        """
        if isinstance(target, Voice):
            return checked(target, "the voice", self._config, self.model)
        if isinstance(target, np.ndarray):
            return checked(Voice(target, None), "the embedding", self._config, self.model)
        targets = target if isinstance(target, list) else [target]
        if len(targets) == 1 and is_saved_voice(targets[0]):
            return checked(Voice.load(targets[0]), str(targets[0]), self._config, self.model)
        return make_voice([clip for one in targets for clip in clips_in(one)], self._engine, self._tracker, adapter)

    def speech_features(self, clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Mel [N_MELS, T], T even, F0 [T'] and, if the model has any, ASR features [R, T / 2] of a clip without the
        silence around it.

        Raises:
            InputError: the clip cannot be used as a target.
        """
        return speech_features(clip, self._tracker, self._engine)

    def extract(self, source: Source) -> Extraction:
        """Content codes and F0 of a recording.

        Raises:
            InputError: the source cannot be used.
        """
        with analyse(source, self._tracker) as analysis:
            return Extraction(codes_of(self._engine, analysis, self._prior(analysis.active_seconds)), analysis.even_f0)

    def live(
        self, target: Target | list[Target], block: float = 0.096, enrolment: Enrolment | None = None, **options: Any
    ) -> LiveConverter:
        """A converter for sound as it comes; the options are those of ``LiveConverter``.

        Raises:
            InputError: the target or the enrolment cannot be used, or an option is out of range.
        """
        from vconv.live.engine import LiveConverter, Parts

        known = self.population, self._live_asr_encoder
        parts = Parts(self._engine, self._config, self._tracker, self.model, self.voice, *known)
        return LiveConverter(parts, target, block, enrolment, **options)

    @cached_property
    def _live_asr_encoder(self) -> LiveAsrEncoder | None:
        """The live ASR encoder, if the model folder has one."""
        from vconv.frontends.live_asr_encoder import LiveAsrEncoder

        return self.folder and LiveAsrEncoder.of(self.folder, self._config.asr_channels, self._threads)

    def enrol(self, clips: Source | list[Source]) -> Enrolment:
        """Statistics of the person at the microphone, for live conversion: ten seconds are enough.

        Raises:
            InputError: a clip cannot be used; the message says which and why.
        """
        from vconv.live.statistics import enrol

        found = itertools.chain.from_iterable(map(clips_in, clips if isinstance(clips, list) else [clips]))
        return enrol(list(found), self._engine, self._tracker, self.model)

    @cached_property
    def population(self) -> Enrolment | None:
        """The average speaker, if the model folder has one of these weights."""
        from vconv.live.statistics import ENROLMENT, Enrolment

        path = self.folder and self.folder / ENROLMENT
        if path is None or not path.is_file():
            return None
        population = Enrolment.load(path)
        return population if population.model == self.model else None

    def _prior(self, seconds: float) -> Prior:
        """What the instance norms of a source with so many seconds of active speech take from the population."""
        return Prior.of(self.population, seconds) if seconds < ENOUGH_SECONDS else Prior(None)

    def _blocks(self, content: ContentOf, pitch: np.ndarray, voice: Voice, prior: Prior) -> Iterator[np.ndarray]:
        """Wave of content and pitch [2, T] in a voice, whatever its loudness: blocks [n], together [T * OUTPUT_HOP]."""
        decode = prior.decoder(self._engine, pitch, voice)

        def chunks() -> Iterator[tuple[int, np.ndarray]]:
            for start, end in streaming.chunk_bounds(pitch.shape[1]):
                yield start, decode(content(start, end), pitch[:, start:end]).mel

        return streaming.vocode(self._engine.vocode, streaming.crossfade(chunks()), pitch)
