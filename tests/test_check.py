"""Whether a clip is speech: what it is calibrated on, the command, and the warning of `vconv convert`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import BASE_MODEL, REPOSITORY, Cli, Outcome
from tests.synthetic import FORMANTS, RATE, speak
from vconv import audio, features
from vconv.errors import InputError
from vconv.evaluation import verification
from vconv.inference import load
from vconv.model_folder import POPULATION
from vconv.voices import fitting, sounds
from vconv.voices.check import MEASURES, SEARCHED_SECONDS, UNUSUAL, WINDOW_FRAMES, Checker, loudest, read_beginning
from vconv.voices.population import population_of

EXAMPLES = (REPOSITORY / "examples" / "source.flac", REPOSITORY / "examples" / "target.flac")

UNLIKE = "is unlike the speech that the model was trained on"


def write_corpus(folder: Path) -> Path:
    """Vowels of eight training and three held-out speakers, three clips each; returns the manifest."""
    rng = np.random.default_rng(0)
    lines = ["path\tspeaker\tsplit"]
    folder.mkdir()
    for speaker in range(11):
        f0, tract = rng.uniform(90, 260), rng.uniform(0.85, 1.3)
        for clip in range(3):
            words = "".join(rng.choice(list(FORMANTS), 5))
            name = f"{speaker}_{clip}.wav"
            audio.write(folder / name, speak(words, f0, tract, clip), RATE)
            lines.append(f"{name}\tspeaker {speaker:02d}\t{'train' if speaker < 8 else 'valid'}")
    (folder / "corpus.tsv").write_text("\n".join(lines) + "\n")
    return folder / "corpus.tsv"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "clips")


@pytest.fixture(scope="module")
def fitted(corpus: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature model with a population, fitted on vowels."""
    folder = tmp_path_factory.mktemp("fitted") / "model"
    shutil.copytree(small_model, folder)
    fitting.fit(folder, corpus, threads=1, sound_seeds=1).population.save(folder / POPULATION)
    return folder


# ---------------------------------------------------------------- sounds


@pytest.mark.parametrize("kind", sounds.KINDS)
def test_sounds_are_their_seeds(kind: str) -> None:
    first, again, other = sounds.make(kind, 1, 1.5), sounds.make(kind, 1, 1.5), sounds.make(kind, 2, 1.5)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (24000,) and first.dtype == np.float32 and np.isfinite(first).all()
    assert not np.array_equal(first, other)
    assert 0.04 < np.abs(first).max() < 0.95 and not audio.is_silent(audio.loudness(first, features.SAMPLE_RATE))


# ---------------------------------------------------------------- what is looked at


def test_the_loudest_stretch_is_looked_at() -> None:
    wave = np.random.default_rng(0).normal(0, 0.01, 20 * 16000).astype(np.float32)
    wave[9 * 16000 : 13 * 16000] *= 10
    wave[2 * 16000 : 2 * 16000 + 800] = 1  # one bang is no speech
    assert loudest(wave) == pytest.approx(9 * features.FRAME_RATE, abs=4)
    assert loudest(wave[: WINDOW_FRAMES * features.HOP_LENGTH]) == 0


def test_no_more_than_the_beginning_is_read(tmp_path: Path) -> None:
    audio.write(tmp_path / "long.wav", np.full(round((SEARCHED_SECONDS + 5) * 8000), 0.1, np.float32), 8000)
    assert len(read_beginning(tmp_path / "long.wav")) == SEARCHED_SECONDS * 16000
    with pytest.raises(InputError, match="too short"):
        read_beginning((np.ones(1000, np.float32), 16000))


# ---------------------------------------------------------------- calibration


def test_calibration_finds_the_optimum_and_separates() -> None:
    rng = np.random.default_rng(1)
    speech, other = rng.normal(0, 1, (200, 3)), rng.normal([2, 0, 0], 1, (100, 3))
    calibration = fitting.calibrate(speech, other)
    scores = [np.array([calibration.score(row) for row in rows]) for rows in (speech, other)]
    assert scores[0].mean() > 0.75 > 0.25 > scores[1].mean()
    assert abs(calibration.weights[0]) > 5 * np.abs(calibration.weights[1:]).max()
    # At the optimum the bias has no slope: as much is missing for speech as is too much for the others.
    assert (1 - scores[0]).mean() == pytest.approx(scores[1].mean(), abs=1e-4)


def test_separation_counts_pairs_in_order() -> None:
    figures = verification.separation(np.array([0.9, 0.8, 0.04]), np.array([0.01, 0.04, 0.2, 0.01]))
    assert figures["AUC of the check"].value == pytest.approx(100 * (4 + 4 + 2.5) / 12)
    assert figures["speech that a conversion warns of"].value == pytest.approx(100 / 3)
    assert figures["other sounds that it does not warn of"].value == pytest.approx(25)
    assert all(figure.low <= figure.value <= figure.high for figure in figures.values())


