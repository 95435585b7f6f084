"""The command line, as a user types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer

import vconv
from tests.conftest import REPOSITORY, Cli, Outcome, speech
from vconv import audio, cli
from vconv.benchmarks import speed
from vconv.features import OUTPUT_RATE


def seconds_of(path: Path) -> float:
    wave, rate = audio.read(path)
    assert rate == OUTPUT_RATE
    return len(wave) / rate


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_help_of_each_command_fits_its_line(vconv_cli: Cli) -> None:
    for group in ((), ("speakers",)):
        lines = vconv_cli(*group, "--help").out.partition("Commands:")[2].strip().splitlines()
        assert len(lines) > 6
        assert not [line for line in lines if line.endswith("...")]


# ---------------------------------------------------------------- convert


def test_convert_writes_beside_the_source(vconv_cli: Cli, clips: Path, model: Path) -> None:
    done = vconv_cli("convert", clips / "src.wav", "--target", clips / "low.wav", "--model", model)
    assert (done.code, done.err) == (0, "")
    assert str(clips / "src_as_low.wav") in done.out and "real-time factor" in done.out
    assert seconds_of(clips / "src_as_low.wav") == pytest.approx(1.2)
    assert files_in(clips) == {"src.wav", "low.wav", "high.wav", "src_as_low.wav"}


@pytest.mark.parametrize("name", ["out.flac", "out.ogg", "out.MP3", "new/folder/out.wav"])
def test_convert_to_a_named_file(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path, name: str) -> None:
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "-o", tmp_path / name, "--model", model)
    assert done.code == 0, done.err
    assert seconds_of(tmp_path / name) == pytest.approx(1.2)


@pytest.mark.parametrize("folder", ["out", "out/", "v1.2"])
def test_convert_a_folder_into_a_folder(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path, folder: str) -> None:
    (clips / "sub").mkdir()
    (clips / "high.wav").rename(clips / "sub" / "high.wav")
    (clips / "notes.txt").write_text("no audio")
    done = vconv_cli("convert", clips, "-t", clips / "low.wav", "-o", f"{tmp_path}/{folder}", "--model", model)
    assert done.code == 0, done.err
    assert "3 files: 3.7 s of audio" in done.out
    assert files_in(tmp_path / folder) == {"src_as_low.wav", "low_as_low.wav", "sub/high_as_low.wav"}


def test_convert_several_sources_to_an_averaged_voice(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    targets = ["-t", clips / "low.wav", "-t", clips / "high.wav"]
    sources = [clips / "src.wav", clips / "low.wav"]
    done = vconv_cli("convert", *sources, *targets, "-o", tmp_path / "out", "--model", model)
    assert done.code == 0, done.err
    assert files_in(tmp_path / "out") == {"src_as_low.wav", "low_as_low.wav"}


def test_a_folder_of_clips_is_a_target_and_names_the_result(vconv_cli: Cli, clips: Path, model: Path) -> None:
    done = vconv_cli("convert", clips / "src.wav", "-t", f"{clips}/", "--model", model)
    assert done.code == 0, done.err
    assert (clips / "src_as_clips.wav").exists()


def test_pitch_and_keep_pitch_change_the_result(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    waves = []
    for name, options in (("a", ()), ("b", ("--pitch", "5")), ("c", ("--keep-pitch",)), ("d", ("--pitch=0",))):
        done = vconv_cli(
            "convert", clips / "src.wav", "-t", clips / "low.wav", "-o", tmp_path / f"{name}.wav", "--model", model,
            "--threads", "1", *options,
        )  # fmt: skip
        assert done.code == 0, done.err
        waves.append(audio.read(tmp_path / f"{name}.wav")[0])
    assert not np.array_equal(waves[0], waves[1])
    assert not np.array_equal(waves[0], waves[2])
    np.testing.assert_array_equal(waves[0], waves[3])


def test_quiet_prints_nothing(vconv_cli: Cli, clips: Path, model: Path) -> None:
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "--model", model, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_overwrite_replaces(vconv_cli: Cli, clips: Path, model: Path) -> None:
    (clips / "out.wav").write_text("old")
    arguments = ["convert", clips / "src.wav", "-t", clips / "low.wav", "-o", clips / "out.wav", "--model", model]
    assert vconv_cli(*arguments).code == 2
    assert (clips / "out.wav").read_text() == "old"
    assert vconv_cli(*arguments, "--overwrite").code == 0
    assert seconds_of(clips / "out.wav") == pytest.approx(1.2)


def test_torch_device_agrees(vconv_cli: Cli, clips: Path, small_model: Path, tmp_path: Path) -> None:
    waves = []
    for device in ("cpu", "torch"):
        done = vconv_cli(
            "convert", clips / "src.wav", "-t", clips / "low.wav", "-o", tmp_path / f"{device}.wav",
            "--model", small_model, "--device", device,
        )  # fmt: skip
        assert done.code == 0, done.err
        waves.append(audio.read(tmp_path / f"{device}.wav")[0])
    np.testing.assert_allclose(waves[0], waves[1], atol=2e-4)


# ---------------------------------------------------------------- the other commands


def test_embed_saves_a_voice_that_convert_takes(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    done = vconv_cli("embed", clips / "low.wav", "--model", model)
    assert (done.code, done.out) == (0, f"wrote {clips / 'low_voice.npz'}\n"), done.err
    with np.load(clips / "low_voice.npz") as arrays:
        assert np.linalg.norm(arrays["embedding"]) == pytest.approx(1, abs=1e-5)
        assert arrays["log_f0"] == pytest.approx(np.log2(110 / 200), abs=0.05)
    for name, target in (("a", "low.wav"), ("b", "low_voice.npz")):
        out = tmp_path / f"{name}.wav"
        assert vconv_cli("convert", clips / "src.wav", "-t", clips / target, "-o", out, "--model", model).code == 0
    # Sums in several threads come in any order, which can move a sample by one step of 16 bits.
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], audio.read(tmp_path / "b.wav")[0], atol=2 / 32768)


def test_extract_saves_codes_and_f0(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    done = vconv_cli("extract", clips, "-o", tmp_path / "features", "--model", model)
    assert (done.code, done.out) == (0, "3 of 3 files extracted\n"), done.err
    assert files_in(tmp_path / "features") == {f"{name}_features.npz" for name in ("src", "low", "high")}
    with np.load(tmp_path / "features" / "high_features.npz") as arrays:
        codes, f0 = arrays["codes"], arrays["f0"]
    assert len(f0) == 64 and codes.shape[1] == 32 and np.issubdtype(codes.dtype, np.integer)
    assert np.median(f0[f0 > 0]) == pytest.approx(220, rel=0.05)


def test_info_describes_model_and_installation(vconv_cli: Cli, model: Path) -> None:
    done = vconv_cli("info", "--model", model)
    assert done.code == 0, done.err
    for word in (vconv.__version__, str(model), "content code", "speaker encoder", "vocoder.onnx", "onnxruntime"):
        assert word in done.out


def test_prepare_writes_a_manifest(vconv_cli: Cli, tmp_path: Path) -> None:
    for speaker, f0 in (("anna", 200), ("bert", 100)):
        (tmp_path / "corpus" / speaker).mkdir(parents=True)
        audio.write(tmp_path / "corpus" / speaker / "1.wav", speech(1.0, f0=f0), 16000)
    audio.write(tmp_path / "corpus" / "anna" / "2.wav", np.zeros(16000, np.float32), 16000)
    done = vconv_cli("prepare", tmp_path / "corpus", "-o", tmp_path / "corpus.tsv")
    assert (done.code, done.err) == (0, ""), done.err
    assert "skipped" in done.out and "2.wav" in done.out
    assert len((tmp_path / "corpus.tsv").read_text().splitlines()) == 3


def test_version(vconv_cli: Cli) -> None:
    assert vconv_cli("--version") == Outcome(0, f"vconv {vconv.__version__}\n", "")


COMMANDS = (
    "convert",
    "embed",
    "finetune",
    "extract",
    "encode",
    "decode",
    "check",
    "info",
    "prepare",
    "train",
    "export",
)


def test_help_lists_the_commands(vconv_cli: Cli) -> None:
    done = vconv_cli("--help")
    assert done.code == 0
    assert all(f"\n  {command} " in done.out for command in COMMANDS)
    assert "--install-completion" in done.out
    assert vconv_cli() == done


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(vconv_cli: Cli, command: str) -> None:
    done = vconv_cli(command, "--help")
    assert done.code == 0
    assert "Example" in done.out and f"\n    vconv {command} " in done.out


def test_the_options_of_a_command_are_built_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = sys.modules["vconv.cli.app"]  # `vconv.cli.app` is the application in it
    build, built = commands._built, []
    monkeypatch.setattr(commands, "_built", lambda function: built.append(function.__name__) or build(function))
    assert cli.run(["--help"]) == 0 and not built
    assert cli.run(["convert", "--help"]) == 0 and built == ["convert"]


def test_the_shell_completes_options() -> None:
    words = {"_VCONV_COMPLETE": "complete_bash", "COMP_WORDS": "vconv convert --thr", "COMP_CWORD": "2"}
    out, _ = start(env=os.environ | words).communicate(timeout=60)
    assert out.split() == ["--threads"]


# ---------------------------------------------------------------- as a process


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vconv", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_the_program_converts_and_fails_as_the_function_does(clips: Path, model: Path) -> None:
    good = start("convert", clips / "src.wav", "-t", clips / "low.wav", "--model", model)
    bad = start("convert", clips / "none.wav", "-t", clips / "low.wav", "--model", model)
    out, err = good.communicate(timeout=60)
    assert (good.returncode, err) == (0, "") and "real-time factor" in out
    out, err = bad.communicate(timeout=60)
    assert (bad.returncode, out) == (2, "")
    assert err == f"vconv: {clips / 'none.wav'}: no such file; check the path\n"


def test_completion_for_the_shell() -> None:
    # Typer otherwise asks which shell has started it, and under a test runner there may be none.
    done = start("--show-completion", "bash", env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    out, _ = done.communicate(timeout=60)
    assert "_VCONV_COMPLETE" in out


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_a_terminated_run_leaves_nothing(clips: Path, model: Path) -> None:
    audio.write(clips / "long.flac", np.tile(speech(5.0), 60), 16000)
    before = files_in(clips)
    run = start("convert", clips / "long.flac", "-t", clips / "low.wav", "--model", model)
    time.sleep(1.5)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (128 + signal.SIGTERM, "")
    assert files_in(clips) == before


def test_progress_goes_to_a_terminal_only(clips: Path, model: Path) -> None:
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "vconv", "convert", clips / "src.wav", clips / "high.wav"]
    command += ["-t", clips / "low.wav", "--model", model]
    run = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 4096):
            shown += chunk
    except OSError:  # how Linux reports the end
        pass
    os.close(controller)
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert b"high.wav" in shown and b"/2" in shown
    assert "\x1b" not in out


@pytest.mark.slow
def test_the_benchmark_measures_processes(
    clips: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "LONG_CLIP", 6)
    speed.benchmark(clips / "src.wav", clips / "low.wav", model, repeats=1, minutes=0.1)
    header, table = capsys.readouterr().out.split("\n\n")
    assert vconv.__version__ in header and "cores" in header
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows][:3] == ["vconv --help", "convert 5 s", "convert 6 s"]
    assert all(float(row[1].split()[0]) > 0 for row in rows)
    with pytest.raises(typer.Exit):
        speed.benchmark(clips / "none.wav", clips / "low.wav", model, repeats=1, minutes=0)


def test_a_fault_is_one_line_too(vconv_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.delenv("VCONV_DEBUG", raising=False)
    monkeypatch.setattr("vconv.api.describe", broken)
    done = vconv_cli("info")
    assert done.code == 1
    assert "RuntimeError: first second" in done.error and "VCONV_DEBUG" in done.error
    monkeypatch.setenv("VCONV_DEBUG", "1")
    with pytest.raises(RuntimeError, match="first"):
        cli.run(["info"])
