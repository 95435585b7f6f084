"""The recipe that compares configurations: what they are, how they are run, and what is made of the results."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
import types
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.synthetic import make_corpus
from tests.test_recipes import script
from vconv.config import build
from vconv.config_files import load_yaml
from vconv.errors import InputError, VconvError
from vconv.evaluation.statistics import Estimate
from vconv.inference.utterance import Utterance

pytestmark = pytest.mark.slow  # trains, or runs whole recipes

RECIPE = REPOSITORY / "recipes" / "ablations"
YAMLS = sorted(path.stem for path in RECIPE.glob("*.yaml") if path.stem != "base")

SMALL_CONVERSION = (
    "threads=1 precision=no corpus.processes=1 model.channels=16 model.content_blocks=[1,1] model.content_channels=8 "
    "model.speaker_blocks=1 model.embedding_channels=16 model.decoder_channels=16 model.decoder_blocks=[1,1] "
    "model.attention_channels=16 model.attention_heads=2 model.bottleneck.groups=2 model.bottleneck.codes=16 "
    "batch.items=4 batch.frames=32 batch.reference_frames=[32,48] batch.phone_items=1 optimizer.steps=4 log.every=2"
)

# What a configuration is about, by the name that it has in the settings.
ABOUT = {
    "adversary_sex": "losses.adversary_label",
    "alternating": "losses.adversary_kind",
    "autoencoder": "model.bottleneck.kind",
    "binary": "model.bottleneck.kind",
    "concat": "model.conditioning",
    "content_information": "losses.content_information",
    "contractive": "losses.contractive",
    "cpc": "losses.cpc",
    "cycle": "losses.cycle",
    "fsq": "model.bottleneck.kind",
    "gumbel": "model.bottleneck.kind",
    "identity": "model.bottleneck.kind",
    "layerwise": "pretrain.steps",
    "masked": "batch.perturb.mask",
    "no_adversary": "losses.adversary",
    "no_instance_norm": "model.content_norm",
    "no_parallel": "batch.parallel_share",
    "no_perturbation": "batch.perturb.warp",
    "no_phones": "losses.phones",
    "residual_vq": "model.bottleneck.quantizers",
    "sparse": "model.bottleneck.kind",
    "speaker_information": "losses.speaker_information",
    "table": "model.speaker",
    "vae": "model.bottleneck.kind",
}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The recipe's scripts as modules, which find one another as they do when they are run."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(RECIPE), *sys.path])
    names = ("table", "kmeans", "run")
    for name in (*names, "make_pairs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = types.SimpleNamespace(**{name: script(RECIPE / f"{name}.py") for name in names})
    for name in (*names, "make_pairs"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    return found


# ---------------------------------------------------------------- the configurations


def leaves(mapping: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Values by their dotted names."""
    found = {}
    for key, value in mapping.items():
        inside = isinstance(value, dict)
        found |= leaves(value, f"{path}{key}.") if inside else {f"{path}{key}": value}
    return found


def settings(name: str) -> dict[str, Any]:
    """All of a configuration's settings, as training takes them."""
    pytest.importorskip("torch")
    from vconv.training.conversion_settings import ConversionTraining

    return leaves(dataclasses.asdict(build(ConversionTraining, load_yaml(RECIPE / f"{name}.yaml"))))


@pytest.mark.parametrize("name", YAMLS)
def test_a_configuration_differs_in_what_it_says_and_nothing_else(name: str) -> None:
    import yaml

    own = yaml.safe_load((RECIPE / f"{name}.yaml").read_text(encoding="utf-8"))
    assert own.pop("base") == "base.yaml"
    base, here = settings("base"), settings(name)
    changed = {key for key in here if here[key] != base[key]}
    if name == "vq":  # it is the default
        assert not changed and base["model.bottleneck.kind"] == "vq"
    else:
        assert ABOUT[name] in changed
        assert changed <= set(leaves(own))


def test_every_configuration_is_run(recipe: types.SimpleNamespace) -> None:
    assert sorted(recipe.run.CONFIGS) == YAMLS
    assert recipe.run.chosen(None)[:2] == ["vq", "kmeans"]
    assert recipe.run.chosen("fsq, vq") == ["vq", "fsq"]
    with pytest.raises(InputError, match="--only fqs: there is no such configuration"):
        recipe.run.chosen("fqs")


def test_the_budget_is_the_same_for_all() -> None:
    keys = ("optimizer.steps", "batch.items", "batch.frames", "seed", "model.channels", "model.content_channels")
    assert len({tuple(settings(name)[key] for key in keys) for name in YAMLS}) == 1


