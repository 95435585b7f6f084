"""Checkpoints: exact, atomic, and no pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

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


def two_generations(folder: Path) -> Path:
    """Checkpoints of step 1 and of step 2."""
    path = folder / "checkpoint.safetensors"
    for step in (1, 2):
        checkpoint.save(path, {"step": step, "weights": torch.full((5000,), float(step))}, keep_previous=True)
    return path


@pytest.mark.parametrize("damage", ["zeroed", "flipped", "cut"])
def test_damage_is_found_by_the_checksum(tmp_path: Path, damage: str) -> None:
    path = two_generations(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "zeroed":
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    elif damage == "flipped":
        data[-1000] ^= 1
    else:
        del data[-4:]
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(path)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two_generations(tmp_path)
    assert checkpoint.load_latest(path)["step"] == 2 and not capsys.readouterr().out
    data = bytearray(path.read_bytes())
    data[-1000:] = bytes(1000)
    path.write_bytes(data)
    assert checkpoint.load_latest(path)["step"] == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert str(path) in line and "damaged" in line and "step 1" in line
    # The damaged one does not take the place of the last whole one.
    checkpoint.save(path, {"step": 3}, keep_previous=True)
    assert checkpoint.load(path)["step"] == 3
    checkpoint.save(path, {"step": 4}, keep_previous=True)
    assert checkpoint.load(checkpoint.previous(path))["step"] == 3


def test_all_checkpoints_damaged(tmp_path: Path) -> None:
    path = two_generations(tmp_path)
    for place in (path, checkpoint.previous(path)):
        place.write_bytes(place.read_bytes()[:100])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: not a vconv checkpoint, or damaged"):
        checkpoint.load_latest(path)
    assert checkpoint.load_latest(tmp_path / "none.safetensors") is None


def test_a_kill_between_the_two_names_loses_nothing(tmp_path: Path) -> None:
    path = two_generations(tmp_path)
    path.unlink()
    assert checkpoint.load_latest(path)["step"] == 1


def test_the_last_two_are_kept_and_no_more(tmp_path: Path) -> None:
    path = two_generations(tmp_path)
    checkpoint.save(path, {"step": 3}, keep_previous=True)
    assert [checkpoint.load(place)["step"] for place in (path, checkpoint.previous(path))] == [3, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_without_links_two_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", fail)
    path = two_generations(tmp_path)
    assert [checkpoint.load(place)["step"] for place in (path, checkpoint.previous(path))] == [2, 1]


def test_a_full_disk_costs_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = two_generations(tmp_path)
    save_file = checkpoint.save_file

    def full(*arguments: object) -> None:
        if checkpoint.previous(path).exists():
            raise OSError("disk full")
        save_file(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full)
    checkpoint.save(path, {"step": 3}, keep_previous=True)
    assert [checkpoint.load(place)["step"] for place in (path, checkpoint.previous(path))] == [3, 2]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_nothing_stays_mapped(tmp_path: Path) -> None:
    path = two_generations(tmp_path)
    state = checkpoint.load(path)
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert state["weights"][0] == 2


@pytest.mark.parametrize(
    "state", ["[" * 100_000, json.dumps({"pairs": [[["a"], 1]]}), '{"pairs": 3}', "[]", "7", '"tensor:none"']
)
def test_a_header_that_holds_no_state(tmp_path: Path, state: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path, {"state": state})
    with pytest.raises(InputError, match="not a vconv checkpoint"):
        checkpoint.load(path)


def test_weights_that_do_not_fit_their_configuration(tmp_path: Path) -> None:
    from vconv.training.trained import load_conversion, load_vocoder, trained_with

    path = tmp_path / "a.safetensors"
    for state in ({}, {"config": 3}, {"config": {"model": {}}, "ema": {}}, {"config": {"model": {}}, "ema": None}):
        checkpoint.save(path, {"task": "vocoder"} | state)
        with pytest.raises(InputError, match=r"a\.safetensors.*configuration"):
            load_vocoder(path)
    for state in ({}, {"config": 3}):
        checkpoint.save(path, {"task": "conversion"} | state)
        with pytest.raises(InputError, match=r"a\.safetensors.*configuration"):
            load_conversion(path)
    checkpoint.save(path, {"task": "conversion", "config": 3})
    with pytest.raises(InputError, match=r"a\.safetensors.*configuration"):
        trained_with(path)
