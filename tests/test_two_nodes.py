"""Training on two machines: two launches with folders of their own, joined by TCP, and one output that they share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.conftest import REPOSITORY  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv.training import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed part"),
]
# In warm-up the rate does not depend on the number of steps.
SETTINGS = ("model.bottleneck.kind=identity", "losses.adversary=0", "log.every=1", "optimizer.warmup=100")
TWO_STEPS = (*SETTINGS, "optimizer.steps=2", "log.validate_every=1", "log.patience=9")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(node: int, port: int, folder: Path, output: Path, settings: tuple[str, ...]) -> subprocess.Popen[str]:
    """``accelerate launch`` on one of two machines; the paths of config and corpus are those of its own folder."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2"]
    command += ["--num_processes=2", f"--machine_rank={node}", "--main_process_ip=127.0.0.1"]
    command += [f"--main_process_port={port}", "-m", "vconv", "train", "config.yaml"]
    for setting in ("corpus.manifest=corpus/manifest.tsv", f"output={output}", *settings):
        command += ["--set", setting]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    env |= {"GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes)


def test_two_machines_learn_what_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [tmp_path / "first", tmp_path / "second"]
    make_corpus(nodes[0] / "corpus", sentences=3)
    shutil.copytree(nodes[0], nodes[1])
    for node in nodes:
        (node / "config.yaml").write_text(CONVERSION)
    shared = tmp_path / "shared"
    port = free_port()
    processes = [launch(rank, port, node, shared / "run", TWO_STEPS) for rank, node in enumerate(nodes)]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert "step 2 " in outputs[0] and "step 2 " not in outputs[1]  # one of them tells
    for node in nodes:
        assert {path.name for path in node.iterdir()} == {"config.yaml", "corpus"}  # all else is in the output
        assert (node / "corpus" / "manifest.store" / "index.json").is_file()  # each extracts features on its own disk
    assert checkpoint.load(shared / "run" / checkpoint.CHECKPOINT)["step"] == 2
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.chdir(nodes[0])
    state = train(alone, CONVERSION, Path("corpus/manifest.tsv"), *TWO_STEPS, "optimizer.accumulate=2")
    assert state["step"] == 2
    for name in ("reconstruction", "gradient", "validation"):
        assert scalars(shared, name) == pytest.approx(scalars(alone, name), rel=1e-3)
