"""What the README shows runs as it stands there."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLS = ("python3 -m venv", "pip install")  # run by .ci/run, in an environment of their own


def blocks(marker: str, language: str) -> list[str]:
    """The fenced blocks of a language right behind ``<!-- marker -->``."""
    return re.findall(rf"^<!-- {marker} -->\n```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the examples in it, as in a checkout, and the command vconv."""
    (tmp_path / "examples").mkdir()
    for clip in (ROOT / "examples").glob("*.flac"):
        shutil.copy(clip, tmp_path / "examples")
    command = tmp_path / "bin" / "vconv"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vconv "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(command: list[str], checkout: Path) -> str:
    """Run to the end and expect success; returns what was printed."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_bash(block: str, checkout: Path) -> str:
    lines = [line for line in block.splitlines() if not line.startswith(INSTALLS)]
    return run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], checkout)


def assert_converted(path: Path) -> None:
    """Sound, and as long as the example's source."""
    wave, rate = soundfile.read(path)
    source = soundfile.info(ROOT / "examples" / "source.flac")
    assert rate == 24000
    assert len(wave) == round(source.frames * rate / source.samplerate)
    assert np.abs(wave).max() > 0.05


def test_the_first_command_converts(checkout: Path) -> None:
    (block,) = blocks("first command", "bash")
    run_bash(block, checkout)
    assert_converted(checkout / "converted.wav")


def test_the_second_command_tests() -> None:
    (block,) = blocks("second command", "bash")
    assert block.splitlines()[-1].split()[0] == "pytest"


def test_the_command_line(checkout: Path) -> None:
    (block,) = blocks("test", "bash")
    printed = run_bash(block, checkout)
    for name in ("converted/source_as_target.wav", "from_voice.wav", "decoded.wav", "between.wav"):
        assert_converted(checkout / name)
    assert soundfile.info(checkout / "high.mp3").samplerate == 24000
    assert "pretrained" in printed  # vconv info


def test_python(checkout: Path) -> None:
    (block,) = blocks("test", "python")
    run([sys.executable, "-c", block], checkout)
    assert_converted(checkout / "converted.wav")


def test_the_length() -> None:
    assert len(README.splitlines()) <= 120


def other_commands() -> list[str]:
    """The lines with vconv commands in the blocks that are not run, because they would train."""
    unmarked = re.findall(r"(?<!-->\n)^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [line for block in unmarked for line in block.splitlines() if line.startswith("vconv ")]


@pytest.mark.parametrize("line", other_commands())
def test_the_options_of_other_commands_exist(line: str) -> None:
    from typer.testing import CliRunner

    from vconv.cli import app

    _, command, *arguments = shlex.split(line)
    help_text = CliRunner().invoke(app, [command, "--help"]).output
    options = [argument for argument in arguments if argument.startswith("-")]
    assert options
    assert not [option for option in options if not re.search(rf"(^|[\s,]){option}\b", help_text)]


@pytest.mark.parametrize("line", [line for line in other_commands() if line.startswith("vconv train")])
def test_the_training_commands_have_good_settings(line: str) -> None:
    pytest.importorskip("torch")
    from vconv.training import configuration

    arguments = shlex.split(line)[2:]
    overrides = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
    config = configuration(ROOT / arguments[0], overrides)
    assert config.corpus.manifest == "corpus.tsv"
    assert config.output.startswith("runs/mine/")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert "LICENSE" in links
    assert not [link for link in links if not (ROOT / link).exists()]
