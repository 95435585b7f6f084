"""Whatever is wrong: one line on stderr that says which file, what, and what to do; and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import vconv
from tests.conftest import Cli, speech
from tests.test_cli import files_in
from vconv import audio
from vconv.errors import InputError
from vconv.files import replacing
from vconv.model_folder import record_digests

RATE = 16000


def missing(path: Path) -> None:
    pass


def text(path: Path) -> None:
    path.write_text("This is not audio. " * 100)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(5000))


def empty(path: Path) -> None:
    path.touch()


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), RATE)


def silence(path: Path) -> None:
    soundfile.write(path, np.zeros(2 * RATE, np.float32), RATE)


def hum_too_quiet(path: Path) -> None:
    soundfile.write(path, speech(1.0) * 1e-4, RATE, "FLOAT")


def short(path: Path) -> None:
    soundfile.write(path, speech(0.29), RATE)


def with_nan(path: Path) -> None:
    wave = speech(1.0)
    wave[500] = np.nan
    soundfile.write(path, wave, RATE, "FLOAT")


def with_inf(path: Path) -> None:
    wave = speech(1.0)
    wave[-1] = -np.inf
    soundfile.write(path, wave, RATE, "FLOAT")


def folder_without_audio(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").touch()


def no_voice(path: Path) -> None:
    soundfile.write(path, 0.05 * np.random.default_rng(0).standard_normal(2 * RATE), RATE)


BAD_AUDIO = [
    (missing, "no such file"),
    (text, "is not audio"),
    (zeros, "is not audio"),
    (empty, "is an empty file"),
    (no_samples, "contains no samples"),
    (silence, "only silence"),
    (hum_too_quiet, "too quiet to hold speech"),
    (short, "too short"),
    (with_nan, "NaN or infinite"),
    (with_inf, "NaN or infinite"),
    (folder_without_audio, "no audio in this folder"),
]


@pytest.mark.parametrize(("make", "message"), BAD_AUDIO, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_source(vconv_cli: Cli, clips: Path, model: Path, make: Callable[[Path], None], message: str) -> None:
    bad = clips / "bad.wav"
    make(bad)
    before = files_in(clips)
    done = vconv_cli("convert", bad, "-t", clips / "low.wav", "--model", model)
    assert done.code == 2 and done.out == ""
    assert str(bad) in done.error and message in done.error
    assert files_in(clips) == before


def test_bad_sources_among_good_ones_are_reported_at_the_end(vconv_cli: Cli, clips: Path, model: Path) -> None:
    bad = {clips / f"{make.__name__}.wav": (make, message) for make, message in BAD_AUDIO}
    for path, (make, _) in bad.items():
        make(path)
    before = files_in(clips)
    done = vconv_cli("convert", clips / "src.wav", *bad, clips / "high.wav", "-t", clips / "low.wav", "--model", model)
    assert done.code == 2 and "2 files: 2.2 s" in done.out
    lines = done.err.splitlines()
    assert len(lines) == len(bad)
    for path, (_, message) in bad.items():
        assert any(line.startswith("vconv: ") and str(path) in line and message in line for line in lines)
    assert files_in(clips) - before == {"src_as_low.wav", "high_as_low.wav"}


@pytest.mark.parametrize(
    ("command", "make", "message"),
    [
        *(("convert", *bad) for bad in BAD_AUDIO),
        ("convert", no_voice, "no voiced speech"),
        ("embed", *BAD_AUDIO[0]),
        ("embed", no_voice, "no voiced speech"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_target(
    vconv_cli: Cli, clips: Path, model: Path, command: str, make: Callable[[Path], None], message: str
) -> None:
    bad = clips / "bad.wav"
    make(bad)
    before = files_in(clips)
    arguments = ["embed", bad] if command == "embed" else ["convert", clips / "src.wav", "-t", bad]
    done = vconv_cli(*arguments, "--model", model)
    assert done.code == 2 and done.out == ""
    assert str(bad) in done.error and message in done.error
    assert files_in(clips) == before


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".flac", ".raw", ""])
def test_not_audio_under_any_name(vconv_cli: Cli, clips: Path, model: Path, suffix: str) -> None:
    bad = clips / f"bad{suffix}"
    zeros(bad)
    done = vconv_cli("convert", bad, "-t", clips / "low.wav", "--model", model)
    assert done.code == 2
    assert "is not audio" in done.error and "wav, flac, ogg or mp3" in done.error


def test_a_damaged_file(vconv_cli: Cli, clips: Path, model: Path) -> None:
    path = clips / "bad.flac"
    audio.write(path, speech(3.0), RATE)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(data)
    done = vconv_cli("convert", path, "-t", clips / "low.wav", "--model", model)
    assert done.code == 2
    assert str(path) in done.error and "damaged" in done.error


@pytest.mark.parametrize("content", ["text", "array", "other"])
def test_a_voice_file_that_holds_none(vconv_cli: Cli, clips: Path, model: Path, content: str) -> None:
    path = clips / "bad.npz"
    if content == "text":
        text(path)
    elif content == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        np.savez(path, something=np.zeros(3))
    done = vconv_cli("convert", clips / "src.wav", "-t", path, "--model", model)
    assert done.code == 2
    assert str(path) in done.error and "vconv embed" in done.error


# ---------------------------------------------------------------- outputs


def test_an_output_that_exists(vconv_cli: Cli, clips: Path, model: Path) -> None:
    for name in ("src_as_low.wav", "low_voice.npz", "src_features.npz"):
        (clips / name).write_text("mine")
    for command in (
        ("convert", clips / "src.wav", "-t", clips / "low.wav"),
        ("embed", clips / "low.wav"),
        ("extract", clips / "src.wav"),
    ):
        done = vconv_cli(*command, "--model", model)
        assert done.code == 2
        assert "exists already" in done.error and "--overwrite" in done.error
    assert {(clips / name).read_text() for name in ("src_as_low.wav", "low_voice.npz", "src_features.npz")} == {"mine"}


@pytest.mark.parametrize("command", [("embed",), ("extract",), ("encode",), ("encode", "--text")])
def test_an_output_that_appears_meanwhile(
    vconv_cli: Cli, clips: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    made = []

    def late(path: Path, *options: object) -> AbstractContextManager[Path]:
        made.append(path)
        path.write_text("mine")
        return replacing(path, *options)

    monkeypatch.setattr("vconv.voice.replacing", late)
    done = vconv_cli(*command, clips / "low.wav", "--model", small_model)
    assert done.code == 2 and "exists already" in done.error
    assert made[0].read_text() == "mine"


@pytest.mark.parametrize("command", ["convert", "embed", "extract"])
def test_a_folder_that_cannot_be_written(vconv_cli: Cli, clips: Path, model: Path, command: str) -> None:
    blocked = clips / "file"
    blocked.touch()
    suffix = ".wav" if command == "convert" else ".npz"
    target = ["-t", clips / "low.wav"] if command == "convert" else []
    for output in (blocked / f"out{suffix}", blocked / "folder" / f"out{suffix}", Path(f"/proc/out{suffix}")):
        done = vconv_cli(command, clips / "src.wav", *target, "-o", output, "--model", model)
        assert done.code == 2
        assert str(output.parent) in done.error and "-o" in done.error
    assert files_in(clips) == {"src.wav", "low.wav", "high.wav", "file"}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("embed", "SOURCE"), "-o"),
        (("embed", "SOURCE"), "--me"),
        (("embed", "--each", "SOURCE"), "-o"),
        (("finetune", "-t", "SOURCE"), "-o"),
        (("speakers", "fit", "SOURCE"), "-o"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_an_output_is_tried_before_the_work(
    vconv_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], option: str
) -> None:
    """The source is missing, which only the work would tell."""
    (blocked := tmp_path / "file").touch()
    words = [tmp_path / "none.wav" if word == "SOURCE" else word for word in command]
    done = vconv_cli(*words, option, blocked / "new" / "out.npz")
    assert done.code == 2 and f"{blocked} is no folder; choose another place with {option}" in done.error
    monkeypatch.setattr("os.access", lambda place, mode: Path(place).exists() and mode == os.F_OK)
    done = vconv_cli(*words, option, tmp_path / "new" / "out.npz")
    assert done.code == 2 and f"no permission to write in {tmp_path}; choose another" in done.error
    assert files_in(tmp_path) == {"file"}


def test_an_enrolment_makes_its_folder_and_says_its_option(
    vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("embed", clips / "low.wav", "--model", model, "--me", tmp_path / "new" / "me.npz")
    assert vconv_cli(*command).code == 0
    done = vconv_cli(*command)
    assert done.code == 2 and done.error.endswith("or choose another place with --me")

    def disk_is_full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vconv.files.sync", disk_is_full)
    done = vconv_cli(*command, "--overwrite")
    assert done.code == 2 and done.error.endswith("(No space left on device); choose another place with --me")


def test_a_folder_made_for_a_failure_goes_again(vconv_cli: Cli, clips: Path, model: Path) -> None:
    silence(clips / "bad.wav")
    done = vconv_cli("convert", clips / "bad.wav", "-t", clips / "low.wav", "-o", f"{clips}/a/b/", "--model", model)
    assert done.code == 2 and "only silence" in done.error
    assert not (clips / "a").exists()


def test_an_unknown_output_format(vconv_cli: Cli, clips: Path, model: Path) -> None:
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "-o", clips / "out.aac", "--model", model)
    assert done.code == 2
    assert "out.aac" in done.error and ".wav, .flac, .ogg, .mp3" in done.error


@pytest.mark.parametrize("name", ["src.wav", "low.wav"])
def test_an_input_is_never_the_output(vconv_cli: Cli, clips: Path, model: Path, name: str) -> None:
    before = (clips / name).read_bytes()
    done = vconv_cli(
        "convert", clips / "src.wav", "-t", clips / "low.wav", "-o", clips / name, "--overwrite", "--model", model
    )
    assert done.code == 2
    assert "is an input" in done.error
    assert (clips / name).read_bytes() == before


def test_several_sources_do_not_fit_one_file(vconv_cli: Cli, clips: Path, model: Path) -> None:
    target = ["-t", clips / "low.wav", "-o", clips / "out.wav", "--model", model]
    for sources in ([clips / "src.wav", clips / "high.wav"], [clips]):
        done = vconv_cli("convert", *sources, *target)
        assert done.code == 2
        assert "name a folder" in done.error
    done = vconv_cli("extract", clips, "-o", clips / "out.npz", "--model", model)
    assert done.code == 2 and "name a folder" in done.error


def test_two_sources_of_one_name(vconv_cli: Cli, clips: Path, model: Path) -> None:
    audio.write(clips / "src.flac", speech(1.0), RATE)
    sources = [clips / "src.wav", clips / "src.flac"]
    done = vconv_cli("convert", *sources, "-t", clips / "low.wav", "--model", model)
    assert done.code == 2
    assert "src.flac" in done.error and "rename" in done.error
    assert (clips / "src_as_low.wav").exists()


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pitch", "50"], "out of range"),
        (["--pitch", "nan"], "out of range"),
        (["--pitch", "high"], "--pitch"),
        (["--device", "tpu"], "cpu, cuda, torch"),
        (["--threads", "0"], "--threads"),
        (["--loud"], "--loud"),
    ],
)
def test_bad_options(vconv_cli: Cli, clips: Path, model: Path, options: list[str], message: str) -> None:
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "--model", model, *options)
    assert done.code == 2 and message in done.error
    assert files_in(clips) == {"src.wav", "low.wav", "high.wav"}


def test_missing_arguments(vconv_cli: Cli, clips: Path) -> None:
    assert "SRC" in vconv_cli("convert").error
    assert "--target" in vconv_cli("convert", clips / "src.wav").error
    assert vconv_cli("convert").code == 2


# ---------------------------------------------------------------- model folders


@pytest.fixture
def broken_model(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "model")


def fails_to_load(vconv_cli: Cli, clips: Path, folder: Path, *parts: str) -> None:
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "--model", folder)
    assert done.code == 2
    assert all(part in done.error for part in (str(folder), *parts))
    assert files_in(clips) == {"src.wav", "low.wav", "high.wav"}


def test_a_missing_model(vconv_cli: Cli, clips: Path, tmp_path: Path) -> None:
    fails_to_load(vconv_cli, clips, tmp_path / "nowhere", "no such model folder", "--model")


def test_a_graph_that_is_none(vconv_cli: Cli, clips: Path, broken_model: Path) -> None:
    (broken_model / "decoder.onnx").write_text("wrong")
    record_digests(broken_model)
    fails_to_load(vconv_cli, clips, broken_model, "decoder.onnx", "not a working ONNX graph", "export")


@pytest.mark.parametrize("name", ["config.json", "content.onnx", "speaker.onnx", "decoder.onnx", "vocoder.onnx"])
def test_a_model_with_a_missing_empty_or_wrong_file(vconv_cli: Cli, clips: Path, broken_model: Path, name: str) -> None:
    (broken_model / name).write_text("wrong")
    fails_to_load(vconv_cli, clips, broken_model, name, "export")
    (broken_model / name).write_text("")
    fails_to_load(vconv_cli, clips, broken_model, name, "empty", "export")
    (broken_model / name).unlink()
    fails_to_load(vconv_cli, clips, broken_model, name, "missing", "export")


@pytest.mark.parametrize("name", ["conversion.safetensors", "vocoder.safetensors"])
def test_graphs_without_the_weights_beside_them(vconv_cli: Cli, clips: Path, broken_model: Path, name: str) -> None:
    (broken_model / name).write_text("wrong")
    fails_to_load(vconv_cli, clips, broken_model, name, "damaged", "export")
    record_digests(broken_model)
    fails_to_load(vconv_cli, clips, broken_model, "the weights beside it are not its own", "export")
    (broken_model / name).unlink()
    fails_to_load(vconv_cli, clips, broken_model, name, "missing", "export")


def test_graphs_that_were_mixed_up(vconv_cli: Cli, clips: Path, broken_model: Path) -> None:
    shutil.copy(broken_model / "content.onnx", broken_model / "vocoder.onnx")
    fails_to_load(vconv_cli, clips, broken_model, "vocoder.onnx", "damaged")
    record_digests(broken_model)
    fails_to_load(vconv_cli, clips, broken_model, "vocoder.onnx", "another graph")


def test_a_wrong_config(vconv_cli: Cli, clips: Path, broken_model: Path) -> None:
    path = broken_model / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"format": 99}))
    fails_to_load(vconv_cli, clips, broken_model, "config.json", "format 99")
    path.write_text(json.dumps(config | {"conversion": {"chanels": 3}}))
    fails_to_load(vconv_cli, clips, broken_model, "config.json", "unknown key 'chanels'", "'channels'")
    path.write_text(json.dumps(config | {"vocoder": 3}))
    fails_to_load(vconv_cli, clips, broken_model, "config.json", "mapping")
    path.write_text("[]")
    fails_to_load(vconv_cli, clips, broken_model, "config.json")


@pytest.mark.parametrize("name", ["conversion.safetensors", "vocoder.safetensors"])
def test_wrong_weights_for_torch(vconv_cli: Cli, clips: Path, small_model: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(small_model, tmp_path / "model")
    (folder / name).write_text("wrong")
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "--model", folder, "--device", "torch")
    assert done.code == 2 and name in done.error


def test_load_without_torch_or_gpu_says_so(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vconv.inference.torch_engine", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"--device cuda needs torch.*vconv\[train\]"):
        vconv.load(model, device="cuda")
    assert vconv.load(model) is not None


def test_no_gpu(model: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="no CUDA GPU"):
        vconv.load(model, device="cuda")


@pytest.mark.parametrize("threads", [0, -1])
def test_impossible_threads(model: Path, threads: int) -> None:
    with pytest.raises(InputError, match="threads"):
        vconv.load(model, threads=threads)


# ---------------------------------------------------------------- training commands


@pytest.mark.parametrize(
    "command", [["train", "config.yaml"], ["export", "a.safetensors", "b.safetensors", "-o", "out"]]
)
def test_without_the_extra_it_says_what_to_install(
    vconv_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("task: conversion")
    for name in [name for name in sys.modules if name.startswith(("vconv.training", "vconv.export", "vconv.models"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "yaml", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    done = vconv_cli(*command)
    assert done.code == 2
    assert "pip install 'vconv[train]'" in done.error
    assert files_in(tmp_path) == {"config.yaml"}


def test_a_config_with_an_unknown_key(vconv_cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "config.yaml"
    path.write_text("task: conversion\nmodell: {}\n")
    done = vconv_cli("train", path)
    assert done.code == 2
    assert str(path) in done.error and "unknown key 'modell'" in done.error
    done = vconv_cli("train", tmp_path / "none.yaml")
    assert done.code == 2 and "no such config file" in done.error


def test_export_checks_its_places(vconv_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    done = vconv_cli("export", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "full")
    assert done.code == 2 and "is not empty" in done.error
    done = vconv_cli("export", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "full" / "file")
    assert done.code == 2 and "is a file" in done.error


def test_prepare_checks_its_options(vconv_cli: Cli, tmp_path: Path) -> None:
    done = vconv_cli("prepare", tmp_path, "-o", tmp_path / "m.tsv", "--column", "path")
    assert done.code == 2 and "OURS=THEIRS" in done.error
    done = vconv_cli("prepare", tmp_path, "-o", tmp_path / "m.tsv")
    assert done.code == 2 and str(tmp_path) in done.error
