"""Running what the documentation shows: blocks of commands and code, in a folder with what they name."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.synthetic import speak

ROOT = Path(__file__).resolve().parent.parent
INSTALLS = ("python3 -m venv", "pip install")  # run by .ci/run, in an environment of their own
FENCE = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment on the line before says of it."""

    marker: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Lines of a bash block, continued ones joined, without installation."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith(("#", *INSTALLS))]


def blocks(page: Path, marker: str | None = None) -> list[Block]:
    """The fenced blocks of a page; those behind ``<!-- marker -->``."""
    found = [Block(m["marker"] or "", m["language"], m["text"]) for m in FENCE.finditer(page.read_text("utf-8"))]
    return [block for block in found if marker is None or block.marker == marker]


def make_checkout(folder: Path, extra: dict[str, list[str]] | None = None, code: Path = ROOT) -> Path:
    """A folder like a checkout, with the examples and the command vconv.

    ``extra`` arguments follow those of a subcommand: what makes a training short.
    """
    (folder / "examples").mkdir(parents=True)
    for clip in (ROOT / "examples").glob("*.flac"):
        shutil.copy(clip, folder / "examples")
    for name in ("recipes", "pretrained"):
        (folder / name).symlink_to(ROOT / name)
    cases = "".join(f'  {name}) set -- "$@" {shlex.join(arguments)};;\n' for name, arguments in (extra or {}).items())
    command = folder / "bin" / "vconv"
    command.parent.mkdir()
    choose = f'case "$1" in\n{cases}esac\n' if cases else ""
    command.write_text(
        f'#!/bin/sh\n{choose}PYTHONPATH={shlex.quote(str(code))} exec {shlex.quote(sys.executable)} -m vconv "$@"\n'
    )
    command.chmod(0o755)
    return folder


def add_recordings(folder: Path) -> None:
    """What the pages call recordings/, speech.wav, speaker.wav, speech/, speaker/, speakers/ and pairs.csv."""
    import soundfile

    for number, name in enumerate("abcdefgh"):
        tract = 0.85 + 0.06 * number
        (folder / "recordings" / name).mkdir(parents=True)
        for clip, words in enumerate(("aiueoaiueo", "oeaiuoeaiu", "uoaieuoaie", "eoauieoaui", "iaoeuiaoeu")):
            wave = speak(words, 100 + 18 * number + 5 * clip, tract, seed=10 * number + clip)
            soundfile.write(folder / "recordings" / name / f"{clip}.wav", wave, 24000)
    source, target = folder / "examples" / "source.flac", folder / "examples" / "target.flac"
    (folder / "speaker").mkdir()
    wave, rate = soundfile.read(target)
    soundfile.write(folder / "speaker" / "long.wav", np.tile(wave, 5), rate)  # enough to tune a voice on
    for place, clip in (("speech", source), ("speakers", target)):
        (folder / place).mkdir()
        shutil.copy(clip, folder / place)
    for place, clip in (("speech.wav", source), ("speaker.wav", target)):
        wave, rate = soundfile.read(clip)
        soundfile.write(folder / place, wave, rate)
    (folder / "pairs.csv").write_text("source,target,reference\nspeech.wav,speaker.wav,speaker.wav\n")


def run(command: list[str], checkout: Path) -> str:
    """Run to the end and expect success; returns what was printed."""
    path = f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "PATH": path}
    result = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout


def run_block(block: Block, checkout: Path) -> str:
    """Run a block of bash or Python; what a ``print`` of Python prints is as the comment behind it says."""
    if block.language == "bash":
        return run(["bash", "-euo", "pipefail", "-c", "\n".join(block.commands)], checkout)
    printed = run([sys.executable, "-c", block.text], checkout)
    promised = re.findall(r"print\(.*\)  # (.*)", block.text)
    assert printed.splitlines()[-len(promised) :] == promised or not promised  # trainings print their log before
    return printed
