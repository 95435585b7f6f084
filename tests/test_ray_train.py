"""The launcher of trainings on a Ray cluster, on a Ray of this machine alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray.train", reason="Ray Train is not installed")
pytest.importorskip("accelerate")

from tests.conftest import REPOSITORY
from tests.synthetic import make_corpus
from tests.test_training import CONVERSION, scalars, train
from vconv.training import checkpoint

pytestmark = pytest.mark.slow
SCRIPT = REPOSITORY / "recipes" / "ray_train" / "train.py"
SETTINGS = ("model.bottleneck.kind=identity", "losses.adversary=0", "log.every=1", "optimizer.warmup=100")


def launch(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The launcher with a configuration in its working folder."""
    command = [sys.executable, str(SCRIPT), "config.yaml", "--processes", "2", *words]
    for setting in ("corpus.manifest=corpus/manifest.tsv", "output=run", *SETTINGS):
        command += ["--set", setting]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=900)


def test_a_local_ray_trains_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cluster"
    make_corpus(folder / "corpus", sentences=3)
    (folder / "config.yaml").write_text(CONVERSION)
    done = launch(folder, "--set", "optimizer.steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the run is in {folder / 'run'}" in done.stdout
    assert checkpoint.load(folder / "run" / checkpoint.CHECKPOINT)["step"] == 2
    monkeypatch.chdir(folder)
    alone = tmp_path / "alone"
    alone.mkdir()
    train(alone, CONVERSION, Path("corpus/manifest.tsv"), *SETTINGS, "optimizer.steps=2", "optimizer.accumulate=2")
    assert scalars(folder, "reconstruction") == pytest.approx(scalars(alone, "reconstruction"), rel=1e-3)
    again = launch(folder, "--set", "optimizer.steps=3")
    assert again.returncode == 2 and "holds a run already" in again.stderr
