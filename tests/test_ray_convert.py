"""The recipe that converts a corpus with Ray, on a Ray of this machine alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, speech
from tests.test_cli import files_in
from vconv import audio
from vconv.inference import load

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

RECIPE = REPOSITORY / "recipes" / "ray_convert"


def convert(clips: Path, output: Path, model: Path, *sources: Path) -> tuple[int, str, dict[str, dict[str, str]]]:
    """Exit code, last line, and the table by the source's name."""
    command = [sys.executable, RECIPE / "convert.py", RECIPE / "config.yaml", "--set", f"output={output}"]
    for setting in (
        f"sources=[{','.join(map(str, sources))}]",
        f"target=[{clips / 'low.wav'}]",
        f"model={model}",
        "batch=2",
    ):
        command += ["--set", setting]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout, done.stderr
    with (output / "results.csv").open(newline="") as file:
        return done.returncode, done.stdout.splitlines()[-1], {Path(r["source"]).name: r for r in csv.DictReader(file)}


def test_a_corpus_is_converted_and_gone_on_with(clips: Path, model: Path, tmp_path: Path) -> None:
    (clips / "sub").mkdir()
    (clips / "high.wav").rename(clips / "sub" / "high.wav")
    (clips / "bad.wav").write_text("no audio")
    other = tmp_path / "other"
    (other / "anna").mkdir(parents=True)
    audio.write(other / "anna" / "1.wav", speech(1.0, f0=200), 16000)
    (other / "corpus.tsv").write_text("path\tspeaker\nanna/1.wav\tanna\n")
    out = tmp_path / "out"
    expected = {"src_as_low.wav", "low_as_low.wav", "sub/high_as_low.wav", "anna/1_as_low.wav"}

    code, line, rows = convert(clips, out, model, clips, other / "corpus.tsv")
    assert (code, line) == (1, "made 4, there already 0, failed 1")
    assert files_in(out) == {*expected, "results.csv"}
    assert set(rows) == {"src.wav", "low.wav", "high.wav", "1.wav", "bad.wav"}
    assert "is not audio" in rows["bad.wav"]["error"]
    assert float(rows["src.wav"]["seconds"]) == pytest.approx(1.2)
    assert Path(rows["high.wav"]["output"]) == out / "sub" / "high_as_low.wav"
    wave = load(model, threads=1).convert(clips / "src.wav", clips / "low.wav")
    np.testing.assert_allclose(audio.read(out / "src_as_low.wav")[0], wave, atol=2 / 32768)

    (out / "low_as_low.wav").unlink()
    code, line, rows = convert(clips, out, model, clips, other / "corpus.tsv")
    assert (code, line) == (1, "made 1, there already 3, failed 1")
    assert set(rows) == {"low.wav", "bad.wav"}
    assert files_in(out) == {*expected, "results.csv"}
