"""Averaging two checkpoints: between their weights, and nothing of them lost."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.test_recipes import RECIPES, script  # noqa: E402
from vconv.training import checkpoint  # noqa: E402


def save(path: Path, weight: float, step: int, shape: int = 3) -> Path:
    weights = {"layer.weight": torch.full((shape,), weight), "layer.count": torch.tensor(step)}
    checkpoint.save(path, {"step": step, "config": {"task": "conversion"}, "learner": weights, "ema": dict(weights)})
    return path


def test_the_average_lies_between_and_keeps_what_the_later_one_says(tmp_path: Path) -> None:
    first, second, out = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "out"))
    save(first, 1.0, 10)
    save(second, 3.0, 20)
    assert script(RECIPES / "average.py").main([str(first), str(second), "--share", "0.25", "-o", str(out)]) == 0
    result = checkpoint.load(out)
    assert (result["step"], result["config"]) == (20, {"task": "conversion"})
    for part in ("learner", "ema"):
        torch.testing.assert_close(result[part]["layer.weight"], torch.full((3,), 1.5))
        assert result[part]["layer.count"] == 20  # a count is no weight


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = save(tmp_path / "a.safetensors", 1.0, 1), save(tmp_path / "b.safetensors", 1.0, 1, shape=4)
    out = tmp_path / "out.safetensors"
    assert script(RECIPES / "average.py").main([str(first), str(second), "-o", str(out)]) == 2
    assert "(3,) and (4,)" in capsys.readouterr().err
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = save(tmp_path / "a.safetensors", 1.0, 1)
    out = tmp_path / "missing" / "out.safetensors"
    assert script(RECIPES / "average.py").main([str(first), str(first), "-o", str(out)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {out}: cannot be written")
