"""The networks in a sliding window: a step of new sound, with a fixed stretch before and a short one after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vconv import features
from vconv.features import FRAME_RATE, HOP_LENGTH, N_FFT, OUTPUT_HOP
from vconv.frontends.ends import MIRRORED, mirrored_end
from vconv.frontends.pitch import LEVEL_FRAMES, PITCH_PAST, WINDOW_FRAMES, PitchTracker, low_level
from vconv.inference import streaming
from vconv.inference.engine import Engine
from vconv.inference.streaming import MEL_CONTEXT
from vconv.inference.utterance import Utterance
from vconv.live.asr_stream import AsrStream
from vconv.live.gate import Gate
from vconv.live.joins import OverlapAdd
from vconv.live.melody import Melody, bridged, into_register
from vconv.live.statistics import Level, NormEstimate, Register
from vconv.voice import Voice

CONTENT_PAST = 64  # frames, 1.02 s
ENOUGH = 12  # frames of lookahead, 192 ms: with so much, only an ASR encoder of files gains by mirrored ones
DECODER_PAST = 28  # frames, 448 ms, its receptive field
VOCODER_PAST = 26  # frames, its receptive field
MEL_FADE = 2  # frames in which two steps' mels are cross-faded
WAVE_FADE = OUTPUT_HOP  # samples in which two steps' waves are
LEVEL_CONTEXT = LEVEL_FRAMES // 2
UNSETTLED = N_FFT // 2 // HOP_LENGTH  # last frames of a mel, whose window reaches beyond the wave


@dataclass(frozen=True)
class Timing:
    """Lengths in frames, all even: a step of new sound, what is known after it, and the past that is kept."""

    step: int
    ahead: int
    past: int

    @property
    def longest(self) -> int:
        return self.past + self.step + self.ahead


@dataclass
class Speaker:
    """What is known of the person at the microphone."""

    level: Level
    register: Register
    norms: NormEstimate


@dataclass
class LiveVoice:
    """A target voice, ready to be decoded to."""

    voice: Voice
    shortened: Voice  # with less reference speech: the decoder looks at all of it in every block
    norms: NormEstimate  # of the decoder's activations in this voice
    gain: float = 1.0  # brings what comes out to the reference loudness

    def restarted(self) -> LiveVoice:
        """Without what was gathered while it was in use."""
        return replace(self, norms=self.norms.restarted())


class SlidingWindow:
    """Turns 16 kHz sound into 24 kHz sound, ``timing.step`` frames at a time. Frame numbers count from the start.

    Each step runs the networks on all of the window and keeps what lies in its middle.
    """

    def __init__(
        self,
        engine: Engine,
        tracker: PitchTracker,
        timing: Timing,
        speaker: Speaker,
        gate: Gate,
        asr_stream: AsrStream | None = None,
    ) -> None:
        """Without ``asr_stream`` the ASR encoder of files runs on all of the window in each step."""
        self._engine, self._tracker, self._timing = engine, tracker, timing
        self._speaker, self._gate, self._asr_stream = speaker, gate, asr_stream
        self._wave = np.zeros(0, np.float32)  # the last frames as they came
        self._mel = np.zeros((features.N_MELS, 0), np.float32)  # of the same frames
        self._after = np.zeros((features.N_MELS, 0), np.float32)  # of those that follow mirrored
        self._gain = speaker.level.gain  # of the step before
        self._mirrored = max(min(MIRRORED, ENOUGH - timing.ahead), 0)
        self._due = 0  # the frame with which the next step begins
        self._curve: float | None = None  # latest log2 F0 of the source
        self._melody = Melody(DECODER_PAST)
        self._decoded = np.zeros((features.N_MELS, 0), np.float32)  # the last final frames
        self._mel_join, self._wave_join = OverlapAdd(MEL_FADE), OverlapAdd(WAVE_FADE)

    @property
    def missing(self) -> int:
        """Samples that the next step needs."""
        frames = self._timing.step + (0 if self._due else self._timing.ahead)
        return frames * HOP_LENGTH

    def step(self, wave: np.ndarray, voice: LiveVoice, octaves: float, keep_pitch: bool, muted: bool) -> np.ndarray:
        """The next samples [``missing``] at 16 kHz -> converted ones [timing.step * OUTPUT_HOP] at 24 kHz.

        ``octaves`` are added to the melody. ``muted`` skips the networks.
        """
        timing, level = self._timing, self._speaker.level
        gain = level.gain
        self._wave = np.concatenate([self._wave, wave])
        scaled = self._wave * np.float32(gain)
        fresh = len(wave) // HOP_LENGTH
        self._update_mel(scaled, fresh)
        powers = np.square(scaled).reshape(-1, HOP_LENGTH).mean(axis=1)
        opened = self._gate.is_open(powers[-timing.step - timing.ahead :], timing.step)
        level.add_background(low_level(self._mel)[-fresh - UNSETTLED : -UNSETTLED])
        out = self._converted(scaled, voice, octaves, keep_pitch) if opened and not muted else self._silent()
        self._due += timing.step
        before, self._gain = self._gain, gain
        kept = timing.past + timing.ahead
        self._wave, self._mel = self._wave[-kept * HOP_LENGTH :], self._mel[:, -kept:]
        joined = self._wave_join.join(out, timing.step * OUTPUT_HOP)
        # Back to the loudness of the source.
        return joined / np.linspace(before, gain, len(joined), dtype=np.float32, endpoint=False)

    def _update_mel(self, scaled: np.ndarray, fresh: int) -> None:
        """Bring the mel up to the end of the window, which has so many new frames, and beyond."""
        settled = max(self._mel.shape[1] - UNSETTLED, 0)
        left = max(settled - MEL_CONTEXT, 0)
        seen = mirrored_end(scaled, self._mirrored * HOP_LENGTH)[left * HOP_LENGTH :]
        mel = np.concatenate([self._mel[:, :settled], features.log_mel(seen)[:, settled - left :]], axis=1)
        self._mel, self._after = np.split(mel, [len(scaled) // HOP_LENGTH], axis=1)

    def _converted(self, scaled: np.ndarray, voice: LiveVoice, octaves: float, keep_pitch: bool) -> np.ndarray:
        """Wave of the step and of what is known after it: [(step + ahead) * OUTPUT_HOP]"""
        step, span = self._timing.step, self._timing.step + self._timing.ahead
        pitch = self._pitch(scaled, voice.voice, octaves, keep_pitch)
        if pitch[1].any():
            self._speaker.level.add_speech(self._wave[-span * HOP_LENGTH :], step)
        speaks = bool(pitch[1, :step].any())
        content = self._content(scaled, speaks)
        past = min(self._melody.final.shape[1], DECODER_PAST, self._mel.shape[1] - span)
        known = np.concatenate([self._melody.final[:, self._melody.final.shape[1] - past :], pitch], axis=1)
        melody = mirrored_end(known, self._after.shape[1])
        decoded = self._engine.decode(content[:, -melody.shape[1] // 2 :], melody, voice.shortened, voice.norms.value)
        if speaks:
            voice.norms.add(decoded.statistics, step / FRAME_RATE)
        return self._vocoded(decoded.mel[:, past : past + span], pitch) * np.float32(voice.gain)

    def _pitch(self, scaled: np.ndarray, voice: Voice, octaves: float, keep_pitch: bool) -> np.ndarray:
        """The networks' pitch input [2, step + ahead] of the frames that are due and of what is known after them."""
        step, span = self._timing.step, self._timing.step + self._timing.ahead
        left = max(len(scaled) // HOP_LENGTH - span - PITCH_PAST - WINDOW_FRAMES, 0)
        seen = scaled[left * HOP_LENGTH :]
        track = self._tracker.track(mirrored_end(seen, self._mirrored * HOP_LENGTH))[:, : len(seen) // HOP_LENGTH]
        track = track[:, -span - LEVEL_CONTEXT :]
        f0 = self._speaker.level.f0_of(track)[-span:]
        register = self._speaker.register
        register.add(f0[:step], step / FRAME_RATE, f0[step:])
        before = self._curve if self._curve is not None else register.log_f0 or 0.0
        curve, voiced = bridged(f0, before)
        self._curve = float(curve[step - 1])
        return np.stack([into_register(curve, register, voice, octaves, keep_pitch), voiced])

    def _content(self, scaled: np.ndarray, speaks: bool) -> np.ndarray:
        """Content [C, T / 2] of the window's last frames and of those that follow mirrored."""
        known = self._mel.shape[1]
        frames = min(known, CONTENT_PAST + self._timing.step + self._timing.ahead)
        mel = np.concatenate([self._mel[:, -frames:], self._after], axis=1)
        if self._asr_stream is None:
            utterance = Utterance(mirrored_end(scaled, MIRRORED * HOP_LENGTH), mel, start=known - frames)
        else:
            utterance = Utterance(scaled, mel, encoded=self._asr_features(self._asr_stream, scaled, frames))
        encoded = self._engine.content(utterance, self._speaker.norms.value)
        if speaks:
            self._speaker.norms.add(encoded.statistics, self._timing.step / FRAME_RATE)
        return encoded.content

    def _asr_features(self, asr_stream: AsrStream, scaled: np.ndarray, frames: int) -> np.ndarray:
        """ASR features [R, T / 2] of the window's last frames and of those that follow mirrored."""
        due, step, after = self._due // 2, self._timing.step // 2, self._after.shape[1] // 2
        end = due + step + self._timing.ahead // 2
        return asr_stream.features(scaled, range(end - frames // 2, end + after), range(due, due + step), end)

    def _vocoded(self, mel: np.ndarray, pitch: np.ndarray) -> np.ndarray:
        """The wave of mel [N_MELS, step + ahead] and pitch [2, step + ahead]."""
        step, span = self._timing.step, mel.shape[1]
        mel = np.concatenate([self._mel_join.join(mel, step), mel[:, step:]], axis=1)
        past = min(self._decoded.shape[1], VOCODER_PAST)
        longer = mirrored_end(pitch, self._mirrored)
        before = self._decoded[:, self._decoded.shape[1] - past :]
        wave = self._engine.vocode(
            np.concatenate([before, mirrored_end(mel, self._mirrored)], axis=1),
            np.concatenate([self._melody.final[:, self._melody.final.shape[1] - past :], longer], axis=1),
            self._melody.samples(longer, past),
            streaming.noise(self._due - past, self._due + longer.shape[1]),
        )
        self._finish(mel[:, :step], pitch[:, :step])
        return wave[past * OUTPUT_HOP : (past + span) * OUTPUT_HOP]

    def _silent(self) -> np.ndarray:
        """Nothing sounds in this step; the phase goes on."""
        step = self._timing.step
        latest = self._melody.final[0, -1] if self._melody.final.shape[1] else np.float32(0)
        nothing = np.full((features.N_MELS, step + MEL_FADE), features.LOG_MEL_MIN, np.float32)
        pitch = np.stack([np.full(step, latest, np.float32), np.zeros(step, np.float32)])
        self._finish(self._mel_join.join(nothing, step), pitch)
        return np.zeros(step * OUTPUT_HOP + WAVE_FADE, np.float32)

    def _finish(self, mel: np.ndarray, pitch: np.ndarray) -> None:
        """The mel [N_MELS, step] and pitch [2, step] of the step are final."""
        self._decoded = np.concatenate([self._decoded, mel], axis=1)[:, -VOCODER_PAST:]
        self._melody.add(pitch)