def test_fit_is_of_the_corpus_and_small(fitted: Path, corpus: Path) -> None:
    population = population_of(fitted)
    assert len(population.speakers) == 8
    assert (population.verification.speakers, population.verification.clips) == (3, 9)
    assert population.check.weights.shape == (len(MEASURES),)
    assert (fitted / POPULATION).stat().st_size < 300_000
    trained = {clip.speaker for clip in fitting.choose_training(fitting.read_clips(corpus), corpus)}
    held_out = {clip.speaker for clip in fitting.choose_held_out(fitting.read_clips(corpus), corpus)}
    assert len(trained) == 8 and len(held_out) == 3 and not trained & held_out


def test_fit_says_what_it_needs(vconv_cli: Cli, corpus: Path, small_model: Path, tmp_path: Path) -> None:
    for split, problem in (("train", "with a larger --valid-percent"), ("valid", "training speakers are too few")):
        lines = corpus.read_text().splitlines()
        kept = [lines[0], *(line for line in lines[1:] if line.endswith(split))]
        manifest = corpus.parent / f"{split}.tsv"
        manifest.write_text("\n".join(kept) + "\n")
        done = vconv_cli("speakers", "fit", manifest, "--model", small_model, "-o", tmp_path / "p.npz")
        assert done.code == 2 and str(manifest) in done.error
        assert problem in done.error
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- commands


def test_commands_say_that_there_is_no_population(
    vconv_cli: Cli, clips: Path, small_model: Path, tmp_path: Path
) -> None:
    low = clips / "low.wav"
    for command in (
        ("check", low),
        ("speakers", "verify", low, low),
        ("speakers", "identify", low, "--enrolled", clips),
        ("speakers", "new", "-o", tmp_path / "new.npz"),
        ("speakers", "directions"),
        ("speakers", "move", low, "--higher", "1", "-o", tmp_path / "new.npz"),
    ):
        done = vconv_cli(*command, "--model", small_model)
        assert done.code == 2 and "has no population of voices; make it with: vconv speakers fit" in done.error
    assert not (tmp_path / "new.npz").exists()


def test_check_tells_speech_from_noise(vconv_cli: Cli, fitted: Path, corpus: Path, tmp_path: Path) -> None:
    # What the miniature model's random weights make of noise is less unlike what they make of vowels.
    model, speech, limit = fitted, [corpus.parent / "9_0.wav", corpus.parent / "10_1.wav"], 0.5
    if (BASE_MODEL / POPULATION).is_file():
        model, speech, limit = BASE_MODEL, list(EXAMPLES), UNUSUAL
    for kind in ("noise", "tones"):
        audio.write(tmp_path / f"{kind}.wav", sounds.make(kind, 99, 3.0), features.SAMPLE_RATE)
    audio.write(tmp_path / "silence.wav", np.zeros(32000, np.float32), features.SAMPLE_RATE)
    done = vconv_cli("check", *speech, tmp_path, "--model", model)
    assert (done.code, done.err) == (0, "")
    scores = {line.split("  ")[1].partition(": ")[0]: float(line.split()[0]) for line in done.out.splitlines()}
    assert list(scores) == [*map(str, speech), *(str(tmp_path / f"{n}.wav") for n in ("noise", "silence", "tones"))]
    assert min(scores[str(clip)] for clip in speech) > limit
    assert max(scores[str(tmp_path / f"{kind}.wav")] for kind in ("noise", "tones")) < limit
    assert scores[str(tmp_path / "silence.wav")] == 0 and "silence.wav: silence" in done.out


def test_check_goes_on_after_a_bad_clip(vconv_cli: Cli, fitted: Path, clips: Path) -> None:
    (clips / "bad.wav").write_text("no audio")
    done = vconv_cli("check", clips / "bad.wav", clips / "low.wav", "--model", fitted, "--quiet")
    assert done.code == 2 and "bad.wav" in done.error
    assert done.out.endswith(f"  {clips / 'low.wav'}\n") and 0 <= float(done.out.split()[0]) <= 1


def test_check_goes_on_after_an_empty_folder(vconv_cli: Cli, fitted: Path, clips: Path) -> None:
    (clips / "bad.wav").write_text("no audio")
    (clips / "empty").mkdir()
    done = vconv_cli("check", clips / "bad.wav", clips / "empty", clips / "low.wav", "--model", fitted, "--quiet")
    bad, empty = done.err.splitlines()
    assert done.code == 2 and "bad.wav" in bad and "no audio in this folder" in empty
    assert done.out.endswith(f"  {clips / 'low.wav'}\n")


def copy_with(model: Path, folder: Path, bias: float | None) -> Path:
    """The model with a check that finds everything alike, or without a population."""
    shutil.copytree(model, folder)
    population = population_of(folder)
    (folder / POPULATION).unlink()
    if bias is not None:
        calibration = dataclasses.replace(population.check, weights=np.zeros(len(MEASURES)), bias=bias)
        dataclasses.replace(population, check=calibration).save(folder / POPULATION)
    return folder


