"""Batches that are not finite: the whole step is skipped, counted and told, and many in a row end the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, scalars, train  # noqa: E402
from vconv.data.batches import ConversionSampler  # noqa: E402
from vconv.data.wave_batches import WaveSampler  # noqa: E402
from vconv.errors import VconvError  # noqa: E402
from vconv.training import checkpoint  # noqa: E402
from vconv.training.guard import MAX_SKIPPED  # noqa: E402

CASES = {  # a training, its sampler, and a field of its batches that the discriminators see
    "conversion": (CONVERSION, ConversionSampler, "clean", ["losses.realism=0.5", "losses.realism_from=0"]),
    "vocoder": (VOCODER, WaveSampler, "wave", ["losses.adversarial_from=0"]),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    train(manifest.parent, CONVERSION, manifest, "optimizer.steps=1")  # builds the feature store
    return manifest


def poison(patch: pytest.MonkeyPatch, sampler: type, field: str, steps: range, value: float = np.nan) -> None:
    """Have the batches of some steps hold a number that is not finite."""
    drawn = sampler.batch

    def batch(self: object, step: int, rank: int = 0) -> object:
        found = drawn(self, step, rank)
        if step in steps:
            item = getattr(found, field)[0]
            item.flat[item.size // 2] = value
        return found

    patch.setattr(sampler, "batch", batch)


def tensors(state: object, path: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a training's state, by their place in it."""
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: tensor for key, value in items for name, tensor in tensors(value, f"{path}/{key}").items()}


@pytest.mark.parametrize(("task", "value"), [("conversion", np.nan), ("vocoder", np.inf)])
def test_a_batch_that_is_not_finite_changes_nothing(
    corpus: Path, tmp_path: Path, task: str, value: float, capfd: pytest.CaptureFixture[str]
) -> None:
    text, sampler, field, settings = CASES[task]
    settings = [*settings, "log.every=2", "log.save_every=4"]
    before = train(tmp_path, text, corpus, *settings, "optimizer.steps=4")
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, sampler, field, range(4, 8), value)
        after = train(tmp_path, text, corpus, *settings, "optimizer.steps=8", resume=True)
    lines = capfd.readouterr().out
    assert "step 5 is skipped" in lines and "(4 skipped so far)" in lines
    assert after["step"] == 8
    assert all(torch.isfinite(value).all() for value in tensors(after).values())
    trained = tensors({name: part for name, part in before.items() if name not in ("step", "config")})
    for name, value in tensors({name: after[name] for name in before if name not in ("step", "config")}).items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    assert scalars(tmp_path, "skipped") == [2, 4]
    assert np.isfinite(scalars(tmp_path, "gradient")).all()


@pytest.mark.parametrize("field", ["source", "pitch", "reference"])
def test_each_input_of_the_conversion_model(corpus: Path, tmp_path: Path, field: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, ConversionSampler, field, range(1, 3))
        state = train(tmp_path, CONVERSION, corpus, *CASES["conversion"][3], "optimizer.steps=4")
    assert all(torch.isfinite(value).all() for value in tensors(state).values())


def test_the_first_batch_of_all(corpus: Path, tmp_path: Path) -> None:
    """The codebooks take their first entries from it."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, ConversionSampler, "clean", range(1))
        state = train(tmp_path, CONVERSION, corpus, "optimizer.steps=3")
    codebooks = [value for name, value in state["learner"].items() if name.endswith("_codebook.embed")]
    assert codebooks and all(torch.isfinite(value).all() and value.std() > 0 for value in codebooks)


def test_a_register_that_is_not_known_skips_no_step(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = shutil.copytree(corpus.with_suffix(".store"), tmp_path / "unvoiced.store")
    np.zeros(store.joinpath("f0.raw").stat().st_size // 4, np.float32).tofile(store / "f0.raw")
    settings = f"corpus.store={store}", "model.speaker=table", "losses.speaker=0", "optimizer.steps=2"
    state = train(tmp_path, CONVERSION, corpus, *settings)
    assert state["ema"]["speaker.log_f0"].isnan().all() and "skipped" not in capfd.readouterr().out


@pytest.mark.parametrize("task", CASES)
def test_many_in_a_row_end_the_run(corpus: Path, tmp_path: Path, task: str) -> None:
    text, sampler, field, settings = CASES[task]
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, sampler, field, range(2, 100))
        with pytest.raises(VconvError, match=rf"{MAX_SKIPPED} steps in a row were not finite.*--resume") as caught:
            train(tmp_path, text, corpus, *settings, "optimizer.steps=60", "log.save_every=2")
    assert caught.value.exit_code == 1
    state = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert all(torch.isfinite(value).all() for value in tensors(state).values())


def test_clips_that_came_after_the_feature_store_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_corpus(tmp_path / "corpus", sentences=3)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    (manifest.parent / "broken.wav").write_bytes(b"no sound")
    with manifest.open("a", encoding="utf-8") as file:
        file.write("broken.wav\ta\tAI\t\t24000\ttrain\t\n")  # told when the store is built, and not again
    train(tmp_path / "first", CONVERSION, manifest, "optimizer.steps=1")
    lines = capfd.readouterr()
    assert "left out: " in lines.out and "not in the feature store" not in lines.err
    first = next(manifest.parent.glob("0_*.wav"))
    first.rename(manifest.parent / "new.wav")
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(first.name, "new.wav"), encoding="utf-8")
    monkeypatch.chdir(manifest.parent)  # clips are the same by a relative path
    train(tmp_path / "second", CONVERSION, Path(manifest.name), "optimizer.steps=1")
    assert "1 of the manifest's 13 clips are not in the feature store" in capfd.readouterr().err
