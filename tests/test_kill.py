"""kill -9 at any moment, and the same command again: nothing is lost, and nothing half-written was ever there.

VCONV_KILLS is how many times each command is killed, 3 if it is not set.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY, speech
from vconv import audio

KILLS = int(os.environ.get("VCONV_KILLS", "3"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vconv", *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def run(*arguments: object) -> float:
    """Run a command to its end; returns the seconds it took."""
    begun = time.monotonic()
    process = start(*arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    return time.monotonic() - begun


def kill_at_random(
    moments: int, seconds: float, first: tuple[object, ...], again: tuple[object, ...], check: Callable[[], None]
) -> int:
    """Begin a command, and go on with it as often, each time for a random part of ``seconds``; then kill it.

    ``check`` looks at what is there after each kill. Returns how often there was something to kill.
    """
    rng = np.random.default_rng(0)
    killed = 0
    for number in range(moments):
        process = start(*(again if number else first))
        try:
            process.wait(rng.uniform(0.2, 0.9 if number else 0.5) * seconds)  # the first run is surely killed
        except subprocess.TimeoutExpired:
            killed += 1
        if number % 2:  # the whole group, as a machine that goes down does, or the one process, as by hand
            process.kill()
        else:
            kill_group(process.pid)
        process.communicate(timeout=60)
        for _ in range(300):  # workers end with the process that started them, a moment later
            if not kill_group(process.pid, 0):
                break
            time.sleep(0.1)
        assert not kill_group(process.pid, 0)
        check()
    return killed


def kill_group(group: int, number: int = signal.SIGKILL) -> bool:
    """Signal a process group; whether there was one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def test_prepare(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "corpus" / f"speaker{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(8000 + 100 * number), 16000)
    (folder / "bad.wav").write_text("no audio")
    whole, manifest = tmp_path / "whole.tsv", tmp_path / "corpus.tsv"
    command = ("prepare", tmp_path / "corpus", "--jobs", "2", "-o")
    seconds = run(*command, whole)

    def check() -> None:
        assert not manifest.exists() or manifest.read_bytes() == whole.read_bytes()

    assert kill_at_random(KILLS, seconds, (*command, manifest), (*command, manifest), check)
    run(*command, manifest)
    assert manifest.read_bytes() == whole.read_bytes()


def test_convert(tmp_path: Path, clips: Path, model: Path) -> None:
    for number in range(12):
        audio.write(clips / f"{number:02}.flac", speech(2.0 + 0.1 * number, seed=number), 16000)
    command = ("convert", clips, "-t", clips / "low.wav", "--model", model, "--jobs", "2", "-o")
    seconds = run(*command, tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(names) == 15
    out = tmp_path / "out"

    def check() -> None:
        visible = [path for path in out.glob("*") if not path.name.startswith(".")]
        for path in visible:
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes(), path

    again = (*command, out, "--skip-existing")
    assert kill_at_random(KILLS, seconds, (*command, out), again, check)
    for path in out.glob(".vconv-*"):
        os.utime(path, (0, 0))  # as if the next run came later
    run(*again)
    assert sorted(path.name for path in out.iterdir()) == names
    check()


@pytest.mark.parametrize("features", ["store", "on_the_fly"])
def test_train(tmp_path: Path, features: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from tests.synthetic import make_corpus
    from tests.test_training import CONVERSION, EVERYTHING, scalars
    from vconv.data.manifest import prepare
    from vconv.training import checkpoint

    steps = 24
    table = make_corpus(tmp_path / "corpus")
    prepare(table, table.with_name("corpus.tsv"), layout="tsv", jobs=1)
    config = tmp_path / "config.yaml"
    config.write_text(CONVERSION)
    settings = [f"corpus.manifest={table.with_name('corpus.tsv')}", f"optimizer.steps={steps}", "log.every=1"]
    settings += ["log.save_every=2", "log.validate_every=8", "corpus.processes=2", f"corpus.features={features}"]
    settings += ["corpus.workers=1", f"corpus.cache={tmp_path / 'cache'}"] if features == "on_the_fly" else []
    settings += EVERYTHING

    def command(name: str) -> tuple[str, ...]:
        return (
            "train",
            str(config),
            *(x for s in (*settings, f"output={tmp_path / name / 'run'}") for x in ("--set", s)),
        )

    seconds = run(*command("whole"))
    whole = checkpoint.load(tmp_path / "whole" / "run" / "checkpoint.safetensors")
    store = table.with_name("corpus.store")
    for path in (store / name for name in ("index.json", "mel.raw", "f0.raw", "wave.raw") if store.exists()):
        path.unlink()  # so that its building is killed too
    made = tmp_path / "parts" / "run" / "checkpoint.safetensors"
    seen: list[int] = []

    def check() -> None:
        if made.exists():
            seen.append(checkpoint.load(made)["step"])
        if (store / "index.json").exists():
            assert (store / "wave.raw").stat().st_size > 0
        for path in (tmp_path / "cache").glob("??/*"):
            with np.load(path) as arrays:
                assert set(arrays) == {"mel", "f0", "wave"}

    again = (*command("parts"), "--resume")
    assert kill_at_random(KILLS, seconds, again, again, check)
    run(*again)
    assert seen == sorted(seen)
    result = checkpoint.load(made)
    assert result["step"] == whole["step"] == steps
    for part in ("learner", "ema", "discriminator"):
        for name, value in whole[part].items():
            torch.testing.assert_close(result[part][name], value, rtol=0, atol=1e-6)
    curves = [scalars(tmp_path / name, "reconstruction") for name in ("whole", "parts")]
    assert len(curves[0]) == steps
    assert curves[1] == pytest.approx(curves[0], abs=1e-6)
