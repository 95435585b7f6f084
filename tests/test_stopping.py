"""Which validation was the best: what is kept of it, and when a training ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, scalars, train  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.training import checkpoint, conversion  # noqa: E402
from vconv.training.checkpoint import BEST, CHECKPOINT  # noqa: E402
from vconv.training.stopping import Best  # noqa: E402
from vconv.training.trained import load_conversion  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def steps_that_improve(best: Best, values: list[float], name: str = "validation") -> list[int]:
    return [step for step, value in enumerate(values, 1) if best.improves(step, {name: value, "other": -step})]


def test_the_best_is_the_least_and_a_similarity_the_greatest() -> None:
    assert steps_that_improve(Best("validation"), [3.0, 2.0, 2.0, float("nan"), 2.5, 1.0]) == [1, 2, 6]
    similarity = "held_out/speaker_similarity"
    assert steps_that_improve(Best(similarity), [0.3, 0.2, 0.5], similarity) == [1, 3]
    assert steps_that_improve(Best("missing"), [3.0, 2.0]) == []


def test_validations_before_all_losses_are_on_do_not_count() -> None:
    best = Best("validation", patience=2, since=3)
    assert steps_that_improve(best, [0.0, 0.1, 3.0, 2.0]) == [3, 4]
    assert not best.ended


def test_patience_counts_from_the_best_and_goes_on_after_a_restart() -> None:
    best = Best("validation", patience=2)
    steps_that_improve(best, [2.0, 3.0, 1.0, 3.0])
    assert not best.ended
    again = Best("validation", patience=2).restore(best.state())
    assert not again.improves(5, {"validation": 1.5}) and again.ended
    assert "the best was 1.0000 at step 3" in again.why()
    other = Best("other", patience=1).restore(again.state())  # by another measure
    assert not other.ended and other.improves(6, {"other": 9.0})


def test_the_best_weights_are_kept_and_a_run_without_better_ones_ends(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    every = ("log.validate_every=10", "losses.adversary=0")
    first = train(tmp_path, CONVERSION, corpus, *every, "optimizer.steps=20")
    run = tmp_path / "run"
    best = checkpoint.load(run / BEST)
    assert best["step"] == first["step"] == 20  # on a corpus of vowels, each validation is better
    assert "optimizer" not in best and best["best"]["value"] == pytest.approx(scalars(tmp_path, "validation")[-1])
    assert checkpoint.load(checkpoint.previous(run / BEST))["step"] == 10
    # At such a rate it can only get worse.
    spoiled = (*every, "optimizer.steps=90", "optimizer.learning_rate=0.5", "log.patience=2")
    told = capfd.readouterr().out
    assert f"{run}: steps 1 to 20; losses every" in told
    assert f"{run}: wrote {BEST} (step 20) and {CHECKPOINT} (step 20)" in told
    assert train(tmp_path, CONVERSION, corpus, *spoiled, resume=True)["step"] == 40
    assert "step 40: the run ends, as validation has not improved for 2 validations" in capfd.readouterr().out
    assert checkpoint.load(run / BEST)["step"] == 20
    taken, last = load_conversion(run).state_dict(), load_conversion(run / CHECKPOINT).state_dict()
    assert all(torch.equal(value, best["ema"][name]) for name, value in taken.items())
    assert not all(torch.equal(value, taken[name]) for name, value in last.items())
    # It has ended; with more patience it goes on.
    assert train(tmp_path, CONVERSION, corpus, *spoiled, resume=True)["step"] == 40
    assert train(tmp_path, CONVERSION, corpus, *spoiled[:-1], "log.patience=3", resume=True)["step"] == 50


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("log.best=loss", "log.best: 'loss' is not measured in this run; use validation"),
        ("log.patience=-1", "out of range"),
    ],
)
def test_a_measure_that_is_not_there_is_told_at_once(corpus: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, VOCODER, corpus, override)


def test_no_best_checkpoint_where_none_is_asked_for(corpus: Path, tmp_path: Path) -> None:
    train(
        tmp_path, CONVERSION, corpus, "optimizer.steps=1", "log.validate_every=1", "log.best=''", "losses.adversary=0"
    )
    assert not (tmp_path / "run" / BEST).exists()
    assert load_conversion(tmp_path / "run").training is False


def test_the_pace_is_that_of_the_steps_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now, validate = [0.0], conversion.validate

    def slowly(*arguments: object) -> dict[str, float]:
        now[0] += 100
        return validate(*arguments)

    monkeypatch.setattr("vconv.training.journal.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(conversion, "validate", slowly)
    each = ("optimizer.steps=2", "log.every=1", "log.validate_every=1", "losses.adversary=0")
    train(tmp_path, CONVERSION, corpus, *each)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("step ")]
    assert ["(0.000 s a step)" in line for line in lines] == ["validation" not in line for line in lines]
    assert len(lines) == 4 and not any("00.000" in line for line in lines)
