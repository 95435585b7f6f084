"""Several training processes: they learn what one does from as many batches, and one goes on where they were."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.conftest import REPOSITORY  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, EVERYTHING, VOCODER, scalars, train  # noqa: E402
from vconv.config import BottleneckConfig  # noqa: E402
from vconv.models.bottleneck.vq import VectorQuantizer  # noqa: E402
from vconv.training import checkpoint  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no distributed part"),
]
# In warm-up the rate does not depend on where the run ends, so that a run can be ended early.
SHORT = ("log.every=1", "log.save_every=100", "log.validate_every=3", "optimizer.warmup=100", "optimizer.accumulate=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def train_in_two(folder: Path, text: str, manifest: Path, *overrides: str) -> dict:
    """``accelerate launch -m vconv train``: two processes on the CPU, which is all that its ``--multi_gpu`` needs."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(text)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    command += ["--main_process_port=0", "-m", "vconv", "train", str(config)]
    for override in (f"corpus.manifest={manifest}", f"output={folder / 'run'}", *overrides):
        command += ["--set", override]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("step 1 ") == 1  # only one of them prints
    return checkpoint.load(folder / "run" / "checkpoint.safetensors")


@pytest.mark.parametrize(
    ("text", "extra", "loss"),
    [
        (CONVERSION, ("model.bottleneck.kind=identity", *EVERYTHING), "reconstruction"),
        (VOCODER, ("losses.adversarial_from=1",), "spectral"),
    ],
    ids=["conversion", "vocoder"],
)
def test_two_processes_learn_what_one_does_from_as_many_batches(
    corpus: Path, tmp_path: Path, text: str, extra: tuple[str, ...], loss: str
) -> None:
    extra = (*SHORT, *extra)
    (tmp_path / "one").mkdir()
    one = train(tmp_path / "one", text, corpus, *extra, "optimizer.steps=6", "optimizer.accumulate=2")
    assert train_in_two(tmp_path / "two", text, corpus, *extra, "optimizer.steps=4")["step"] == 4
    for name in (loss, "critic", "gradient"):
        alone = scalars(tmp_path / "one", name)
        together = scalars(tmp_path / "two", name)
        assert len(alone) - len(together) == 2
        assert together == pytest.approx(alone[:-2], rel=1e-3)
    assert len(set(scalars(tmp_path / "one", loss))) == 6  # another batch at every step
    # One process goes on with what two began.
    resumed = train(tmp_path / "two", text, corpus, *extra, "optimizer.steps=6", "optimizer.accumulate=2", resume=True)
    assert resumed["step"] == one["step"] == 6
    assert scalars(tmp_path / "two", loss) == pytest.approx(scalars(tmp_path / "one", loss), rel=1e-3)
    validation = [scalars(tmp_path / folder, "validation") for folder in ("one", "two")]
    assert list(map(len, validation)) == [2, 3]  # every third step, and at the end of each run
    assert validation[1][::2] == pytest.approx(validation[0], rel=1e-3)


def test_two_processes_train_codebooks(corpus: Path, tmp_path: Path) -> None:
    state = train_in_two(tmp_path / "two", CONVERSION, corpus, *SHORT, "optimizer.steps=5", *EVERYTHING)
    books = {name: value for name, value in state["learner"].items() if name.endswith("._codebook.embed")}
    assert len(books) == 1
    (book,) = books.values()
    assert torch.isfinite(book).all()
    assert len(book[0].unique(dim=0)) > 8  # k-means over what both processes hear, not one code in many places
    assert (tmp_path / "two" / "run" / "tensorboard").is_dir()
    (tmp_path / "two" / "run" / ".checkpoint.safetensors.partial").write_text("what a kill leaves")
    resumed = train(tmp_path / "two", CONVERSION, corpus, *SHORT, "optimizer.steps=7", *EVERYTHING, resume=True)
    assert resumed["step"] == 7
    kept = {
        "tensorboard",
        *(f"{name}{part}.safetensors" for name in ("checkpoint", "best") for part in ("", ".previous")),
    }
    assert {path.name for path in (tmp_path / "two" / "run").iterdir()} == kept


# ---------------------------------------------------------------- the codebooks alone

VQ = BottleneckConfig(groups=2, codes=6, decay=0.5, dead_code_threshold=0.0)
CHANNELS = 8


def batches() -> torch.Tensor:
    """Steps of [process, B, C, T]."""
    return torch.randn(4, 2, 3, CHANNELS, 20, generator=torch.Generator().manual_seed(0))


def begin(quantizer: VectorQuantizer) -> None:
    """The same codes everywhere, which k-means would otherwise draw at random."""
    book = quantizer.quantizer["_codebook"]
    book.embed.copy_(torch.randn(book.embed.shape, generator=torch.Generator().manual_seed(1)))
    book.embed_avg.copy_(book.embed)
    book.initted.fill_(True)


def in_one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)
    shared, fresh, dying = (VectorQuantizer(CHANNELS, VQ) for _ in range(3))
    begin(shared)
    dying.quantizer["_codebook"].dead_code_threshold = 30.0
    for step in batches():
        for quantizer in (shared, fresh, dying):
            quantizer(step[rank])
    result = {name: q.state_dict() for name, q in (("shared", shared), ("fresh", fresh), ("dying", dying))}
    checkpoint.save(Path(folder) / f"{rank}.safetensors", result)
    torch.distributed.destroy_process_group()


def test_codebooks_are_those_of_all_batches_in_all_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(in_one_of_two, (str(tmp_path),), 2)
    first, second = (checkpoint.load(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for kind, state in first.items():
        for name, value in state.items():
            assert torch.equal(value, second[kind][name]), (kind, name)
            assert torch.isfinite(value).all()
    whole = VectorQuantizer(CHANNELS, VQ)
    begin(whole)
    for step in batches():
        whole(step.flatten(0, 1))
    torch.testing.assert_close(first["shared"], dict(whole.state_dict()), rtol=1e-5, atol=1e-6)
    # Every vector that replaces a code, or with which k-means begins, is one that some process heard.
    heard = batches().permute(0, 1, 2, 4, 3).reshape(-1, CHANNELS).unflatten(1, (2, -1)).transpose(0, 1)
    distance = torch.cdist(first["dying"]["quantizer._codebook.embed"], heard).amin(dim=2)
    assert (distance < 1e-5).any()
    spread = first["fresh"]["quantizer._codebook.embed"]
    assert all(len(book.unique(dim=0)) == VQ.codes for book in spread)
