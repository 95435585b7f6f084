"""Speech to tokens and back: what a file keeps, what text keeps, and what decoding makes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import vconv
from tests.conftest import REPOSITORY, Cli, ToyEngine, speech
from tests.test_cli import files_in
from vconv import audio, features
from vconv.config import BottleneckConfig
from vconv.errors import InputError
from vconv.features import F0_MIN, FRAME_RATE, OUTPUT_HOP, OUTPUT_RATE, SAMPLE_RATE
from vconv.inference import Converter
from vconv.inference.utterance import Utterance
from vconv.tokens import Tokens
from vconv.tokens.melody import KNOT_FRAMES, STEPS, Melody
from vconv.tokens.tokens import Size
from vconv.voice import Voice

CENTS = 1200
EXAMPLE = REPOSITORY / "examples" / "source.flac"


def random_tokens(seed: int) -> Tokens:
    """Any codes, any melody, any length."""
    rng = np.random.default_rng(seed)
    rows, bits, frames = int(rng.integers(1, 6)), int(rng.integers(1, 17)), int(rng.integers(10, 300))
    codes = rng.integers(0, 1 << bits, (rows, frames))
    codes = np.repeat(codes, rng.integers(1, 4, frames), axis=1)[:, :frames]  # with runs
    f0 = rng.uniform(F0_MIN, 790, 2 * frames) * (
        np.repeat(rng.random(2 * frames // 5 + 1), 5)[: 2 * frames] < seed / 20
    )
    return Tokens(
        codes=codes,
        melody=Melody.of(f0),
        samples=2 * frames * OUTPUT_HOP - int(rng.integers(0, 2 * OUTPUT_HOP)),
        loudness=round(float(rng.uniform(-70, 3)), 2),
        embedding=rng.integers(-127, 128, int(rng.integers(2, 300))).astype(np.int8),
        model=rng.bytes(8),
        bits=bits,
    )


def assert_same(one: Tokens, other: Tokens) -> None:
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.melody.voiced, other.melody.voiced)
    np.testing.assert_array_equal(one.melody.knots, other.melody.knots)
    np.testing.assert_array_equal(one.embedding, other.embedding)
    for name in ("samples", "loudness", "model", "bits"):
        assert getattr(one, name) == getattr(other, name)


# ---------------------------------------------------------------- file


@pytest.mark.parametrize("seed", range(10))
def test_a_file_gives_back_what_was_put_in(seed: int, tmp_path: Path) -> None:
    tokens = random_tokens(seed)
    tokens.save(tmp_path / "a.tokens")
    assert_same(Tokens.load(tmp_path / "a.tokens"), tokens)
    assert tokens.size.tokens == tokens.codes.size * tokens.bits


def test_numpy_reads_a_file(tmp_path: Path) -> None:
    tokens = random_tokens(1)
    tokens.save(tmp_path / "a.tokens")
    with np.load(tmp_path / "a.tokens", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["codes"], tokens.codes)
        assert int(arrays["samples"]) == tokens.samples


def test_a_file_on_disk(toy: Converter, clips: Path, tmp_path: Path) -> None:
    tokens = toy.encode(clips / "src.wav")
    tokens.save(tmp_path / "a.tokens")
    loaded = Tokens.load(tmp_path / "a.tokens")
    assert_same(loaded, tokens)
    np.testing.assert_array_equal(toy.decode(loaded), toy.decode(tokens))
    np.testing.assert_array_equal(toy.decode(tmp_path / "a.tokens"), toy.decode(tokens))
    assert files_in(tmp_path) == {"a.tokens", *(f"clips/{name}.wav" for name in ("src", "low", "high"))}


def test_a_day_can_be_saved_and_more_is_not_begun(
    toy: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = round(24 * 3600 * FRAME_RATE)
    tokens = Tokens(np.zeros((1, frames // 2), np.int64), Melody.of(np.zeros(frames)), frames * OUTPUT_HOP, bits=1)
    tokens.save(tmp_path / "a.tokens")
    assert Tokens.load(tmp_path / "a.tokens").samples == tokens.samples
    monkeypatch.setattr("vconv.inference.checks.MAX_FRAMES", 20)
    with pytest.raises(InputError, match="longer than 24 h"):
        toy.encode((speech(1.0), SAMPLE_RATE))


def test_tokens_without_voice_or_model_can_be_saved(tmp_path: Path) -> None:
    dataclasses.replace(random_tokens(3), embedding=None, model=None).save(tmp_path / "a.tokens")
    again = Tokens.load(tmp_path / "a.tokens")
    assert again.embedding is None and again.model is None


@pytest.mark.parametrize("count", [0, 3, 20, 36, 60, -60, -9, -1])
def test_a_file_that_was_cut_off(count: int, tmp_path: Path) -> None:
    random_tokens(1).save(tmp_path / "a.tokens")
    (tmp_path / "a.tokens").write_bytes((tmp_path / "a.tokens").read_bytes()[:count])
    with pytest.raises(InputError, match=r"a\.tokens: holds no tokens \(.*vconv encode"):
        Tokens.load(tmp_path / "a.tokens")


def test_no_damaged_byte_changes_what_is_read(tmp_path: Path) -> None:
    tokens, path = random_tokens(7), tmp_path / "a.tokens"
    tokens.save(path)
    data = path.read_bytes()
    refused = 0
    for place in range(0, len(data), 11):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            assert_same(Tokens.load(path), tokens)  # where the archive does not use the byte, as a date
        except InputError:
            refused += 1
    assert refused > len(data) / 11 / 2


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"codes": np.zeros((2, 40), np.float32)}, "codes is float32"),
        ({"codes": np.full((2, 40), 8, np.uint16)}, "codes out of range"),
        ({"bits": np.uint8(40)}, "codes out of range"),
        ({"codes": np.zeros((2, 41), np.uint16)}, "unlike in length"),
        ({"codes": np.zeros((33, 40), np.uint16)}, "codes is 33 x 40"),
        ({"voiced": np.zeros(80, np.bool_)}, "unlike in length"),
        ({"samples": np.int64(1 << 60)}, "unlike in length"),
        ({"samples": np.zeros(0, np.int64)}, "samples is int64"),
        ({"embedding": np.zeros(2000, np.int8)}, "embedding is 2000"),
        ({"knots": None}, "no knots"),
        ({"codes": np.array([[None]])}, "codes holds object"),
    ],
)
def test_an_archive_with_other_arrays_is_refused(changed: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
    melody = Melody.of(np.full(80, 150.0))
    Tokens(np.full((2, 40), 7), melody, 40 * 2 * OUTPUT_HOP, bits=3).save(tmp_path / "a.tokens")
    Tokens.load(tmp_path / "a.tokens")
    arrays = dict(np.load(tmp_path / "a.tokens")) | changed
    with (tmp_path / "a.tokens").open("wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match="holds no tokens") as error:
        Tokens.load(tmp_path / "a.tokens")
    assert reason in str(error.value)


def test_what_is_no_units_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Tokens.load(tmp_path / "none.tokens")
    (tmp_path / "a.tokens").write_text("text")
    with pytest.raises(InputError, match=r"a\.tokens: holds no tokens .*; make it with `vconv encode`"):
        Tokens.load(tmp_path / "a.tokens")
    with pytest.raises(InputError, match="Is a directory"):
        Tokens.load(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        random_tokens(0).save(tmp_path / "none" / "a.tokens")


# ---------------------------------------------------------------- melody


def test_a_melody_is_kept_to_a_few_cents() -> None:
    time = np.arange(400) / FRAME_RATE
    f0 = (150 * 2 ** (0.4 * np.sin(2 * np.pi * 1.5 * time))).astype(np.float32)
    f0[50:70] = f0[200:203] = f0[333:] = 0
    melody = Melody.of(f0)
    np.testing.assert_array_equal(melody.voiced, f0 > 0)
    error = np.abs(CENTS * np.log2(melody.f0[f0 > 0] / f0[f0 > 0]))
    assert error.max() < 2 * CENTS / STEPS and error.mean() < CENTS / STEPS / 2
    assert not melody.f0[f0 == 0].any()
    assert len(melody.knots) <= (np.count_nonzero(f0) + 5 * KNOT_FRAMES) / KNOT_FRAMES


@pytest.mark.parametrize("f0", [F0_MIN, features.F0_MAX])
def test_a_melody_reaches_the_ends_of_the_range(f0: float) -> None:
    assert Melody.of(np.full(9, f0, np.float32)).f0 == pytest.approx(f0, rel=2 ** (1 / STEPS) - 1)


def test_a_melody_without_voice() -> None:
    melody = Melody.of(np.zeros(20, np.float32))
    assert not melody.f0.any() and len(melody.f0) == 20 and not len(melody.knots)


def test_a_melody_over_another_length() -> None:
    f0 = np.where(np.arange(100) < 50, 0, np.linspace(100, 200, 100)).astype(np.float32)
    melody = Melody.of(f0)
    assert melody.stretched(100) is melody
    longer = melody.stretched(300)
    assert len(longer.voiced) == 300 and not longer.voiced[:150].any() and longer.voiced[150:].all()
    assert longer.f0[225] == pytest.approx(f0[75], rel=0.03)


# ---------------------------------------------------------------- text


@pytest.mark.parametrize("seed", range(10))
def test_text_gives_back_the_codes(seed: int, tmp_path: Path) -> None:
    tokens = random_tokens(seed)
    np.testing.assert_array_equal(Tokens.from_text(tokens.text).codes, tokens.codes)
    tokens.save_text(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().count("\n") == 1
    assert_same(Tokens.load_text(tmp_path / "a.txt", like=tokens), dataclasses.replace(tokens))


def test_text_reads_as_documented() -> None:
    codes = np.array([[12, 12, 12, 7, 7, 7], [301, 301, 301, 301, 44, 44]])
    tokens = dataclasses.replace(random_tokens(0), codes=codes)
    assert tokens.text == "a12.b301*3 a7.b301 a7.b44*2"
    assert Tokens.from_text("\n a12.b301*2   a12.b301 a7.b301\ta7.b44 a7.b44\n\n").text == tokens.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 lines"),
        ("a1.b2\na1.b2", "2 lines"),
        ("a1.b2 hello", "'hello' is no token"),
        ("a1.c2", "'a1.c2' is no token"),
        ("b1.a2", "is no token"),
        ("a1.b2*", "is no token"),
        ("a-1.b2", "is no token"),
        ("a1.b2 a1", "'a1' has 1 codes, 'a1.b2' has 2"),
        ("a1.b65536", "above 65535"),
        ("a1*0", "0 frames"),
        ("a1*999999999", "999999999 frames"),
        ("a\u0661.b2", "is no token"),
    ],
)
def test_what_is_no_text_of_units(text: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        Tokens.from_text(text, name="x.txt")
    assert str(error.value).startswith("x.txt: ") and reason in str(error.value)


def test_a_frame_with_more_codes_than_letters() -> None:
    with pytest.raises(InputError, match="27 codes a frame"):
        _ = dataclasses.replace(random_tokens(0), codes=np.zeros((27, 20), np.int64)).text


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="is no text"):
        Tokens.load_text(tmp_path / "a.txt")


def test_text_takes_melody_and_voice_from_units(toy: Converter) -> None:
    tokens = toy.encode((speech(2.0), SAMPLE_RATE))
    again = Tokens.from_text(tokens.text, like=tokens)
    np.testing.assert_array_equal(toy.decode(again), toy.decode(tokens))
    assert Tokens.from_text("a600.b1*40", like=tokens).bits == 10
    longer = Tokens.from_text(f"{tokens.text} {tokens.text}", like=tokens)
    assert len(toy.decode(longer)) == 4 * tokens.codes.shape[1] * OUTPUT_HOP


def test_text_alone_has_a_flat_melody_in_the_voices_register(toy: Converter, toy_engine: ToyEngine) -> None:
    text = toy.encode((speech(2.0), SAMPLE_RATE)).text
    with pytest.raises(InputError, match="holds no voice; give one"):
        toy.decode(Tokens.from_text(text))
    voice = Voice(np.array([1, 0, 0, 0], np.float32), 0.25)
    assert len(toy.decode(Tokens.from_text(text), voice)) == 2 * OUTPUT_RATE // OUTPUT_HOP * OUTPUT_HOP + OUTPUT_HOP
    curve, voiced = toy_engine.pitch[-1]
    assert voiced.all() and curve == pytest.approx(0.25, abs=1 / STEPS)


# ---------------------------------------------------------------- speech


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("extra", [0, 1, 173, 400])
def test_decoded_speech_is_as_long_and_as_loud_as_the_source(toy: Converter, rate: int, extra: int) -> None:
    wave = 0.3 * speech(1.0, rate)
    wave = np.concatenate([wave, wave[:extra]])
    tokens = toy.encode((wave, rate))
    result = toy.decode(tokens)
    assert result.dtype == np.float32 and len(result) == audio.scaled_length(len(wave), rate, OUTPUT_RATE)
    assert audio.loudness(result, OUTPUT_RATE) == pytest.approx(audio.loudness(wave, rate), abs=0.06)


def test_long_speech_in_stretches(toy: Converter, toy_engine: ToyEngine, tmp_path: Path) -> None:
    source = (np.tile(speech(5.0), 5), SAMPLE_RATE)
    tokens = toy.encode(source)
    assert tokens.codes.shape == (2, 25 * 125 // 4 + 1)
    np.testing.assert_array_equal(tokens.codes, toy.extract(source).codes)
    toy_engine.pitch.clear()
    blocks = list(toy.decode_stream(tokens))
    assert len(toy_engine.pitch) == 2  # never all at once
    done: list[float] = []
    assert toy.decode_file(tokens, tmp_path / "a.wav", progress=done.append) == sum(done) == 25.0
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], np.concatenate(blocks), atol=1 / 32767)


def test_the_voice_of_units_is_the_speakers(toy: Converter) -> None:
    source = (speech(3.0, f0=180), SAMPLE_RATE)
    voice, known = toy.encode(source).voice, toy.voice(source)
    assert voice.embedding @ known.embedding > 0.999
    assert voice.log_f0 == pytest.approx(known.log_f0, abs=0.02)
    assert voice.log_f0_spread == pytest.approx(known.log_f0_spread, abs=0.02)


def test_pauses_do_not_change_the_voice(toy: Converter) -> None:
    wave, pause = speech(3.0), np.zeros(12 * SAMPLE_RATE, np.float32)
    plain = toy.encode((wave, SAMPLE_RATE)).voice
    padded = toy.encode((np.concatenate([pause, wave, pause]), SAMPLE_RATE)).voice
    assert plain.embedding @ padded.embedding > 0.995


def test_a_source_without_voiced_speech(toy: Converter) -> None:
    whisper = 0.05 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    tokens = toy.encode((whisper, SAMPLE_RATE))
    assert not tokens.melody.f0.any() and tokens.voice.log_f0 is None
    assert len(toy.decode(tokens)) == OUTPUT_RATE


def test_the_melody_moves_with_the_target_and_the_options(toy: Converter, toy_engine: ToyEngine) -> None:
    tokens = toy.encode((speech(2.0, f0=120), SAMPLE_RATE))
    voice = Voice(np.array([1, 0, 0, 0], np.float32), float(np.log2(240 / 200)))
    options = [(None, {}, 120), (voice, {}, 240), (voice, {"keep_pitch": True}, 120), (None, {"pitch": 12.0}, 240)]
    for target, chosen, expected in options:
        toy.decode(tokens, target, **chosen)
        curve, voiced = toy_engine.pitch[-1]
        assert 200 * 2 ** np.median(curve[voiced > 0]) == pytest.approx(expected, rel=0.02)


def test_refused_units(toy: Converter, toy_engine: ToyEngine) -> None:
    tokens = toy.encode((speech(1.0), SAMPLE_RATE))
    other = Converter(toy_engine, toy_engine.config, identity="other")
    with pytest.raises(InputError, match="was encoded with another model; name that one with --model"):
        other.decode(tokens)
    assert_refused = [
        (dataclasses.replace(tokens, codes=tokens.codes[:1]), "has 1 codes a frame, this model has 2"),
        (dataclasses.replace(tokens, codes=tokens.codes + 30), "this model's end at 39"),
        (Tokens.from_text("a1.b1*5", like=tokens), "too short"),
    ]
    for wrong, reason in assert_refused:
        with pytest.raises(InputError, match=reason):
            toy.decode(wrong)


def test_a_model_with_a_table_of_speakers_tells_no_voice(toy_engine: ToyEngine) -> None:
    config = dataclasses.replace(toy_engine.config, speaker="table", speakers=("anna", "bert"))
    converter = Converter(toy_engine, config)
    tokens = converter.encode((speech(1.0), SAMPLE_RATE))
    with pytest.raises(InputError, match="holds no voice; give one"):
        converter.decode(tokens)
    assert len(converter.decode(tokens, Voice(np.array([1, 0, 0, 0], np.float32), None))) == OUTPUT_RATE


@pytest.mark.parametrize("kind", ["identity", "sparse", "vae"])
def test_a_model_without_codes(toy_engine: ToyEngine, kind: str) -> None:
    tokens = Converter(toy_engine, toy_engine.config).encode((speech(1.0), SAMPLE_RATE))
    config = dataclasses.replace(toy_engine.config, bottleneck=BottleneckConfig(kind=kind))
    plain = Converter(toy_engine, config)
    assert not plain.has_codes
    with pytest.raises(InputError, match=f"no codes, as its bottleneck is '{kind}'"):
        plain.encode((speech(1.0), SAMPLE_RATE))
    with pytest.raises(InputError, match="no codes"):
        plain.decode(tokens)


# ---------------------------------------------------------------- with networks


def test_codes_stand_for_the_content_in_both_engines(small_model: Path) -> None:
    for device in ("cpu", "torch"):
        engine = vconv.load(small_model, device, threads=1)._engine
        encoded = engine.content(Utterance.of(speech(2.0)))
        np.testing.assert_allclose(engine.content_of(encoded.codes), encoded.content, atol=1e-6)


def test_the_graph_of_the_units_fits_the_model_that_came_along(model: Path) -> None:
    """Each file of the folder is replaced by itself: here one could be left behind."""
    pytest.importorskip("torch")
    onnx, modules = (vconv.load(model, device, threads=1)._engine for device in ("cpu", "torch"))
    codes = onnx.content(Utterance.of(speech(1.0))).codes
    np.testing.assert_allclose(onnx.content_of(codes), modules.content_of(codes), atol=1e-5)


def test_units_of_a_recording_are_small_and_decode_to_its_conversion(model: Path) -> None:
    converter = vconv.load(model, threads=1)
    tokens = converter.encode(EXAMPLE)
    coarse = converter.encode(EXAMPLE, stages=1)
    for size, rate in ((tokens.size, 1500), (coarse.size, 900)):
        assert (size.tokens + size.melody) / tokens.seconds < rate
    voice = converter.voice(REPOSITORY / "examples" / "target.flac")
    converted, decoded = converter.convert(EXAMPLE, voice), converter.decode(tokens, voice)
    assert len(decoded) == len(converted)
    mels = [features.log_mel(audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE)) for wave in (converted, decoded)]
    source = features.log_mel(audio.read(EXAMPLE, SAMPLE_RATE)[0])
    away = np.abs(mels[0] - source).mean()
    assert np.abs(mels[1] - mels[0]).mean() < min(0.3, away / 3)


def test_weights_tell_models_of_one_shape_apart(small_model: Path) -> None:
    torch = pytest.importorskip("torch")
    from vconv.model_folder import read_identity
    from vconv.models import saved

    conversion, _ = saved.load(small_model)
    assert read_identity(small_model) == saved.digest(conversion)
    with torch.no_grad():
        conversion.decoder.output.bias += 0.5
    assert read_identity(small_model) != saved.digest(conversion)


# ---------------------------------------------------------------- the commands


def test_encode_and_decode_files(vconv_cli: Cli, clips: Path, small_model: Path) -> None:
    done = vconv_cli("encode", clips / "src.wav", "--model", small_model)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{clips / 'src.tokens'}: 1.2 s of audio in ") and "bit/s: tokens 5" in done.out
    done = vconv_cli("decode", clips / "src.tokens", "--model", small_model)
    assert (done.code, done.err) == (0, "") and str(clips / "src_decoded.wav") in done.out
    wave, rate = audio.read(clips / "src_decoded.wav")
    assert (rate, len(wave)) == (OUTPUT_RATE, round(1.2 * OUTPUT_RATE))
    done = vconv_cli("decode", clips / "src.tokens", "--model", small_model)
    assert done.code == 2 and "--overwrite" in done.error
    done = vconv_cli("decode", clips / "src.tokens", "--model", small_model, "--overwrite", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_decoded_speech_on_standard_output(vconv_cli: Cli, clips: Path, small_model: Path) -> None:
    sources = [clips / f"{name}.wav" for name in ("src", "low")]
    assert vconv_cli("encode", *sources, "--model", small_model, "--quiet").code == 0
    tokens = [source.with_suffix(".tokens") for source in sources]
    done = vconv_cli("decode", tokens[0], "-o", "-", "--model", small_model)
    assert done.code == 0 and done.out.startswith("RIFF") and "of audio" not in done.out
    done = vconv_cli("decode", *tokens, "-o", "-", "--model", small_model)
    assert done.code == 2 and "standard output: holds one result" in done.error


def test_folders_and_a_bad_file(vconv_cli: Cli, clips: Path, small_model: Path, tmp_path: Path) -> None:
    (clips / "bad.wav").write_text("no audio")
    done = vconv_cli("encode", clips, "-o", tmp_path / "tokens", "--model", small_model)
    assert done.code == 2 and "bad.wav" in done.error
    assert done.out.startswith("3 files: 3.7 s of audio in ")
    assert files_in(tmp_path / "tokens") == {"src.tokens", "low.tokens", "high.tokens"}
    (tmp_path / "tokens" / "low.tokens").write_bytes(b"vcun")
    (tmp_path / "tokens" / "notes.wav").write_text("no tokens")
    options = ["-t", clips / "high.wav", "-o", tmp_path / "out", "--model", small_model]
    done = vconv_cli("decode", tmp_path / "tokens", *options)
    assert done.code == 2 and "low.tokens" in done.error
    assert files_in(tmp_path / "out") == {"src_decoded.wav", "high_decoded.wav"}
    (tmp_path / "empty").mkdir()
    assert "no .tokens files" in vconv_cli("decode", tmp_path / "empty", *options).error


def test_text_on_the_command_line(vconv_cli: Cli, clips: Path, small_model: Path) -> None:
    (clips / "src.txt").write_text("the transcript")
    for options in ((), ("--text",)):
        assert vconv_cli("encode", clips / "src.wav", "--model", small_model, *options).code == 0
    assert (clips / "src.txt").read_text() == "the transcript"
    line = (clips / "src_tokens.txt").read_text()
    assert line == f"{Tokens.load(clips / 'src.tokens').text}\n"
    source, tokens = clips / "src_tokens.txt", clips / "src.tokens"
    done = vconv_cli("decode", source, "--model", small_model)
    assert done.code == 2 and "--like" in done.error and "src_tokens.txt" in done.error
    for place, options in ((source, ("--like", tokens)), (tokens, ())):
        done = vconv_cli("decode", place, *options, "-o", place.with_suffix(".flac"), "--model", small_model)
        assert done.code == 0, done.err
    np.testing.assert_allclose(*(audio.read(p.with_suffix(".flac"))[0] for p in (source, tokens)), atol=2 / 32768)
    done = vconv_cli("decode", source, "-t", clips / "low.wav", "-o", clips / "flat.wav", "--model", small_model)
    assert done.code == 0, done.err
    done = vconv_cli("decode", tokens, "--like", tokens, "-o", clips / "x.wav", "--model", small_model)
    assert done.code == 2 and "--like is for text" in done.error


def test_other_names_for_outputs(vconv_cli: Cli, clips: Path, small_model: Path) -> None:
    done = vconv_cli("encode", clips / "src.wav", "-o", clips / "a.npz", "--model", small_model)
    assert done.code == 2 and "is written as .tokens" in done.error
    done = vconv_cli("encode", clips / "src.wav", "--text", "-o", clips / "a.tokens", "--model", small_model)
    assert done.code == 2 and "is written as .txt" in done.error
    assert files_in(clips) == {"src.wav", "low.wav", "high.wav"}


def test_sizes_of_several_files_add_up() -> None:
    total = Size.total([Size(1.0, 500, 200, 1000), Size(3.0, 1500, 600, 1000)])
    assert (total.seconds, total.files, total.bits_per_second) == (4.0, 2, 1200.0)
    assert str(total) == "1200 bit/s: tokens 500, melody 200, and 1000 bits once a file for the voice"
