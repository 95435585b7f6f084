"""Checkpoints: exact, atomic, and no pickle."""

from __future__ import annotations

import pickle

import pytest

torch = pytest.importorskip("torch")

from vconv.errors import InputError, VconvError  # noqa: E402
from vconv.training import checkpoint  # noqa: E402


def test_round_trip_of_a_run(tmp_path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    state = {
        "step": 7,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "nested": {"list": [1, 2.5, None, "text", True], "half": torch.ones(2, dtype=torch.bfloat16)},
    }
    checkpoint.save(tmp_path / "a.safetensors", state)
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    assert loaded["step"] == 7
    assert loaded["nested"]["list"] == [1, 2.5, None, "text", True]
    assert loaded["nested"]["half"].dtype == torch.bfloat16
    assert torch.equal(loaded["random"], state["random"])
    twin = torch.nn.Linear(3, 2)
    twin.load_state_dict(loaded["module"])
    again = torch.optim.AdamW(twin.parameters())
    again.load_state_dict(loaded["optimizer"])
    for mine, theirs in zip(module.parameters(), twin.parameters()):
        assert torch.equal(mine, theirs)
        assert torch.equal(optimizer.state[mine]["exp_avg_sq"], again.state[theirs]["exp_avg_sq"])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"step": 1})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    with pytest.raises(VconvError, match=r"disk full.*look at"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_is_no_checkpoint_is_refused_unread(tmp_path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("a pickle was executed",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="not a vconv checkpoint"):
        checkpoint.load(path)
    checkpoint.save(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none")