def test_convert_warns_of_what_is_no_speech(vconv_cli: Cli, fitted: Path, clips: Path, tmp_path: Path) -> None:
    def convert(bias: float | None, *options: object) -> Outcome:
        model = copy_with(fitted, tmp_path / f"model {bias} {len(options)}", bias)
        sources = [clips / "src.wav", "-t", clips / "low.wav", "-o", tmp_path / "out.wav"]
        return vconv_cli("convert", *sources, "--overwrite", "--model", model, *options)

    done = convert(-5)
    assert done.code == 0 and "out.wav: 1.2 s" in done.out
    assert f"{clips / 'src.wav'}: {UNLIKE} (score 0.01); converted" in done.error
    assert convert(5).err == convert(None).err == convert(-5, "--quiet").err == ""


def test_a_silent_beginning_is_no_silent_source(
    vconv_cli: Cli, fitted: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vconv.voices.check.SEARCHED_SECONDS", 1.0)
    wave, rate = audio.read(clips / "src.wav")
    audio.write(tmp_path / "late.wav", np.concatenate([np.zeros(2 * rate, np.float32), wave]), rate)
    done = vconv_cli("convert", tmp_path / "late.wav", "-t", clips / "low.wav", "--model", fitted)
    assert (done.code, done.err) == (0, "")


def test_a_constant_changes_no_score(fitted: Path, corpus: Path) -> None:
    checker = Checker(load(fitted, threads=1), population_of(fitted))
    wave, rate = audio.read(corpus.parent / "9_0.wav")
    assert checker.clip((wave + np.float32(0.2), rate)).score == pytest.approx(
        checker.clip((wave, rate)).score, abs=0.02
    )
    assert checker.clip((np.full(3 * 8000, 0.2, np.float32), 8000)).silent


def test_warnings_come_from_other_processes_too(vconv_cli: Cli, fitted: Path, clips: Path, tmp_path: Path) -> None:
    model = copy_with(fitted, tmp_path / "model", -5)
    sources = [clips / "src.wav", clips / "high.wav", "-t", clips / "low.wav", "-o", tmp_path / "out"]
    done = vconv_cli("convert", *sources, "--model", model, "--jobs", "2")
    assert done.code == 0 and done.err.count(UNLIKE) == 2 == done.err.count("\n")


def test_a_conversion_scores_as_the_command_does(fitted: Path, corpus: Path) -> None:
    converter = load(fitted, threads=1)
    checker = Checker(converter, population_of(fitted))
    verdicts = []
    clip = corpus.parent / "9_0.wav"
    list(converter.stream(clip, clip, inspect=lambda analysis: verdicts.append(checker.analysed(analysis))))
    assert verdicts[0].score == pytest.approx(checker.clip(clip).score, abs=0.02)


def test_speakers_commands(vconv_cli: Cli, fitted: Path, corpus: Path, tmp_path: Path) -> None:
    a, b = corpus.parent / "0_0.wav", corpus.parent / "3_0.wav"
    done = vconv_cli("speakers", "verify", a, a, "--model", fitted)
    assert (done.code, done.err) == (0, "") and done.out.startswith("the same speaker: score 1.000, threshold ")
    (people := tmp_path / "people").mkdir()
    shutil.copy(a, people / "ann.wav")
    shutil.copy(b, people / "bob.wav")
    done = vconv_cli("speakers", "identify", b, "--enrolled", people, "--model", fitted)
    lines = done.out.splitlines()
    assert (done.code, lines[-1]) == (0, "bob") and lines[0].split() == ["1", "1.000", "bob"] and len(lines) == 4
    done = vconv_cli("speakers", "directions", "--model", fitted)
    assert done.code == 0 and "log_f0" in done.out and done.out.splitlines()[1].split()[0] == "1"
    moved = tmp_path / "moved.npz"
    done = vconv_cli("speakers", "move", a, "--higher", "1", "--axis", "1:0.5", "-o", moved, "--model", fitted)
    assert (done.code, done.err) == (0, "") and done.out.startswith(f"wrote {moved}: ")
    assert vconv_cli("convert", b, "-t", moved, "-o", tmp_path / "x.wav", "--model", fitted, "-q").code == 0
    assert (
        "expected NUMBER:STEP"
        in vconv_cli("speakers", "move", a, "--axis", "one", "-o", tmp_path / "y.npz", "--model", fitted).error
    )


def test_speakers_test_measures_held_out_speakers(vconv_cli: Cli, fitted: Path, corpus: Path, tmp_path: Path) -> None:
    audio.write(tmp_path / "noise.wav", sounds.make("noise", 99, 3.0), features.SAMPLE_RATE)
    done = vconv_cli("speakers", "test", corpus, "--model", fitted, "--other", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "EER" in done.out and "AUC of the check" in done.out and "3 speakers, 9 clips: 9 pairs of one" in done.out
    rate = float(done.out.split("%")[0].split()[-1])
    assert rate == pytest.approx(100 * population_of(fitted).verification.error, abs=0.01)


def test_help_of_the_group(vconv_cli: Cli) -> None:
    done = vconv_cli("speakers")
    assert done.code == 0 and "directions" in done.out
    for command in ("verify", "identify", "new", "directions", "move", "fit", "test"):
        done = vconv_cli("speakers", command, "--help")
        assert done.code == 0 and f"\n    vconv speakers {command}" in done.out
