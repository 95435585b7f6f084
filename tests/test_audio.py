"""Reading, resampling, loudness, trimming and writing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import speech
from vconv import audio
from vconv.errors import InputError, VconvError


def tone(samples: int, rate: int, frequency: float = 440.0, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 4801, 300_000])
def test_resampled_length_is_exact_in_blocks_and_at_once(rate: int, samples: int) -> None:
    wave = tone(samples, rate)
    expected = round(samples * 16000 / rate)
    whole = audio.resample(wave, rate, 16000)
    in_blocks, out_rate = audio.read((wave, rate), 16000)
    assert out_rate == 16000
    assert abs(len(whole) - expected) <= (samples * 16000 * 2 % rate == 0)  # round() takes halves to even
    assert len(in_blocks) == len(whole) == audio.scaled_length(samples, rate, 16000)
    np.testing.assert_allclose(in_blocks, whole, atol=1e-6)


def test_resampling_keeps_a_tone() -> None:
    wave = audio.resample(tone(44100, 44100, 1000.0), 44100, 16000)
    np.testing.assert_allclose(wave[500:-500], tone(16000, 16000, 1000.0)[500:-500], atol=1e-4)


@pytest.mark.parametrize(
    ("suffix", "subtype", "channels", "rate"),
    [
        (".wav", "PCM_16", 1, 8000),
        (".wav", "PCM_U8", 1, 16000),
        (".wav", "PCM_24", 2, 44100),
        (".wav", "FLOAT", 6, 48000),
        (".wav", "DOUBLE", 1, 96000),
        (".flac", "PCM_16", 2, 44100),
        (".ogg", "VORBIS", 2, 44100),
        (".opus", "OPUS", 1, 48000),
        (".mp3", "MPEG_LAYER_III", 2, 44100),
        (".aiff", "PCM_16", 1, 22050),
    ],
)
def test_reads_what_libsndfile_reads(tmp_path: Path, suffix: str, subtype: str, channels: int, rate: int) -> None:
    path = tmp_path / f"clip{suffix}"
    wave = speech(0.5, rate)
    container = {".ogg": "OGG", ".opus": "OGG"}.get(suffix)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate, subtype, format=container)
    read, read_rate = audio.read(path)
    assert (read_rate, read.dtype, read.shape) == (rate, np.float32, wave.shape)
    lossy = subtype in ("VORBIS", "OPUS", "MPEG_LAYER_III")
    assert np.corrcoef(read, wave)[0, 1] > (0.95 if lossy else 0.995)


def test_channels_are_averaged() -> None:
    stereo = np.stack([tone(1000, 16000), -tone(1000, 16000) + 0.5], axis=1)
    np.testing.assert_allclose(audio.read((stereo, 16000))[0], 0.25, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float64])
def test_samples_of_any_type_in_memory(dtype: type) -> None:
    wave = tone(1000, 16000, amplitude=0.5)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        middle = 0 if limits.min else 128
        given = np.round(wave.astype(np.float64) * (limits.max - middle) + middle).astype(dtype)
    else:
        given = wave.astype(dtype)
    np.testing.assert_allclose(audio.read((given, 16000))[0], wave, atol=0.01)


def test_a_reader_starts_over_with_every_iteration(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tone(200_000, 16000), 16000)
    reader = audio.BlockReader(tmp_path / "a.wav", 24000)
    first, second = np.concatenate(list(reader)), np.concatenate(list(reader))
    assert reader.source_samples == 200_000
    np.testing.assert_array_equal(first, second)


def test_loudness_of_a_tone_does_not_count_pauses() -> None:
    wave = tone(16000, 16000)
    expected = 20 * np.log10(0.1 / np.sqrt(2))
    assert audio.loudness(wave, 16000) == pytest.approx(expected, abs=0.01)
    paused = np.concatenate([np.zeros(16000), wave, np.zeros(16000)]).astype(np.float32)
    assert audio.loudness(paused, 16000) == pytest.approx(expected, abs=0.01)


def test_loudness_in_blocks_equals_loudness_at_once() -> None:
    wave = speech(2.0)
    meter = audio.LoudnessMeter(16000)
    for block in np.array_split(wave, [7, 1000, 1003, 20_001]):
        meter.add(block)
    assert meter.loudness() == pytest.approx(audio.loudness(wave, 16000), abs=1e-9)


@pytest.mark.parametrize("factor", [0.01, 1.0, 30.0])
def test_normalize_brings_any_level_to_the_reference(factor: float) -> None:
    normal = audio.normalize(speech(1.0) * np.float32(factor), 16000)
    assert audio.loudness(normal, 16000) == pytest.approx(audio.REFERENCE_LOUDNESS_DB, abs=0.01)


def test_silence_stays_as_it_is() -> None:
    silence = np.zeros(16000, np.float32)
    assert audio.loudness(silence, 16000) == -np.inf
    np.testing.assert_array_equal(audio.normalize(silence, 16000), silence)
    assert len(audio.trim_silence(silence, 16000)) == 0


def test_trim_takes_the_silence_around_and_leaves_the_pauses() -> None:
    rng = np.random.default_rng(0)
    hiss = lambda seconds: (1e-5 * rng.standard_normal(round(seconds * 16000))).astype(np.float32)  # noqa: E731
    word = tone(8000, 16000)
    trimmed = audio.trim_silence(np.concatenate([hiss(1.0), word, hiss(0.7), word, hiss(2.0)]), 16000)
    expected = 8000 + 0.7 * 16000 + 8000 + 2 * audio.TRIM_MARGIN * 16000
    assert abs(len(trimmed) - expected) <= 2 * 0.025 * 16000


@pytest.mark.parametrize("suffix", audio.WRITE_FORMATS)
def test_write_then_read_gives_the_same_length_and_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix.upper()}"
    wave = speech(3.0, 24000)[:-7]
    audio.write(path, wave, 24000)
    read, rate = audio.read(path)
    assert (rate, len(read)) == (24000, len(wave))
    assert np.corrcoef(read, wave)[0, 1] > 0.97
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_signal_while_the_file_is_opened_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(soundfile, "SoundFile", interrupted)
    with pytest.raises(SystemExit):
        audio.AudioWriter(tmp_path / "out.wav", 24000)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    audio.write(path, tone(1000, 24000), 24000)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), audio.AudioWriter(path, 24000) as writer:
        writer.write(tone(100_000, 24000))
        1 / 0  # noqa: B018
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_samples_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    for wrong in (np.nan, np.inf):
        with pytest.raises(VconvError, match=r"out\.wav: samples that are not finite"):
            audio.write(tmp_path / "out.wav", np.float32([0.0, wrong]), 24000)
    assert not list(tmp_path.iterdir())


def test_what_is_too_long_for_wav_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day, more = 24 * 3600 * 24000, 25 * 3600 * 24000
    for name, samples in (("a.wav", day), ("-", day), ("a.flac", more)):
        audio.check_fits(name, samples, 24000)
    for name, told in (("a.WAV", "a.WAV"), ("-", "standard output")):
        with pytest.raises(InputError, match=rf"{told}: 25\.0 h are more than a wav file holds; write a \.flac"):
            audio.check_fits(name, more, 24000)
    monkeypatch.setattr("vconv.audio.writing._WAV_BYTES", 2 * 1500 + 44)
    for name in ("a.wav", "a.flac"):
        with audio.AudioWriter(tmp_path / name, 24000) as writer:
            writer.write(tone(1500, 24000))
    with (
        pytest.raises(InputError, match="more than a wav file holds"),
        audio.AudioWriter(tmp_path / "b.wav", 24000) as writer,
    ):
        writer.write(tone(1000, 24000))
        writer.write(tone(501, 24000))
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "a.flac"}


def test_a_new_file_gets_usual_permissions(tmp_path: Path) -> None:
    audio.write(tmp_path / "out.wav", tone(1000, 24000), 24000)
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(VconvError, match=r"out\.wav: writing failed.*No space left") as caught:
        audio.write(tmp_path / "out.wav", tone(1000, 24000), 24000)
    assert not isinstance(caught.value, InputError)
    assert not list(tmp_path.iterdir())


def test_find_audio_is_sorted_recursive_and_ignores_the_rest(tmp_path: Path) -> None:
    for name in ("b.wav", "sub/a.FLAC", "sub/deep/c.mp3", "notes.txt", ".hidden.wav", ".cache/d.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [path.relative_to(tmp_path).as_posix() for path in audio.find_audio(tmp_path)]
    assert names == ["b.wav", "sub/a.FLAC", "sub/deep/c.mp3"]
