"""Recordings that are no good, and what is said of them: rates, offsets, cut-off files, channels that cancel out."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import speech
from vconv import audio
from vconv.audio.reading import READ_BLOCK
from vconv.errors import AudioWarning, InputError

RATE = 16000


def write(path: Path, wave: np.ndarray, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, wave, rate, **options)
    return path


@pytest.mark.parametrize("rate", [1, 50, 999])
def test_rates_of_no_speech_are_refused(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "slow.wav", speech(1.0), rate)
    with pytest.raises(InputError, match=f"{rate} Hz is no sample rate of speech"):
        audio.BlockReader(path, RATE)
    with pytest.raises(InputError, match="8000 Hz or more"):
        audio.read((speech(1.0), rate))


@pytest.mark.parametrize("rate", [float("nan"), "16000", None, 16000.5, float("inf"), 10**12, -1])
def test_rates_that_are_none_are_refused(rate: object) -> None:
    with pytest.raises(InputError, match=r"the wave: .*Hz"):
        audio.read((speech(0.5), rate))  # type: ignore[arg-type]


def test_whole_numbers_of_any_type_are_rates() -> None:
    for rate in (np.int16(8000), 8000.0, np.float32(8000)):
        assert audio.read((speech(0.5), rate))[1] == 8000  # type: ignore[arg-type]


def test_blocks_stay_small_however_far_the_rate_is_raised() -> None:
    wave = np.zeros(200_000, np.float32)
    reader = audio.BlockReader((wave, 1000), 48000)
    assert max(map(len, reader)) <= 2 * READ_BLOCK
    many = np.zeros((4000, 1000), np.float32)
    assert max(map(len, audio.BlockReader((many, 8000)))) <= READ_BLOCK // 1000


# ---------------------------------------------------------------- offset


def test_a_constant_counts_neither_as_loudness_nor_as_sound() -> None:
    quiet = audio.normalize(speech(2.0), RATE) * 10 ** (-19 / 20)  # -46 dBFS
    assert audio.loudness(quiet + np.float32(0.02), RATE) == pytest.approx(audio.loudness(quiet, RATE), abs=0.3)
    np.testing.assert_allclose(audio.without_offset(quiet + np.float32(0.02)).mean(), 0, atol=1e-6)
    assert audio.is_silent(audio.loudness(np.full(RATE, 0.3, np.float32), RATE))
    assert audio.is_silent(audio.loudness(audio.resample(np.full(44100, 0.3, np.float32), 44100, RATE), RATE))


def test_a_wave_without_a_constant_is_left_as_it_is() -> None:
    wave = speech(1.0) - speech(1.0).mean()
    assert audio.without_offset(wave) is wave


# ---------------------------------------------------------------- files that are cut off


@pytest.mark.parametrize(
    "options",
    [{"format": "WAV"}, {"format": "AIFF"}, {"format": "W64"}, {"format": "AU"}, {"format": "RF64"}, {"format": "MP3"}],
    ids=lambda options: options["format"],
)
def test_a_file_that_is_cut_off_is_used_with_a_warning(tmp_path: Path, options: dict[str, str]) -> None:
    whole = write(tmp_path / "whole", speech(4.0), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AudioWarning)
        length = len(audio.read(whole)[0])
    part = tmp_path / "part"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.warns(AudioWarning, match=r"part: is cut off: [45]\d% of what its header promises is missing"):
        found = len(audio.read(part)[0])
    assert 0.4 * length < found < 0.6 * length


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_a_header_that_leaves_the_length_open_is_no_reason_to_warn(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "piped.wav", speech(1.0), subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    assert data[36:40] == b"data"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AudioWarning)
        if size:
            assert len(audio.read(path)[0]) == RATE


# ---------------------------------------------------------------- what is said of silence


def test_the_reason_for_silence_is_told_apart() -> None:
    def reason(wave: np.ndarray) -> str:
        reader = audio.BlockReader((wave, RATE))
        return reader.why_silent(audio.loudness(audio.join(reader), RATE))

    loud = speech(1.0)
    assert "cancel each other out" in reason(np.stack([loud, -loud], axis=1))
    assert "too quiet to hold speech (-" in reason(loud * np.float32(1e-4))
    assert "only silence" in reason(np.zeros(RATE, np.float32))


# ---------------------------------------------------------------- pipes


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    plain, pipe = write(tmp_path / "plain.flac", speech(1.0)), tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(plain.read_bytes()), daemon=True).start()
    wave, rate = audio.read(pipe)
    assert rate == RATE
    np.testing.assert_array_equal(wave, audio.read(plain)[0])


def test_an_empty_pipe_is_told(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(b""), daemon=True).start()
    with pytest.raises(InputError, match="is empty"):
        audio.read(pipe)


# ---------------------------------------------------------------- names and places


def test_names_that_are_not_utf8_are_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    try:
        audio.write(path, speech(0.5), RATE)
    except (InputError, OSError):
        pytest.skip("this file system has no such names")
    assert len(audio.read(path)[0]) == RATE // 2
    assert audio.find_audio(tmp_path) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, real = tmp_path / "link.wav", tmp_path / "there" / "real.wav"
    link.symlink_to(real)
    audio.write(link, speech(0.5), RATE)
    assert link.is_symlink() and real.is_file()
    assert not list(tmp_path.glob(".vconv*"))


def test_of_two_writers_without_overwrite_one_loses(tmp_path: Path) -> None:
    path = tmp_path / "same.wav"
    first = audio.AudioWriter(path, RATE, overwrite=False)
    first.write(speech(0.5))
    with audio.AudioWriter(path, RATE, overwrite=False) as second:
        second.write(speech(1.0))
    with pytest.raises(InputError, match="exists already"):
        first.__exit__(None, None, None)
    assert len(audio.read(path)[0]) == RATE
    assert [found.name for found in tmp_path.iterdir()] == ["same.wav"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "good.wav", speech(0.5))
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path: object) -> object:
        if Path(str(path)) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(AudioWarning, match="closed: this folder cannot be read"):
        assert audio.find_audio(tmp_path) == [tmp_path / "good.wav"]


def test_memory_is_bounded_at_the_lowest_rate(tmp_path: Path) -> None:
    """An hour at 1 kHz, to 24 kHz: 345 MB in one piece."""
    path = write(tmp_path / "hour.wav", np.zeros(3_600_000, np.float32), 1000)
    code = (
        "import resource, sys\nfrom vconv import audio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "total = sum(map(len, audio.BlockReader(sys.argv[1], 24000)))\n"
        "print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    total, grown = map(int, done.stdout.split())
    assert total == 3_600_000 * 24
    assert grown < 100 << 10  # kB