def test_codes_to_be_compared_have_as_many_bits(recipe: types.SimpleNamespace) -> None:
    bits = {
        name: recipe.table.bits_at_most(load_yaml(RECIPE / f"{name}.yaml"))
        for name in ("vq", "residual_vq", "fsq", "gumbel", "binary", "identity", "sparse", "vae")
    }
    of_kmeans = 31.25 * recipe.kmeans.GROUPS * np.log2(recipe.kmeans.CODES)
    assert {bits.pop(name) for name in ("identity", "sparse", "vae")} == {None}
    assert set(bits.values()) == {of_kmeans} == {562.5}


# ---------------------------------------------------------------- k-means


def test_kmeans_finds_sounds_and_not_what_is_constant(recipe: types.SimpleNamespace) -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    sounds = rng.normal(size=(4, 80))

    def clip(order: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Two frames of each sound, of somebody with a spectrum of his own: [80, T]"""
        return (sounds[order].repeat(2, axis=0) + colour + 0.05 * rng.normal(size=(2 * len(order), 80))).T

    orders = [rng.permutation(np.arange(40) % 4) for _ in range(20)]
    learned = [clip(order, 3 * rng.normal(size=80)) for order in orders]
    code = recipe.kmeans.KMeansCode(learned, codes=4)
    one, other = (
        code.content(Utterance(np.zeros(0, np.float32), clip(orders[0], 5 * rng.normal(size=80)))) for _ in range(2)
    )
    assert one.content.shape == (160, 40) and one.codes.shape == (2, 40)
    assert np.array_equal(one.codes, other.codes)
    for group in one.codes:
        pairs = set(zip(group.tolist(), orders[0].tolist()))
        assert len({number for number, _ in pairs}) == len(pairs)  # a centroid stands for one sound


# ---------------------------------------------------------------- the table and the plot


def made_up(folder: Path, kind: str, leak: float, phones: float, wer: float | None) -> Path:
    """A configuration's folder as a run leaves it."""

    def write(place: str, content: dict[str, Any]) -> None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(json.dumps(content), encoding="utf-8")

    def figure(value: float, chance: float | None = None) -> dict[str, Any]:
        rows = [float(n < round(20 * value)) for n in range(20)]
        return {"value": value, "low": value - 0.02, "high": value + 0.03, "chance": chance, "better": 1, "rows": rows}

    write("config.json", {"model": {"bottleneck": {"kind": kind}}})
    figures = {"speaker_from_code": figure(leak, 0.05), "phone_from_code": figure(phones, 0.11)}
    write("probe/probe.json", {"figures": figures | {"rebuilt_error": figure(4.321)}})
    if wer is not None:
        estimate = {"value": wer, "low": None, "high": None, "count": 1}
        write("evaluation/results.json", {"systems": {"vconv": {"wer": estimate}}})
    return folder


def test_no_name_in_the_table_is_a_formula(recipe: types.SimpleNamespace) -> None:
    estimate = Estimate(-0.5, -0.6, -0.4, 20)
    lines = recipe.table.comma_separated([recipe.table.Row("=1+1", {"wer": estimate})]).splitlines()
    assert lines[1].split(",") == ["'=1+1", "wer", "-0.5", "-0.6", "-0.4", ""]


def test_table_and_plot(recipe: types.SimpleNamespace, tmp_path: Path) -> None:
    table = recipe.table
    folders = [
        made_up(tmp_path / "vq", "vq", 0.12, 0.61, 0.4),
        made_up(tmp_path / "identity", "identity", 0.7, 0.66, None),
        made_up(tmp_path / "not_measured", "fsq", 0.1, 0.1, None),
    ]
    (tmp_path / "not_measured" / "probe" / "probe.json").unlink()
    table.write([table.read_row(folder) for folder in folders], tmp_path)
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    cells: dict[str, list[list[str]]] = {}  # by the first cell
    for line in lines:
        first, *others = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        cells.setdefault(first, []).append(others)
    titles = [column.key for column in table.COLUMNS]
    vq, identity = (dict(zip(titles, cells[name][0])) for name in ("vq", "identity"))
    assert "not_measured" not in cells
    assert vq["rebuilt_error"] == "4.32 (4.30–4.35)"
    assert vq["speaker_from_code"] == "12 (10–15)" and identity["speaker_from_code"] == "70 (68–73)"
    # Clip by clip, 14 of 20 voices are recognized and 2 of 20: 60 % more.
    assert cells["identity"][1][2].startswith("+60 (+35 to +80)") and cells["identity"][1][3] == "< 0.001"
    assert vq["wer"] == "40" and identity["wer"] == "–"
    assert vq["bits_at_most"] == "562" and identity["bits_at_most"] == "–"
    assert any("speaker accuracy from the code 5" in line and "vectors 11" in line for line in lines)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    leaks = {row["configuration"]: row for row in rows if row["figure"] == "speaker_from_code"}
    assert (leaks["vq"]["value"], leaks["vq"]["low"], leaks["vq"]["chance"]) == ("0.12", "0.1", "0.05")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


# ---------------------------------------------------------------- running


def test_stages_go_on_where_they_stopped(recipe: types.SimpleNamespace, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def run(*words: str) -> None:
        stages = recipe.run.Stages(tmp_path / "config")
        for place, word in enumerate(words):
            code = f"open({str(log)!r}, 'a').write('{word} '); print('said {word}'); exit('{word}' == 'bad')"
            stages.run(str(place), [sys.executable, "-c", code])

    with pytest.raises(VconvError, match="config: 1 failed: said bad"):
        run("one", "bad", "three")
    run("one", "two", "three")
    run("one", "two", "three")
    assert log.read_text().split() == ["one", "bad", "two", "three"]
    run("one", "changed", "three")
    assert log.read_text().split()[4:] == ["changed", "three"]


def test_results_of_other_settings_are_not_mixed(
    recipe: types.SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(recipe.run.Stages, "run", lambda self, name, command, allow=(0,): ran.append([name, *command]))
    setup = recipe.run.Setup(tmp_path / "c.tsv", tmp_path / "out", tmp_path / "vocoder", ("optimizer.steps=7",))
    recipe.run.measure_config("fsq", setup)
    assert [command[0] for command in ran] == ["train", "export", "probe"]
    assert "optimizer.steps=7" in ran[0] and setup.vocoder in ran[1]
    recipe.run.measure_config("fsq", setup)  # the same again
    other = dataclasses.replace(setup, settings=("optimizer.steps=8",))
    with pytest.raises(InputError, match="other settings"):
        recipe.run.measure_config("fsq", other)


def test_what_has_failed_or_has_no_voices_is_not_judged(
    recipe: types.SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(recipe.run.Stages, "run", lambda self, *arguments, allow=(0,): ran.append(self.folder.name))
    setup = recipe.run.Setup(tmp_path / "c.tsv", tmp_path / "out", tmp_path / "vocoder")
    good, bad = Future(), Future()
    good.set_result(None)
    bad.set_exception(VconvError("it failed"))
    for name, task in (("vq", good), ("fsq", bad), ("table", good)):
        recipe.run.judge_config(name, setup, task)
    assert ran == ["vq"]


@pytest.mark.slow
def test_two_codes_from_a_corpus_to_a_table(
    recipe: types.SimpleNamespace, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("accelerate", "sklearn"):
        pytest.importorskip(package)
    manifest = make_corpus(tmp_path / "corpus", 8)
    lines = manifest.read_text(encoding="utf-8").splitlines()
    held_out = [line.replace("\ttrain", "\tvalid") for line in lines[13:]]  # five sentences of all speakers
    manifest.write_text("\n".join([*lines[:13], *held_out]) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    monkeypatch.setattr(recipe.run, "missing_judges", lambda: ["the judges have tests of their own"])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = recipe.run.vconv

    def quick(name: str, *arguments: object) -> list[object]:
        """Export takes half a minute and has tests of its own: a model that is there stands for what it would write."""
        if name != "export":
            return command(name, *arguments)
        copy = f"import shutil; shutil.copytree({str(small_model)!r}, {str(arguments[3])!r}, dirs_exist_ok=True)"
        return [sys.executable, "-c", copy]

    monkeypatch.setattr(recipe.run, "vconv", quick)
    setup = recipe.run.Setup(manifest, out, small_model, tuple(SMALL_CONVERSION.split()), 4, 8)
    assert recipe.run.run(setup, ["fsq", "kmeans"], jobs=1) == []
    rows = {
        line.split("|")[1].strip()
        for line in (out / "table.md").read_text(encoding="utf-8").splitlines()
        if "|" in line
    }
    assert {"fsq", "kmeans"} <= rows
    assert recipe.table.read_row(out / "fsq").figures["rebuilt_error"].value > 0
    written = {path: path.stat().st_mtime_ns for path in (out / "fsq").rglob("*") if path.is_file()}
    assert recipe.run.run(setup, ["fsq"], jobs=1) == []  # nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in written} == written
