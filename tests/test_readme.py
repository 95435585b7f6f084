"""What the README shows runs as it stands there."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.documents import ROOT, blocks, make_checkout, run_block

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "checkout")


def assert_converted(path: Path) -> None:
    """Sound, and as long as the example's source."""
    wave, rate = soundfile.read(path)
    source = soundfile.info(ROOT / "examples" / "source.flac")
    assert rate == 24000
    assert len(wave) == round(source.frames * rate / source.samplerate)
    assert np.abs(wave).max() > 0.05


def test_the_first_command_converts(checkout: Path) -> None:
    (block,) = blocks(PAGE, "first command")
    run_block(block, checkout)
    assert_converted(checkout / "converted.wav")


def test_the_second_command_tests() -> None:
    (block,) = blocks(PAGE, "second command")
    assert block.commands[-1].split()[0] == "pytest"


def test_the_command_line(checkout: Path) -> None:
    block, _ = blocks(PAGE, "test")
    printed = run_block(block, checkout)
    for name in ("converted/source_as_target.wav", "from_voice.wav", "decoded.wav", "between.wav"):
        assert_converted(checkout / name)
    assert soundfile.info(checkout / "high.mp3").samplerate == 24000
    assert "pretrained" in printed  # vconv info


def test_python(checkout: Path) -> None:
    _, block = blocks(PAGE, "test")
    run_block(block, checkout)
    assert_converted(checkout / "converted.wav")


def test_the_length() -> None:
    assert len(README.splitlines()) <= 120


def test_the_training_command_has_good_settings() -> None:
    pytest.importorskip("torch")
    from vconv.training import configuration

    (line,) = (line for block in blocks(PAGE) for line in block.commands if line.startswith("vconv train"))
    arguments = shlex.split(line)[2:]
    overrides = [value for option, value in itertools.pairwise(arguments) if option == "--set"]
    config = configuration(ROOT / arguments[0], overrides)
    assert config.corpus.manifest == "corpus.tsv"
    assert config.output.startswith("runs/mine/")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert "LICENSE" in links
    assert not [link for link in links if not (ROOT / link).exists()]
