"""Conversion through the public Converter: lengths, loudness, register, streaming and the two engines."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vconv
from tests.conftest import BASE_MODEL, REPOSITORY, ToyEngine, speech
from vconv import audio, features
from vconv.errors import InputError
from vconv.features import HOP_LENGTH, LOG_MEL_MIN, N_MELS, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.pitch import PitchTracker, f0_above, voicing_threshold
from vconv.inference import Converter, streaming, targets
from vconv.inference.output import PEAK
from vconv.inference.streaming import Spool
from vconv.inference.utterance import Utterance
from vconv.voice import Reference, Voice


def octaves_above_reference(f0: float) -> float:
    return float(np.log2(f0 / features.F0_REFERENCE))


VOICE = Voice(np.array([1, 0, 0, 0], np.float32), octaves_above_reference(240))


# ---------------------------------------------------------------- what a result is


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("extra", [0, 1, 173])
def test_a_result_is_as_long_as_its_source_to_the_sample(toy: Converter, rate: int, extra: int) -> None:
    wave = speech(0.6, rate)
    wave = np.concatenate([wave, wave[:extra]])
    result = toy.convert((wave, rate), VOICE)
    assert result.dtype == np.float32
    assert len(result) == int(len(wave) * OUTPUT_RATE / rate + 0.5)


@pytest.mark.parametrize("samples", range(16 * 2048, 16 * 2048 + 3 * HOP_LENGTH, 97))
def test_the_length_holds_at_every_place_in_a_frame(toy: Converter, samples: int) -> None:
    assert len(toy.convert((speech(3.0)[:samples], SAMPLE_RATE), VOICE)) == audio.scaled_length(samples, 16000, 24000)


def test_channels_types_and_files_make_no_difference(toy: Converter, tmp_path: Path) -> None:
    wave = np.round(speech(0.7, 44100) * 32767).astype(np.int16)
    audio.write(tmp_path / "a.wav", wave / 32768, 44100)
    expected = toy.convert((wave, 44100), VOICE)
    for source in (
        (np.stack([wave, wave], axis=1), 44100),
        ((wave / 32768).astype(np.float32), 44100),
        tmp_path / "a.wav",
        str(tmp_path / "a.wav"),
    ):
        np.testing.assert_allclose(toy.convert(source, VOICE), expected, atol=1e-4)


@pytest.mark.parametrize("level", [0.01, 0.1, 1.0])
def test_a_result_is_as_loud_as_its_source(toy: Converter, level: float) -> None:
    wave = speech(2.0) * np.float32(level)
    result = toy.convert((wave, SAMPLE_RATE), VOICE)
    assert audio.loudness(result, OUTPUT_RATE) == pytest.approx(audio.loudness(wave, SAMPLE_RATE), abs=0.05)


def test_a_result_stays_below_full_scale(toy: Converter) -> None:
    result = toy.convert((speech(1.0) * 20, SAMPLE_RATE), VOICE)
    assert np.abs(result).max() == pytest.approx(PEAK, abs=1e-4)


def test_a_result_can_be_repeated(toy: Converter) -> None:
    source = (speech(1.0), SAMPLE_RATE)
    np.testing.assert_array_equal(toy.convert(source, VOICE), toy.convert(source, VOICE))


def test_stream_and_file_are_the_result_of_convert(toy: Converter, tmp_path: Path) -> None:
    source = (speech(8.0), SAMPLE_RATE)
    whole = toy.convert(source, VOICE)
    blocks = list(toy.stream(source, VOICE))
    assert len(blocks) > 1
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    done: list[float] = []
    seconds = toy.convert_file(source, VOICE, tmp_path / "out.wav", progress=done.append)
    assert seconds == pytest.approx(8.0) and sum(done) == pytest.approx(8.0)
    written, rate = audio.read(tmp_path / "out.wav")
    assert rate == OUTPUT_RATE
    np.testing.assert_allclose(written, whole, atol=1 / 32767)


# ---------------------------------------------------------------- melody


def median_octaves(engine: ToyEngine) -> float:
    """Median of the melody that the decoder was last given."""
    curve, voiced = engine.pitch[-1]
    return float(np.median(curve[voiced > 0]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 240.0), ({"pitch": 12.0}, 480.0), ({"pitch": -3.0}, 240 * 2**-0.25), ({"keep_pitch": True}, 120.0)],
)
def test_the_melody_moves_into_the_targets_register(
    toy: Converter, toy_engine: ToyEngine, options: dict, expected: float
) -> None:
    toy.convert((speech(2.0, f0=120), SAMPLE_RATE), VOICE, **options)
    assert median_octaves(toy_engine) == pytest.approx(octaves_above_reference(expected), abs=0.03)


def swing(engine: ToyEngine) -> float:
    """Standard deviation of the melody that the decoder was last given, octaves."""
    curve, voiced = engine.pitch[-1]
    return float(np.std(curve[voiced > 0]))


@pytest.mark.parametrize("spread", [0.005, 0.1])
def test_the_melody_swings_more_or_less_as_the_targets(toy: Converter, toy_engine: ToyEngine, spread: float) -> None:
    source = (speech(3.0, f0=120), SAMPLE_RATE)
    toy.convert(source, VOICE)
    plain = swing(toy_engine)
    toy.convert(source, dataclasses.replace(VOICE, log_f0_spread=spread))
    assert (swing(toy_engine) > 1.3 * plain) if spread > plain else (swing(toy_engine) < plain / 1.3)
    assert median_octaves(toy_engine) == pytest.approx(VOICE.log_f0, abs=0.03)
    toy.convert(source, dataclasses.replace(VOICE, log_f0_spread=spread), keep_pitch=True)
    assert swing(toy_engine) == pytest.approx(plain, rel=0.01)


def test_an_embedding_alone_keeps_the_sources_register(toy: Converter, toy_engine: ToyEngine) -> None:
    toy.convert((speech(2.0, f0=120), SAMPLE_RATE), VOICE.embedding)
    assert median_octaves(toy_engine) == pytest.approx(octaves_above_reference(120), abs=0.03)


def test_a_source_without_voice_is_converted(toy: Converter) -> None:
    whisper = 0.05 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    assert len(toy.convert((whisper, SAMPLE_RATE), VOICE)) == OUTPUT_RATE


# ---------------------------------------------------------------- targets


def test_a_voice_has_a_unit_embedding_and_the_clips_register(toy: Converter) -> None:
    voice = toy.voice((speech(2.0, f0=180), SAMPLE_RATE))
    assert np.linalg.norm(voice.embedding) == pytest.approx(1, abs=1e-6)
    assert voice.log_f0 == pytest.approx(octaves_above_reference(180), abs=0.03)


def test_silence_around_a_target_and_its_level_do_not_matter(toy: Converter) -> None:
    wave = speech(2.0)
    pause = np.zeros(SAMPLE_RATE * 2, np.float32)
    padded = np.concatenate([pause, 0.1 * wave, pause])
    same = toy.embed((wave, SAMPLE_RATE)) @ toy.embed((padded, SAMPLE_RATE))
    assert same > 0.999


def test_several_clips_are_averaged_by_their_length(toy: Converter, toy_engine: ToyEngine) -> None:
    long, short = (speech(3.0, f0=110), SAMPLE_RATE), (speech(1.0, f0=230, seed=3), SAMPLE_RATE)
    lengths = [len(audio.trim_silence(*clip)) for clip in (long, short)]
    frames = [features.frame_count(n) // 2 * 2 for n in lengths]
    expected = toy.embed(long) * frames[0] + toy.embed(short) * frames[1]
    both = toy.embed([long, short])
    np.testing.assert_allclose(both, expected / np.linalg.norm(expected), atol=1e-6)


def test_a_folder_is_its_clips(toy: Converter, clips: Path) -> None:
    listed = toy.embed([clips / name for name in ("high.wav", "low.wav", "src.wav")])
    np.testing.assert_array_equal(toy.embed(clips), listed)


def test_a_saved_voice_is_the_voice(toy: Converter, clips: Path, tmp_path: Path) -> None:
    voice = toy.voice(clips / "low.wav")
    voice.save(tmp_path / "low.npz")
    source = clips / "src.wav"
    np.testing.assert_array_equal(toy.convert(source, tmp_path / "low.npz"), toy.convert(source, voice))
    Voice(voice.embedding, None).save(tmp_path / "bare.npz")
    bare = Voice.load(tmp_path / "bare.npz")
    assert bare.log_f0 is bare.log_f0_spread is bare.reference is None


def test_the_decoder_hears_the_targets_speech(toy: Converter, toy_engine: ToyEngine) -> None:
    source, clip = (speech(1.0), SAMPLE_RATE), (speech(2.0, f0=200, seed=4), SAMPLE_RATE)
    toy.convert(source, clip)
    heard = toy_engine.references[-1]
    frames = heard.content.shape[1]
    assert heard.content.shape == (toy_engine.config.content_channels, frames) and frames > 40
    assert heard.mel.shape == (N_MELS, 2 * frames)
    toy.convert(source, toy.embed(clip))
    assert toy_engine.references[-1] is None


def test_a_reference_of_many_clips_is_bounded(
    toy: Converter, toy_engine: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "REFERENCE_FRAMES", 100)
    voice = toy.voice([(speech(1.0, seed=k), SAMPLE_RATE) for k in range(3)])
    assert voice.reference.mel.shape == (N_MELS, 100) and voice.reference.content.shape[1] == 50


@pytest.mark.parametrize("shapes", [((3, 10), (N_MELS, 20)), ((N_MELS, 10), (N_MELS, 10)), ((N_MELS, 0), (N_MELS, 0))])
def test_speech_for_another_model_is_refused(toy: Converter, shapes: tuple) -> None:
    voice = dataclasses.replace(VOICE, reference=Reference(*map(np.zeros, shapes)))
    with pytest.raises(InputError, match="another model"):
        toy.convert((speech(1.0), SAMPLE_RATE), voice)


@pytest.mark.parametrize("embedding", [np.ones(5), np.ones((1, 4)), np.zeros(4), np.full(4, np.nan)])
def test_another_models_embedding_is_refused(toy: Converter, embedding: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"no embedding of this model|not finite"):
        toy.convert((speech(1.0), SAMPLE_RATE), embedding)


def piped(wave: np.ndarray, folder: Path) -> Path:
    """A wave at 16 kHz in a pipe, which can be read once."""
    audio.write(folder / "piped.flac", wave, SAMPLE_RATE)
    reading, writing = os.pipe()
    os.write(writing, (folder / "piped.flac").read_bytes())  # fits into the pipe
    os.close(writing)
    return Path(f"/dev/fd/{reading}")


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="this system has no /dev/fd")
def test_a_clip_is_read_once(toy: Converter, tmp_path: Path) -> None:
    wave = speech(1.5)
    clip = targets.Speech.of(piped(wave, tmp_path))
    np.testing.assert_array_equal(toy.voice([clip]).embedding, toy.voice(tmp_path / "piped.flac").embedding)
    np.testing.assert_array_equal(toy.speech_features(clip)[0], toy.speech_features(tmp_path / "piped.flac")[0])
    enrolment = toy.enrol(piped(wave, tmp_path))
    assert enrolment.loudness == pytest.approx(audio.loudness(wave, SAMPLE_RATE), abs=0.01)


def test_a_target_whose_beginning_is_silent_is_told(toy: Converter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "CLIP_SECONDS", 1.0)
    wave = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), speech(1.0)])
    with pytest.raises(InputError, match="its first 1 s hold no speech: only silence"):
        toy.voice((wave, SAMPLE_RATE))
    with pytest.raises(InputError, match="the wave: only silence"):
        toy.voice((wave[: SAMPLE_RATE // 2], SAMPLE_RATE))


def test_a_result_too_long_for_its_file_is_not_begun(
    toy: Converter, toy_engine: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, tokens = (speech(1.0), SAMPLE_RATE), toy.encode((speech(1.0), SAMPLE_RATE))
    monkeypatch.setattr("vconv.audio.writing._WAV_BYTES", 40000)
    for output in (tmp_path / "out.wav", "-"):
        with pytest.raises(InputError, match="more than a wav file holds"):
            toy.convert_file(source, VOICE, output)
        with pytest.raises(InputError, match="more than a wav file holds"):
            toy.decode_file(tokens, output, VOICE)
    assert not toy_engine.pitch and not list(tmp_path.iterdir())
    toy.convert_file(source, VOICE, tmp_path / "out.flac")


def test_voices_are_not_mixed_with_clips(toy: Converter, clips: Path) -> None:
    with pytest.raises(InputError, match="alone"):
        toy.voice([clips / "low.wav", VOICE])
    with pytest.raises(InputError, match="no target"):
        toy.voice([])


# ---------------------------------------------------------------- extraction


@pytest.mark.parametrize("seconds", [1.0, 45.0])
def test_codes_and_f0_lie_on_one_grid(toy: Converter, seconds: float) -> None:
    wave = np.tile(speech(5.0, f0=140), round(seconds / 5) or 1)[: round(seconds * SAMPLE_RATE)]
    extraction = toy.extract((wave, SAMPLE_RATE))
    frames = features.frame_count(len(wave))
    assert len(extraction.f0) == frames + frames % 2
    assert extraction.codes.shape == (2, len(extraction.f0) // 2)
    assert np.median(extraction.f0[extraction.f0 > 0]) == pytest.approx(140, rel=0.03)


# ---------------------------------------------------------------- streaming is the same as all at once


def spool_of(wave: np.ndarray) -> Spool:
    spool = Spool()
    for block in np.array_split(wave, 7):
        spool.append(block)
    return spool


@pytest.mark.parametrize("memory", [1 << 20, 1000])
def test_a_spool_gives_back_any_stretch(monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    monkeypatch.setattr(streaming, "_MEMORY_BYTES", memory)
    wave = speech(1.0)
    with spool_of(wave) as spool:
        assert len(spool) == len(wave)
        for start, end in ((0, len(wave)), (100, 5000), (-50, 10), (15_900, 99_999), (99_999, 100_000)):
            np.testing.assert_array_equal(spool.read(start, end), wave[max(start, 0) : end])
        np.testing.assert_array_equal(np.concatenate(list(spool.blocks(999))), wave)


@pytest.mark.parametrize(("start", "end"), [(0, 10), (1, 7), (50, 90), (100, 126), (120, 126), (0, 126)])
def test_a_stretch_of_mel_equals_the_whole(start: int, end: int) -> None:
    wave = speech(2.0)[:-13]
    frames = features.frame_count(len(wave))
    assert frames == 125  # one less than the even number that is asked for
    whole = np.pad(features.log_mel(wave * 3), ((0, 0), (0, 1)), constant_values=features.LOG_MEL_MIN)
    with spool_of(wave) as spool:
        np.testing.assert_allclose(streaming.mel_frames(spool, 3.0, start, end), whole[:, start:end], atol=1e-4)


def test_f0_in_stretches_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = PitchTracker()
    wave = np.concatenate([speech(4.0), np.zeros(20000, np.float32), 0.01 * speech(1.0), speech(6.0, f0=150)])[:-100]
    track = tracker.track(wave)
    whole = f0_above(track, voicing_threshold(track[2]))
    monkeypatch.setattr("vconv.frontends.pitch.RUN_FRAMES", 60)
    with spool_of(wave) as spool:
        np.testing.assert_allclose(streaming.f0_curve(spool, 1.0, tracker), whole, rtol=1e-3)


@pytest.mark.parametrize("frames", [2, 60, 124, 126, 1250, 1252, 1300, 2376, 2378, 9998, 225_000])
def test_chunks_cover_everything_and_overlap_alike(frames: int) -> None:
    bounds = streaming.chunk_bounds(frames)
    assert bounds[0][0] == 0 and bounds[-1][1] == frames
    assert all(start % 2 == 0 and end % 2 == 0 for start, end in bounds)
    assert all(left[1] - right[0] == streaming.OVERLAP_FRAMES for left, right in pairwise(bounds))
    lengths = [end - start for start, end in bounds]
    assert max(lengths) <= streaming.CHUNK_FRAMES and max(lengths) - min(lengths) <= 4


def test_crossfading_chunks_of_one_mel_gives_that_mel() -> None:
    mel = np.random.default_rng(0).standard_normal((N_MELS, 4000)).astype(np.float32)
    chunks = [(start, mel[:, start:end]) for start, end in streaming.chunk_bounds(4000)]
    assert len(chunks) > 2
    np.testing.assert_allclose(np.concatenate(list(streaming.crossfade(chunks)), axis=1), mel, atol=1e-5)


def test_a_crossfade_has_no_step() -> None:
    bounds = streaming.chunk_bounds(3000)
    levels = [(start, np.full((N_MELS, end - start), float(i % 2))) for i, (start, end) in enumerate(bounds)]
    joined = np.concatenate(list(streaming.crossfade(levels)), axis=1)
    assert joined.shape == (N_MELS, 3000)
    assert np.abs(np.diff(joined, axis=1)).max() <= 1.01 / streaming.OVERLAP_FRAMES


def test_noise_depends_on_the_position_alone() -> None:
    whole = streaming.noise(0, 40)
    assert whole.shape == (40 * OUTPUT_HOP,) and whole.dtype == np.float32
    assert -1 <= whole.min() < -0.99 and 0.99 < whole.max() < 1
    for start, end in ((0, 1), (1, 2), (7, 31), (39, 40)):
        np.testing.assert_array_equal(streaming.noise(start, end), whole[start * OUTPUT_HOP : end * OUTPUT_HOP])


def melody(frames: int) -> np.ndarray:
    """Pitch input [2, frames] with voiced and unvoiced stretches."""
    time = np.arange(frames)
    return np.stack([0.3 * np.sin(time / 50), time % 40 < 30]).astype(np.float32)


@pytest.mark.parametrize("block", [1, 17, 64, 100, 501])
@pytest.mark.parametrize("fresh", [64, 100])
def test_the_vocoder_in_pieces_equals_the_vocoder_at_once(toy_engine: ToyEngine, block: int, fresh: int) -> None:
    frames = 501
    mel = np.random.default_rng(1).standard_normal((N_MELS, frames)).astype(np.float32)
    pieces = [mel[:, start : start + block] for start in range(0, frames, block)]
    whole = np.concatenate(list(streaming.vocode(toy_engine.vocode, [mel], melody(frames))))
    parts = list(streaming.vocode(toy_engine.vocode, pieces, melody(frames), fresh=fresh, context=16))
    assert len(parts) > 3
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_an_hour_takes_no_more_memory_than_a_minute(
    toy_engine: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In miniature: one minute and four, with the spools on disk."""
    monkeypatch.setattr(streaming, "_MEMORY_BYTES", 1 << 20)
    converter = Converter(toy_engine, toy_engine.config)
    f0 = lambda read, frames: np.full(frames, 120.0, np.float32)  # noqa: E731
    monkeypatch.setattr(converter, "_tracker", SimpleNamespace(f0=f0))
    minute = np.tile(speech(5.0, 8000), 12)
    peaks = []
    for minutes in (1, 4):
        audio.write(tmp_path / "long.wav", np.tile(minute, minutes), 8000)
        toy_engine.pitch.clear()
        tracemalloc.start()
        converter.convert_file(tmp_path / "long.wav", VOICE, tmp_path / "out.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert audio.read(tmp_path / "out.wav")[0].shape == (240 * OUTPUT_RATE,)
    assert peaks[1] < peaks[0] + 3 * 1e6  # F0, melody and phase take some numbers a frame


# ---------------------------------------------------------------- the real networks


@pytest.fixture(params=["small", "base"])
def any_model(request: pytest.FixtureRequest) -> Path:
    """Each model folder that there is."""
    if request.param == "base" and not BASE_MODEL.is_dir():
        pytest.skip("no weights in this checkout yet")
    return BASE_MODEL if request.param == "base" else request.getfixturevalue("small_model")


def test_both_engines_compute_the_same(any_model: Path) -> None:
    pytest.importorskip("torch")
    source, target = (speech(3.0, f0=110), SAMPLE_RATE), (speech(2.0, f0=210, seed=5), SAMPLE_RATE)
    onnx, modules = (vconv.load(any_model, device=device, threads=1) for device in ("cpu", "torch"))
    utterance = Utterance.of(audio.normalize(*source))
    adapter = np.random.default_rng(0).normal(0, 0.1, onnx._config.adapter_shape).astype(np.float32)
    voice = dataclasses.replace(onnx.voice(target), adapter=adapter)
    np.testing.assert_allclose(modules.embed(target), voice.embedding, atol=1e-5)
    mels = []
    for engine in (onnx._engine, modules._engine):
        content = engine.content(utterance).content
        mels.append(engine.decode(content, melody(utterance.frames), voice).mel)
    assert np.abs(mels[0] - mels[1]).max() < 1e-3
    waves = [converter.convert(source, target) for converter in (onnx, modules)]
    error = np.square(waves[0] - waves[1]).mean()
    assert 10 * np.log10(np.square(waves[0]).mean() / error) > 60


def test_the_real_vocoder_in_pieces_equals_it_at_once(any_model: Path) -> None:
    engine = vconv.load(any_model, threads=1)._engine
    frames = 700
    rng = np.random.default_rng(2)
    mel = (rng.standard_normal((N_MELS, frames)) - 5).astype(np.float32)
    whole = np.concatenate(list(streaming.vocode(engine.vocode, [mel], melody(frames))))
    parts = np.concatenate(list(streaming.vocode(engine.vocode, [mel], melody(frames), fresh=200)))
    assert np.square(whole - parts).mean() < 1e-9 * np.square(whole).mean()


def test_silence_at_the_end_stays_silent(any_model: Path) -> None:
    engine = vconv.load(any_model, threads=1)._engine
    mel = np.full((N_MELS, 120), LOG_MEL_MIN, np.float32)
    mel[:, :60] = np.random.default_rng(3).standard_normal((N_MELS, 60)) - 4
    wave = np.concatenate(list(streaming.vocode(engine.vocode, [mel], melody(120))))
    assert len(wave) == 120 * OUTPUT_HOP
    quiet = wave[-30 * OUTPUT_HOP :]
    assert np.abs(quiet[-OUTPUT_HOP // 2 :]).max() < 2 * np.abs(quiet[: -OUTPUT_HOP // 2]).max()


@pytest.mark.skipif(not BASE_MODEL.is_dir(), reason="no weights in this checkout yet")
def test_the_shipped_weights_move_a_voice_to_its_target() -> None:
    converter = vconv.load(threads=1)
    result = converter.convert((speech(3.0, f0=110), SAMPLE_RATE), (speech(3.0, f0=220, seed=5), SAMPLE_RATE))
    f0 = PitchTracker()(audio.resample(result, OUTPUT_RATE, SAMPLE_RATE))
    assert np.median(f0[f0 > 0]) == pytest.approx(220, rel=0.05)


# ---------------------------------------------------------------- the package


def test_the_package_exports_its_functions_lazily() -> None:
    assert {"load", "Converter", "convert", "embed", "encode", "train", "evaluate"} <= set(vconv.__all__)
    assert all(callable(getattr(vconv, name)) for name in vconv.__all__ if name != "__version__")
    assert vconv.Converter is Converter
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vconv.nothing  # noqa: B018
    heavy = "numpy soundfile soxr onnxruntime torch rich".split()  # noqa: SIM905
    code = f"import sys, vconv, vconv.cli; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert run.stdout.strip() == "[]"


def test_conversion_imports_no_torch(model: Path, clips: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import vconv\n"
        f"wave = vconv.load({str(model)!r}).convert({str(clips / 'src.wav')!r}, {str(clips / 'low.wav')!r})\n"
        "print(len(wave))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert run.stdout.strip() == str(round(1.2 * OUTPUT_RATE))
