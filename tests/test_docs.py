"""What the pages of docs/ show runs as it stands there, and the site builds without a dead link."""

from __future__ import annotations

import importlib.util
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

from tests.documents import ROOT, Block, add_recordings, blocks, make_checkout, run_block

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LONG = {"python", "voices"}  # a quarter of a minute each
FAST = [
    pytest.param(page, marks=[pytest.mark.slow] if page.stem in LONG else [], id=page.stem)
    for page in PAGES
    if blocks(page, "test")
]

# What makes the trainings of the pages those of a moment.
TINY = {
    "threads": 1,
    "corpus.processes": 1,
    "optimizer.steps": 2,
    "optimizer.warmup": 1,
    "log.every": 1,
    "log.save_every": 2,
    "log.validate_every": 2,
    "batch.items": 2,
}
TINY_CONVERSION = {
    "model.channels": 24,
    "model.content_blocks": [1, 1],
    "model.decoder_channels": 32,
    "model.decoder_blocks": [1, 1],
    "batch.frames": 32,
    "batch.reference_frames": [32, 48],
    "losses.cycle_items": 1,
}
WITHOUT_JUDGES = ["--metrics", "reference"]


def settings(values: dict[str, object]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def page_id(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", FAST)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    """Its blocks in their order, in one folder; sound comes of every conversion."""
    if any("vconv train" in block.text for block in blocks(page, "test")):
        pytest.importorskip("torch")
    checkout = make_checkout(tmp_path / "checkout")
    before = set(checkout.rglob("*"))
    for block in blocks(page, "test"):
        run_block(block, checkout)
    made = [path for path in set(checkout.rglob("*")) - before if path.suffix in (".wav", ".flac", ".mp3")]
    source = soundfile.info(checkout / "examples" / "source.flac")
    for path in made:
        wave, rate = soundfile.read(path)
        assert rate == 24000 and np.abs(wave).max() > 0.05
        if "source" in path.stem or path.stem == "converted":
            assert len(wave) == pytest.approx(source.duration * rate, abs=2) or "target_as" in path.stem


@pytest.fixture(scope="module")
def training_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the pages' trainings take a moment, with recordings and a model of ours."""
    pytest.importorskip("torch")
    judged = [] if importlib.util.find_spec("parselmouth") else WITHOUT_JUDGES
    extra = {"finetune": ["--steps", "2"], "prepare": ["--valid-percent", "20"], "probe": ["--split", "all"]}
    extra |= {"ladder": ["--split", "all", "--speakers", "2", *judged], "evaluate": judged, "stress": judged}
    checkout = make_checkout(tmp_path_factory.mktemp("slow") / "checkout", extra)
    add_recordings(checkout)
    return checkout


def short(block: Block) -> Block:
    """With the settings of a training of two steps behind those of the page."""
    text = block.text.replace("\\\n", " ")
    tiny = shlex.join(settings(TINY | TINY_CONVERSION))
    text = re.sub(r"^(vconv train recipes/folders/config\.yaml.*)$", rf"\1 {tiny}", text, flags=re.M)
    words = "".join(f', "{key}={value}"' for key, value in (TINY | TINY_CONVERSION).items())
    text = re.sub(r"^(settings = \[.*)\]$", rf"\1{words}]", text, flags=re.M)
    text = re.sub(r"^(recipes/base/run\.sh .*) cpu$", rf"\1 {ROOT / 'tests' / 'miniature.yaml'}", text, flags=re.M)
    return Block(block.marker, block.language, text)


@pytest.mark.slow
def test_the_slow_commands_run(training_folder: Path) -> None:
    """Training first, then all that takes its model and its corpus."""
    for name in ("training", "voices", "live", "evaluating", "python"):
        for block in blocks(DOCS / f"{name}.md", "slow test"):
            run_block(short(block), training_folder)
    assert (training_folder / "my-model" / "config.json").is_file()
    for report in (
        "results/report.html",
        "other/report.html",
        "ladder/report.html",
        "probe/probe.json",
        "stress/report.html",
    ):
        assert (training_folder / report).is_file()


# ---------------------------------------------------------------- the page on bottlenecks


@pytest.fixture(scope="module")
def with_bottleneck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with what the page adds."""
    page = DOCS / "bottleneck.md"
    code = tmp_path_factory.mktemp("code")
    shutil.copytree(ROOT / "vconv", code / "vconv", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "pretrained").symlink_to(ROOT / "pretrained")
    (file,) = (block for block in blocks(page) if block.marker.startswith("file: "))
    (code / file.marker.removeprefix("file: ")).write_text(file.text, encoding="utf-8")
    (lines,) = (block for block in blocks(page) if block.marker.startswith("lines: "))
    imported, entry = lines.text.splitlines()
    registry = code / lines.marker.removeprefix("lines: ")
    text = registry.read_text("utf-8").replace("\n\n__all__", f"\n{imported}\n\n__all__")
    registry.write_text(text.replace('    "fsq": Fsq,\n', f'    "fsq": Fsq,\n{entry}\n'), encoding="utf-8")
    (kind,) = (block for block in blocks(page) if block.marker.startswith("kind: "))
    config = code / kind.marker.removeprefix("kind: ")
    text = config.read_text("utf-8")
    config.write_text(text.replace("BottleneckKind = Literal[", f"BottleneckKind = Literal[{kind.text.strip()}, "))
    return code


def test_the_bottleneck_of_the_page_passes_the_tests_of_all_kinds(with_bottleneck: Path) -> None:
    pytest.importorskip("torch")
    page = DOCS / "bottleneck.md"
    shutil.copytree(ROOT / "tests", with_bottleneck / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (entries,) = (block for block in blocks(page) if block.marker.startswith("entries: "))
    for name, entry in zip(entries.marker.split()[1:], entries.text.splitlines(), strict=True):
        text = (with_bottleneck / name).read_text("utf-8")
        (with_bottleneck / name).write_text(text.replace("KINDS = {\n", f"KINDS = {{\n{entry}\n", 1), encoding="utf-8")
    (block,) = blocks(page, "test it")
    ((program, *arguments),) = (shlex.split(line) for line in block.commands)
    assert program == "pytest"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=with_bottleneck,
        env=os.environ | {"PYTHONPATH": str(with_bottleneck)},
        capture_output=True,
        text=True,
    )
    passed = re.search(r"(\d+) passed", result.stdout)
    assert result.returncode == 0 and passed and int(passed[1]) > 2, result.stdout


@pytest.mark.slow
def test_the_bottleneck_of_the_page_trains_and_converts(with_bottleneck: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    checkout = make_checkout(tmp_path / "checkout", code=with_bottleneck)
    add_recordings(checkout)
    run_block(Block("", "bash", "vconv prepare recordings/ -o corpus.tsv --quiet --valid-percent 20"), checkout)
    (block,) = blocks(DOCS / "bottleneck.md", "train")
    run_block(short(block), checkout)
    assert soundfile.info(checkout / "random.wav").samplerate == 24000


# ---------------------------------------------------------------- the rest


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=page_id)
def test_the_options_of_all_commands_exist(page: Path) -> None:
    from typer.testing import CliRunner

    from vconv.cli import app

    commands = [line for block in blocks(page) if block.language == "bash" for line in block.commands]
    for line in commands:
        if not line.startswith("vconv "):
            continue
        words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("&", "|")]
        names = words[:2] if words[0] == "speakers" else words[:1]
        help_text = CliRunner().invoke(app, [*names, "--help"]).output
        options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
        missing = [option for option in options if not re.search(rf"(^|[\s,]){option}\b", help_text)]
        assert not missing, f"{line}: no {missing}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}: pip install 'vconv[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert {page.stem for page in PAGES} <= pages
