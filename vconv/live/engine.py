"""The live converter: samples in at any rate and in any cut, samples out a fixed latency later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vconv import audio
from vconv.config import ConversionConfig
from vconv.errors import InputError, VconvError
from vconv.excitation import PulseTrain
from vconv.features import FRAME_RATE, OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.live_asr_encoder import LiveAsrEncoder
from vconv.frontends.pitch import PitchTracker
from vconv.inference import streaming
from vconv.inference.engine import Engine
from vconv.inference.register import check_pitch
from vconv.live.asr_stream import AsrStream
from vconv.live.gate import Gate
from vconv.live.joins import Ramp
from vconv.live.melody import into_register
from vconv.live.resampling import StreamResampler
from vconv.live.statistics import Enrolment, Level, NormEstimate, Register
from vconv.live.window import CONTENT_PAST, LiveVoice, SlidingWindow, Speaker, Timing
from vconv.untrusted import all_finite
from vconv.voice import Voice

BLOCK_SECONDS = 0.096  # of sound converted at once
LOOKAHEAD_SECONDS = 0.192  # of sound after a block that is known when it is converted
PAST_SECONDS = 3.0  # of sound before a block that an ASR encoder of files sees
GATE_DB = -65.0  # dBFS of a 16 ms frame, with speech at -27: quieter sound is not converted
BYPASS_FADE_SECONDS = 0.02
MIN_RATE, MAX_RATE = 8000, 192000  # Hz
REFERENCE_FRAMES = 625  # of the content code, 20 s of the target's speech
LOUDNESS_FRAMES = 250  # of enrolled speech in a voice, 4 s, that tell how loud it comes out
PEAK = 0.99  # of full scale


@dataclass(frozen=True)
class Parts:
    """What of a ``Converter`` converts live."""

    engine: Engine
    config: ConversionConfig
    tracker: PitchTracker
    model: bytes
    voice_of: Callable[[object], Voice]
    population: Enrolment | None
    live_asr_encoder: LiveAsrEncoder | None = None  # where the model has one


class LiveConverter:
    """Converts a stream. ``Converter.live`` makes one.

    ``voice``, ``pitch`` (semitones), ``keep_pitch`` and ``bypass`` may be set at any time, from any thread: they hold
    from the next block on. ``process`` and ``flush`` belong to one thread.

    Args:
        target: as ``Converter.convert`` takes it.
        block: seconds converted at once, rounded to 32 ms; shorter costs more computing.
        lookahead: seconds known after a block, rounded to 32 ms; shorter costs words.
        past: seconds known before a block, which the ASR encoder sees where the model has no live one.
        enrolment: statistics of the person at the microphone (``Converter.enrol``), which then are frozen. None begins
            with the population's and gathers that person's while they speak.
        gate: dBFS below which sound is not converted, with speech at -27; None converts all.
        rate_in, rate_out: Hz.

    Attributes:
        latency: seconds from a sample's coming in to the earliest time at which it can go out, computing left out.

    Raises:
        InputError: the target or the enrolment cannot be used, or a number is out of range, also a ``pitch`` that is
            set later.
    """

    def __init__(
        self,
        parts: Parts,
        target: object,
        block: float = BLOCK_SECONDS,
        enrolment: Enrolment | None = None,
        *,
        lookahead: float = LOOKAHEAD_SECONDS,
        past: float = PAST_SECONDS,
        gate: float | None = GATE_DB,
        rate_in: int = SAMPLE_RATE,
        rate_out: int = OUTPUT_RATE,
        pitch: float = 0.0,
        keep_pitch: bool = False,
    ) -> None:
        for name, rate in (("rate_in", rate_in), ("rate_out", rate_out)):
            if not MIN_RATE <= rate <= MAX_RATE:
                raise InputError(f"{name} of {rate} Hz is out of range; use {MIN_RATE} to {MAX_RATE}")
        if enrolment is not None and enrolment.model != parts.model:
            raise InputError("the enrolment was made with another model; make it again with `vconv embed --me`")
        self._parts, self._enrolment = parts, enrolment
        self._known = enrolment or parts.population
        self._timing = Timing(
            _even_frames("block", block), _even_frames("lookahead", lookahead), _even_frames("past", past)
        )
        self._gate_threshold = gate
        self.rate_in, self.rate_out = int(rate_in), int(rate_out)
        self._into = StreamResampler(self.rate_in, SAMPLE_RATE)
        self._out = StreamResampler(OUTPUT_RATE, self.rate_out)
        self._dry = StreamResampler(self.rate_in, self.rate_out)
        self.pitch, self.keep_pitch, self.bypass = pitch, keep_pitch, False
        self._voice = self._prepared(parts.voice_of(target))
        self.reset()

    @property
    def block(self) -> float:
        """Seconds converted at once."""
        return self._timing.step / FRAME_RATE

    @property
    def latency(self) -> float:
        frames = self._timing.step + self._timing.ahead
        return frames / FRAME_RATE + self._into.latency + self._out.latency

    @property
    def pitch(self) -> float:
        """Semitones added to the melody."""
        return self._pitch

    @pitch.setter
    def pitch(self, semitones: float) -> None:
        check_pitch(semitones)
        self._pitch = semitones

    @property
    def voice(self) -> Voice:
        """The target voice; set to any target."""
        return self._voice.voice

    @voice.setter
    def voice(self, target: object) -> None:
        self._voice = self._prepared(self._parts.voice_of(target))

    def reset(self) -> None:
        """Begin a new stream; what was gathered of the speaker is forgotten."""
        known, frozen = self._known, self._enrolment is not None
        speaker = Speaker(
            Level(known.loudness if frozen else None),
            Register(known and known.log_f0, known and known.log_f0_spread, frozen),
            NormEstimate(known and known.statistics, frozen),
        )
        self._voice = self._voice.restarted()
        gate = Gate(self._gate_threshold)
        encoder = self._parts.live_asr_encoder
        asr_stream = AsrStream(encoder, past=CONTENT_PAST // 2) if encoder else None
        self._window = SlidingWindow(self._parts.engine, self._parts.tracker, self._timing, speaker, gate, asr_stream)
        self._given = self._taken = 0  # samples in, samples out
        self._pending = np.zeros(0, np.float32)  # at 16 kHz, for the next step
        self._aside = np.zeros(0, np.float32)  # what bypass lets through, at rate_out
        self._ramp = Ramp(round(BYPASS_FADE_SECONDS * self.rate_out))
        for resampler in (self._into, self._out, self._dry):
            resampler.reset()

    def process(self, block: np.ndarray) -> np.ndarray:
        """Samples [n] at ``rate_in`` -> those [m] at ``rate_out`` that are ready, float32; m may be 0.

        Sample for sample the result is the input in time; the first comes when ``latency`` has been given. NaN and
        infinite samples count as silence.

        Raises:
            VconvError: the networks gave samples that are not finite.
        """
        block = np.nan_to_num(np.asarray(block, np.float32), posinf=0.0, neginf=0.0)
        if block.ndim != 1:
            raise InputError(f"a block of shape {block.shape} is no mono sound; pass [n] samples")
        self._given += len(block)
        self._aside = np.concatenate([self._aside, self._dry.process(block)])
        return self._convert(self._into.process(block))

    def flush(self) -> np.ndarray:
        """The rest: all that comes out has then the length of all that was given. A new stream may begin."""
        left = audio.scaled_length(self._given, self.rate_in, self.rate_out) - self._taken
        self._aside = np.concatenate([self._aside, self._dry.flush()])
        parts = [self._convert(self._into.flush())]
        while sum(map(len, parts)) < left:
            parts.append(self._convert(np.zeros(self._window.missing, np.float32)))
        rest = np.concatenate(parts)[:left]
        self.reset()
        return rest

    def _convert(self, wave: np.ndarray) -> np.ndarray:
        """16 kHz samples [n] -> samples [m] at rate_out, of as many steps as these complete."""
        self._pending = np.concatenate([self._pending, wave])
        parts = [np.zeros(0, np.float32)]
        while len(self._pending) >= (needed := self._window.missing):
            fresh, self._pending = self._pending[:needed], self._pending[needed:]
            muted = self.bypass and self._ramp.settled(True)
            out = self._window.step(fresh, self._voice, self.pitch / 12, self.keep_pitch, muted)
            if not all_finite(out):
                raise VconvError("the networks gave samples that are not finite; the model or the voice is damaged")
            parts.append(self._mixed(self._out.process(out)))
        done = np.concatenate(parts)
        self._taken += len(done)
        return done

    def _mixed(self, converted: np.ndarray) -> np.ndarray:
        """Converted samples [n], or as many of the source's own with ``bypass``, within full scale."""
        count = len(converted)
        # At the end of a stream the source's own may be a sample short.
        dry = np.zeros(count, np.float32)
        dry[: len(self._aside)] = self._aside[:count]
        self._aside = self._aside[count:]
        share = self._ramp.next(count, self.bypass)
        return np.clip(converted + share * (dry - converted), -PEAK, PEAK)

    def _prepared(self, voice: Voice) -> LiveVoice:
        """A voice with the statistics that the decoder has when the enrolled speech is converted to it."""
        known, shortened = self._known, voice
        if voice.reference is not None:
            shortened = replace(voice, reference=voice.reference.first(REFERENCE_FRAMES))
        start, gain = None, 1.0
        if known is not None:
            register = Register(known.log_f0, known.log_f0_spread)
            curve = into_register(known.curve, register, voice, self.pitch / 12, self.keep_pitch)
            pitch = np.stack([curve, known.voiced])
            decoded = self._parts.engine.decode(known.content, pitch, shortened)
            start, gain = decoded.statistics, self._loudness_gain(decoded.mel, pitch)
        return LiveVoice(voice, shortened, NormEstimate(start, self._enrolment is not None), gain)

    def _loudness_gain(self, mel: np.ndarray, pitch: np.ndarray) -> float:
        """Brings speech in a voice to the reference loudness, by some of it: mel [N_MELS, T], pitch [2, T]"""
        frames = min(LOUDNESS_FRAMES, mel.shape[1])
        mel, pitch = mel[:, :frames], pitch[:, :frames]
        pulses = PulseTrain(pitch[0]).samples(0, frames)
        wave = self._parts.engine.vocode(mel, pitch, pulses, streaming.noise(0, frames))
        return audio.gain(audio.loudness(wave, OUTPUT_RATE))


def _even_frames(name: str, seconds: float) -> int:
    """Frames of so many seconds, an even number of them, at least two."""
    if not 0 < seconds <= 10:  # also NaN
        raise InputError(f"a {name} of {seconds} s is out of range; use 0.032 to 10")
    return max(2, 2 * round(seconds * FRAME_RATE / 2))
