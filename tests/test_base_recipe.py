"""The recipe of the whole model: its stages in order, what a kill leaves, and a miniature from manifest to figures."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.synthetic import make_corpus
from tests.test_recipes import MINIATURE, script
from vconv.errors import InputError, VconvError

RECIPE = REPOSITORY / "recipes" / "base"
SIZES = sorted(path.stem for path in (RECIPE / "sizes").glob("*.yaml"))

recipe = script(RECIPE / "run.py")


# ---------------------------------------------------------------- stages


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Speakers of the valid split alone are held out; nothing is read of the clips."""
    path = tmp_path / "corpus.tsv"
    lines = [
        "path\tspeaker\tsplit\tphones",
        "a.wav\ta\ttrain\taba",
        "b.wav\tb\tvalid\t",
        "c.wav\tc\tvalid\t",
        "d.wav\td\ttest\t",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def made(manifest: Path, *words: str) -> tuple[list, object]:
    arguments = recipe.parser().parse_args([str(manifest), str(manifest.parent / "out"), *words])
    setup = recipe.read_setup(arguments)
    return recipe.make_stages(setup), setup


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_good_settings_in_every_stage(manifest: Path, size: str) -> None:
    pytest.importorskip("torch")
    from vconv.training import build_configuration

    stages, setup = made(manifest, size)
    recipe.check(stages)
    configs = {stage.name: build_configuration(stage.config, stage.name) for stage in stages if stage.config}
    assert set(configs) == set(recipe.TRAININGS)
    # The encoder's weights are taken whole, and the perceptual losses run before the end.
    assert configs["encoder"].model == configs["conversion"].model
    assert configs["vocoder"].model == configs["vocoder_predicted"].model
    conversion = configs["conversion"]
    assert conversion.losses.has_perceptual and conversion.losses.cycle_from < conversion.optimizer.steps
    # All that a stage takes from another is made by a stage that it needs, itself or through others.
    needed: dict[str, set[str]] = {}
    for stage in stages:
        needed[stage.name] = {*stage.needs}.union(*(needed[name] for name in stage.needs))
        text = f"{stage.config} {stage.commands}"
        taken = {name for name in needed if f"{setup.output / name}/" in text} - {stage.name}
        assert taken <= needed[stage.name]


def test_a_corpus_without_phones_has_no_training_of_encoders(manifest: Path) -> None:
    stages, setup = made(manifest, "cpu")
    manifest.write_text(manifest.read_text().replace("aba", ""))
    fewer, _ = made(manifest, "cpu")
    changed = [stage.name for stage in stages if stage not in fewer]
    assert changed == ["encoders", "averaged_encoders", "live_asr_encoder", "export"]
    assert f"{setup.output / 'encoders'}" not in str(fewer)


def test_without_two_held_out_speakers_there_is_no_evaluation(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    stages, _ = made(manifest, "--set", "evaluate.split=test")
    assert stages[-1].name == "export"  # the split that is asked for has one
    manifest.write_text(manifest.read_text().replace("c.wav\tc\tvalid\t\n", ""))
    stages, setup = made(manifest)
    assert stages[-1].name == "export"
    assert recipe.main([str(manifest), str(setup.output), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("note: the model will not be evaluated: that takes two speakers")


def test_speakers_with_training_clips_are_not_held_out(manifest: Path) -> None:
    manifest.write_text(manifest.read_text() + "more.wav\tc\ttrain\t\n")
    stages, _ = made(manifest)
    assert stages[-1].name == "export"


def test_words_in_other_languages_are_left_out_or_judged_by_another_model(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("librosa")
    lines = [f"{line}\tde" for line in manifest.read_text().splitlines()[1:]]
    manifest.write_text("\n".join(["path\tspeaker\tsplit\tphones\tlanguage", *lines]) + "\n")
    judging = made(manifest)[0][-1].commands[1]
    assert "reference" in judging[-1] and "words" not in judging[-1] and judging[-2] == "--metrics"
    assert "does not know de" in capsys.readouterr().out
    assert made(manifest, "--set", "evaluate.asr=whisper")[0][-1].commands[1][-2:] == ("--asr", "whisper")
    assert not capsys.readouterr().out


def test_the_help_names_every_size() -> None:
    words = re.findall(r"\w+", recipe.parser().format_help())
    assert set(SIZES) <= set(words)


def test_settings_reach_their_stage(manifest: Path) -> None:
    stages, _ = made(manifest, "cpu", "--set", "all.seed=3", "--set", "vocoder.optimizer.steps=7", "--from", "model")
    by_name = {stage.name: stage for stage in stages}
    assert {by_name[name].config["seed"] for name in recipe.TRAININGS} == {3}
    assert by_name["vocoder"].config["optimizer"]["steps"] == 7
    assert by_name["vocoder_predicted"].config["optimizer"]["steps"] != 7
    assert (
        by_name["encoder"].config["start_from"] == by_name["vocoder"].config["start_from"] == os.path.abspath("model")
    )
    assert "valid" in by_name["evaluate"].commands[0]  # one speaker is too few to convert between
    with pytest.raises(InputError, match="unknown stage 'vocodr'"):
        made(manifest, "--set", "vocodr.seed=3")
    with pytest.raises(InputError, match="no such config file"):
        made(manifest, "cpus")


class Work:
    """Stands for the commands: notes them, and fails at one of them."""

    def __init__(self, fail_at: str = "") -> None:
        self.fail_at, self.done = fail_at, []

    def __call__(self, command: Sequence[str]) -> None:
        (name,) = command
        if name == self.fail_at:
            raise VconvError(name)
        self.done.append(name)


def chain(steps: int = 5) -> list:
    """A training, a command that takes its result, and one that does not."""
    stage, config = recipe.Stage, {"optimizer": {"steps": steps}}
    return [
        stage("train", (), (("train",),), config),
        stage("use", ("train",), (("first",), ("second",))),
        stage("other", (), (("other",),)),
    ]


def test_stages_go_on_where_they_stopped(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, setup = made(manifest)
    setup = dataclasses.replace(setup, asr_encoder=manifest, speaker_encoder=manifest)

    def run(stages: list, fail_at: str = "") -> list[str]:
        work = Work(fail_at)
        try:
            recipe.run_stages(stages, setup, work)
        except VconvError:
            assert fail_at
        return work.done

    assert run(chain(), "train") == []
    (setup.output / "train" / "half").touch()
    assert run(chain(), "second") == ["train", "first"]
    assert (setup.output / "train" / "half").exists()  # a training goes on with what it had
    (setup.output / "use" / "half").touch()
    assert run(chain()) == ["first", "second", "other"]
    assert not (setup.output / "use" / "half").exists()  # a command begins anew
    assert run(chain()) == []
    capsys.readouterr()
    assert run(chain(steps=6)) == ["train", "first", "second"]  # and all that follows from it
    assert "train.old1" in capsys.readouterr().out
    assert (setup.output / "train.old1" / "half").exists() and not (setup.output / "train" / "half").exists()
    manifest.write_text(manifest.read_text() + "e.wav\te\ttrain\t\n")
    assert run(chain(steps=6)) == ["train", "first", "second", "other"]


def test_the_cost_of_a_training_needs_no_other_stage(manifest: Path) -> None:
    pytest.importorskip("torch")
    from vconv.training import build_configuration, configuration

    stages, setup = made(manifest, "cpu")
    trainings = {stage.name: stage for stage in stages if stage.config}
    commands = []

    def execute(command: Sequence[str]) -> None:
        commands.append(command[-1])
        config, name = configuration(command[-2]), Path(command[-2]).stem
        paths = [config.corpus.manifest, config.corpus.asr_encoder, getattr(config, "vocoder", "")]
        assert all(Path(path).exists() for path in paths if path)
        real = build_configuration(trainings[name].config, name)
        assert all(getattr(config, part, None) == getattr(real, part, None) for part in ("model", "batch", "optimizer"))
        assert config.corpus.store == real.corpus.store  # which may be there already

    recipe.print_costs(stages, setup, execute)
    assert commands == ["--dry-run"] * len(trainings)


def test_the_command_tells_its_state_and_errors(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    out = manifest.parent / "out"
    assert recipe.main([str(manifest), str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "== robust_frontend: to do" and not out.exists()
    assert recipe.main([str(manifest), str(out), "--set", "vocoder.optimizer.stepz=1"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err and not out.exists()


# ---------------------------------------------------------------- the whole in miniature


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_model(tmp_path: Path) -> None:
    for package in ("accelerate", "onnxscript", "sklearn"):
        pytest.importorskip(package)
    manifest = make_corpus(tmp_path / "corpus", sentences=4)
    text = manifest.read_text(encoding="utf-8")  # two speakers of the validation sentence are in no other
    manifest.write_text(re.sub(r"(?m)^(3_\S+\t)(high|child)", r"\1unseen_\2", text), encoding="utf-8")
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def start(out: str) -> subprocess.Popen[str]:
        command = ["bash", str(RECIPE / "run.sh"), str(manifest), str(tmp_path / out), str(MINIATURE)]
        return subprocess.Popen(command, env=env, start_new_session=True, stdout=subprocess.PIPE, text=True)

    def finish(out: str) -> list[str]:
        process = start(out)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return [line for line in printed.splitlines() if line.startswith("== ")]

    def kill_when(path: Path) -> None:
        process = start("killed")
        while process.poll() is None and not path.exists():
            time.sleep(0.01)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    assert finish("whole")[-1].startswith("== done")
    for place in ("pseudo_labels/STARTED", "encoder/checkpoint.safetensors", "conversion/checkpoint.safetensors"):
        kill_when(tmp_path / "killed" / place)
    lines = finish("killed")
    assert lines[:4] == [
        f"== {name}: complete" for name in ("robust_frontend", "asr_encoder", "pseudo_labels", "encoder")
    ]
    whole, killed = (tmp_path / out / "export" / "model" for out in ("whole", "killed"))
    assert (whole / "config.json").read_bytes() == (killed / "config.json").read_bytes()  # with digests of all weights
    assert (tmp_path / "killed" / "evaluate" / "results" / "report.html").is_file()
    assert all(line.endswith("complete") for line in finish("killed")[:-1])
