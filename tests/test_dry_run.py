"""`vconv train --dry-run`: figures of a training from a few steps, and nothing left of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState  # noqa: E402

from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, train  # noqa: E402
from vconv.data.manifest import Clip  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.training import checkpoint, configuration  # noqa: E402
from vconv.training.checkpoint import CHECKPOINT  # noqa: E402
from vconv.training.dry_run import CLIPS, STEPS, choose, measure, shortened  # noqa: E402
from vconv.training.start import make_accelerator  # noqa: E402
from vconv.training.trained import load_conversion, load_vocoder  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "clips", sentences=3)


def write(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


def test_the_command_prints_what_a_training_costs_and_writes_nothing(vconv_cli, corpus: Path, tmp_path: Path) -> None:
    config, before = write(tmp_path, CONVERSION), files(corpus.parent, tmp_path) | {tmp_path / "config.yaml"}
    settings = [f"corpus.manifest={corpus}", f"output={tmp_path / 'run'}", "optimizer.steps=7200"]
    words = [word for setting in settings for word in ("--set", setting)]
    outcome = vconv_cli("train", config, *words, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert files(corpus.parent, tmp_path) == before
    lines = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
    assert list(lines) == ["parameters", "memory", "step", "time", "disk", "GPU"]
    assert "(measured)" in lines["memory"] and "(estimated)" in lines["memory"]
    assert f"mean of {STEPS}" in lines["step"] and "(extrapolated, not measured" in lines["GPU"]
    seconds, hours = (float(re.match(r"[\d.]+", lines[name])[0]) for name in ("step", "time"))
    assert hours == pytest.approx(2 * seconds, abs=0.01) and "for 7200 steps" in lines["time"]


def test_figures_are_those_of_the_training(corpus: Path, tmp_path: Path) -> None:
    """Weights by part, operations by batch, and the steps that remain of a run."""
    output = tmp_path / "run"
    overrides = [f"corpus.manifest={corpus}", f"output={output}", "losses.realism=1", "losses.realism_from=9999"]
    path = write(tmp_path, CONVERSION)
    cost = measure(configuration(path, overrides))
    assert cost.store_bytes > 0 and cost.checkpoint_bytes > 0

    train(tmp_path, CONVERSION, corpus, "optimizer.steps=1")
    model = load_conversion(output / CHECKPOINT)
    parts = {name: sum(v.numel() for v in part.state_dict().values()) for name, part in model.named_children()}
    assert {name: cost.parameters[name] for name in parts} == parts
    assert set(cost.parameters) - set(parts) == {"heads", "discriminator"}
    twice = measure(configuration(path, [*overrides, "optimizer.steps=10", "optimizer.accumulate=2"]), resume=True)
    assert twice.operations == pytest.approx(2 * cost.operations, rel=0.01)
    assert twice.activation_bytes == pytest.approx(cost.activation_bytes, rel=0.2)  # of one batch at a time
    assert twice.steps == 9
    assert twice.store_bytes == twice.features_hours == 0  # the features are there


def test_a_vocoder_has_its_cost_before_its_conversion_model_is_trained(corpus: Path, tmp_path: Path) -> None:
    overrides = [f"corpus.manifest={corpus}", f"output={tmp_path / 'run'}", f"conversion={tmp_path / 'none'}"]
    cost = measure(configuration(write(tmp_path, VOCODER), overrides))
    train(tmp_path, VOCODER, corpus, "optimizer.steps=1")
    assert cost.parameters["vocoder"] == sum(
        p.numel() for p in load_vocoder(tmp_path / "run" / CHECKPOINT).parameters()
    )
    assert cost.parameters["discriminators"] > 0 and cost.step_seconds > 0


def test_shards_stay_as_they_are(corpus: Path, tmp_path: Path) -> None:
    path, shards = write(tmp_path, CONVERSION), [f"corpus.shards={tmp_path / 'none'}", "corpus.features=device"]
    with pytest.raises(InputError, match="a dry run samples its recordings"):
        measure(configuration(path, shards))
    cost = measure(configuration(path, [*shards, f"corpus.manifest={corpus}", f"output={tmp_path / 'run'}"]))
    assert cost.step_seconds > 0 and cost.store_bytes == 0


def test_features_for_the_device_are_counted_and_a_damaged_run_stays_as_it_is(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    checkpoint.save(run / CHECKPOINT, {"step": 3})
    (run / CHECKPOINT).rename(checkpoint.previous(run / CHECKPOINT))
    (run / CHECKPOINT).write_bytes(b"damaged")
    overrides = [f"corpus.manifest={corpus}", f"output={run}", "corpus.features=device", f"corpus.store={tmp_path}/no"]
    path = write(tmp_path, CONVERSION)
    before = files(tmp_path)
    cost = measure(configuration(path, [*overrides, "optimizer.steps=10"]), resume=True)
    assert cost.store_bytes > 0 and cost.features_hours > 0 and cost.steps == 7
    assert files(tmp_path) == before


def test_pre_training_is_not_measured(tmp_path: Path) -> None:
    config = configuration(write(tmp_path, CONVERSION), ["pretrain.steps=100"])
    assert shortened(config, tmp_path / "sample.tsv").pretrain.steps == 0


def test_a_sample_stands_for_the_corpus() -> None:
    """Whole parallel groups, recordings with a full band, and clips with pseudo-labels, where there are any."""
    narrow = [Clip(Path(f"/n/{k}.wav"), f"s{k % 9}", sample_rate=16000) for k in range(500)]
    wide = [Clip(Path(f"/w/{k}.wav"), "wide", sample_rate=24000) for k in range(3)]
    twins = [Clip(Path(f"/g/{k}.wav"), f"t{k % 2}", group=str(k // 2), sample_rate=16000) for k in range(40)]
    labelled = Clip(Path("/l.wav"), "l", sample_rate=16000, extra=(("pseudo_labels", "1 2"),))
    held_out = Clip(Path("/v.wav"), "v", split="valid")
    chosen = choose([*narrow, *wide, *twins, labelled, held_out])
    assert len(chosen) <= CLIPS and labelled in chosen and held_out not in chosen
    assert {clip.speaker for clip in chosen} >= {"wide", "t0", "t1"}
    groups = [clip.group for clip in chosen if clip.group]
    assert len(set(groups)) > 1 and any(groups.count(group) == 2 for group in groups)
    with pytest.raises(InputError, match="no training clips"):
        choose([held_out])


@pytest.mark.parametrize(
    ("found", "precision"), [({"avx2": True}, "no"), ({"avx512_bf16": True}, "bf16"), ({"bf16": True}, "bf16")]
)
def test_bf16_is_taken_where_the_cpu_has_it(
    found: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    AcceleratorState._reset_state(True)  # one precision in a process
    try:
        assert make_accelerator("bf16").mixed_precision == precision
    finally:
        AcceleratorState._reset_state(True)
    assert ("training in float32" in capsys.readouterr().out) is (precision == "no")
