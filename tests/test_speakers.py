"""Voices in general: mixtures, verification, voices that nobody has, steps away from a voice, and the file."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Cli, speech
from vconv.data.manifest import Clip
from vconv.errors import InputError
from vconv.evaluation import verification
from vconv.evaluation.statistics import equal_error_rate
from vconv.features import N_MELS
from vconv.inference import Converter
from vconv.inference.analysis import Rebuilt
from vconv.model_folder import POPULATION
from vconv.voice import REFERENCE_FRAMES, Correction, Reference, Voice
from vconv.voices import fitting
from vconv.voices import sampling as speakers
from vconv.voices.mixing import mix, parse_weight, target_voice
from vconv.voices.population import Population, Scoring, population_of

SIZE = 4  # of the toy engine's embeddings


def rebuilt_clip(speaker: int, embedding: np.ndarray, f0: float, tilt: float) -> fitting.RebuiltClip:
    """A clip of a speaker whose voice has this embedding, register in Hz and brightness in nepers."""
    ramp = np.linspace(-0.5, 0.5, N_MELS)[:, None] * tilt
    mel = (np.tile(ramp, 20) - 6).astype(np.float32)
    melody = f0 * 2 ** np.tile([-0.1, 0.1], 20).astype(np.float32)
    mel = np.tile(mel, 2)
    return fitting.RebuiltClip(
        Clip(Path(f"{speaker}.wav"), f"speaker {speaker:03d}"),
        Rebuilt(mel, melody, embedding.astype(np.float32), np.zeros((2, 20), np.int64), mel),
    )


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values)


def planted(people: int = 60) -> Population:
    """A population of the toy engine's size: its first axis goes along with register, its second with brightness."""
    rng = np.random.default_rng(0)
    voices = []
    for speaker in range(people):
        traits = rng.standard_normal(SIZE)
        for _ in range(2):
            embedding = unit(np.array([0, 0, 0, 2.0]) + 0.5 * traits + 0.02 * rng.standard_normal(SIZE))
            voices.append(rebuilt_clip(speaker, embedding, 200 * 2 ** (0.4 * traits[0]), traits[1]))
    trials = voices[: people // 2]
    return fitting.assemble(
        "planted",
        voices,
        fitting.Trials([one.clip for one in trials], np.stack([one.rebuilt.embedding for one in trials]), []),
        [one.rebuilt for one in voices],
        [dataclasses.replace(one.rebuilt, again=one.rebuilt.mel + 3) for one in voices],
    )


@pytest.fixture(scope="module")
def population() -> Population:
    return planted()


# ---------------------------------------------------------------- mixtures


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.wav:0.7", ("a.wav", 0.7)),
        ("a.wav", ("a.wav", None)),
        ("a.wav:2", ("a.wav", 2.0)),
        ("a:b.wav:1e-1", ("a:b.wav", 0.1)),
        ("a.wav:loud", ("a.wav:loud", None)),
        ("C:0.7", ("C:0.7", None)),
        (r"C:\voices\a.wav", (r"C:\voices\a.wav", None)),
        (r"C:\voices\a.wav:0.5", (r"C:\voices\a.wav", 0.5)),
        (":0.5", (":0.5", None)),
    ],
)
def test_a_weight_stands_behind_a_colon(text: str, expected: tuple[str, float | None]) -> None:
    path, weight = parse_weight(text)
    assert (str(path), weight) == expected


@pytest.mark.skipif("sys.platform == 'win32'", reason="no colon in names there")
def test_a_file_of_that_very_name_wins(tmp_path: Path) -> None:
    (tmp_path / "take:2").write_bytes(b"")
    assert parse_weight(tmp_path / "take:2") == (tmp_path / "take:2", None)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_impossible_weights_are_refused(toy: Converter, weight: str) -> None:
    with pytest.raises(InputError, match="positive"):
        parse_weight(f"a.wav:{weight}")
    with pytest.raises(InputError, match="positive"):
        mix(toy, [(np.ones(SIZE), float(weight))])


def test_a_mixture_lies_between_its_voices(toy: Converter) -> None:
    a = Voice(np.array([1.0, 0, 0, 0]), -0.5, log_f0_spread=0.1)
    b = Voice(np.array([0, 1.0, 0, 0]), 0.5, log_f0_spread=0.3)
    mixed = mix(toy, [(a, 3), (b, 1)])
    np.testing.assert_allclose(mixed.embedding, unit(np.array([3, 1, 0, 0])), atol=1e-6)
    assert (mixed.log_f0, mixed.log_f0_spread) == (pytest.approx(-0.25), pytest.approx(0.15))
    assert mixed.reference is None
    half = mix(toy, [(a, 0.5), (Voice(b.embedding, None), 0.5)])
    assert half.log_f0 == -0.5  # of those that are known


def test_only_the_ratio_of_weights_counts(toy: Converter) -> None:
    a, b = np.array([1.0, 0, 0, 0]), np.array([0, 0.5, 0.5, 0])
    np.testing.assert_allclose(mix(toy, [(a, 0.7), (b, 0.3)]).embedding, mix(toy, [(a, 7), (b, 3)]).embedding)
    with pytest.raises(InputError, match="opposite"):
        mix(toy, [(a, 1), (-a, 1)])


def test_a_mixture_hears_everybody_in_proportion(toy: Converter) -> None:
    def voice(value: float, frames: int) -> Voice:
        content = np.full((N_MELS, frames), value, np.float32)
        return Voice(np.ones(SIZE), 0.0, Reference(content, np.repeat(content, 2, axis=1)))

    long, short = voice(1.0, REFERENCE_FRAMES), voice(2.0, 30)
    reference = mix(toy, [(long, 3), (short, 1)]).reference
    assert (
        reference.mel.shape[1] == 2 * reference.content.shape[1] == 2 * 120
    )  # all that the short one has, and three times as much
    assert np.count_nonzero(reference.content[0] == 2.0) == 30
    reference = mix(toy, [(long, 1), (long, 1)]).reference
    assert REFERENCE_FRAMES - 4 <= reference.mel.shape[1] <= REFERENCE_FRAMES
    toy.convert((speech(0.6), 16000), mix(toy, [(long, 3), (short, 1)]))


def test_targets_have_weights_all_or_none(toy: Converter, clips: Path) -> None:
    low, high = clips / "low.wav", clips / "high.wav"
    mixed = target_voice(toy, [f"{low}:0.25", f"{high}:0.75"])
    expected = 0.25 * toy.voice(low).log_f0 + 0.75 * toy.voice(high).log_f0
    assert mixed.log_f0 == pytest.approx(expected)
    np.testing.assert_array_equal(target_voice(toy, [low, high]).embedding, toy.voice([low, high]).embedding)
    with pytest.raises(InputError, match="has no weight"):
        target_voice(toy, [low, f"{high}:0.5"])


def test_the_commands_mix(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    parts = [f"{clips / 'low.wav'}:0.7", f"{clips / 'high.wav'}:0.3"]
    done = vconv_cli("embed", *parts, "-o", tmp_path / "mixed.npz", "--model", model, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    low, high = (np.log2(f0 / 200) for f0 in (110, 220))
    assert Voice.load(tmp_path / "mixed.npz").log_f0 == pytest.approx(0.7 * low + 0.3 * high, abs=0.05)
    targets = ["-t", parts[0], "-t", parts[1]]
    done = vconv_cli("convert", clips / "src.wav", *targets, "--model", model, "--quiet")
    assert (done.code, done.err) == (0, "") and (clips / "src_as_low.wav").is_file()
    done = vconv_cli(
        "convert", clips / "src.wav", "-t", parts[0], "-t", clips / "high.wav", "--model", model, "--overwrite"
    )
    assert done.code == 2 and "has no weight" in done.error


# ---------------------------------------------------------------- densities


def test_the_density_is_that_of_its_gaussian() -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((400, 6)) * [3, 2, 1, 0.1, 0.1, 0.1] + 5
    density = fitting.fit_density(points, most=3)
    covariance = density.basis.T @ np.diag(density.deviations**2 - density.rest**2) @ density.basis
    covariance += density.rest**2 * np.eye(6)
    assert np.trace(covariance) == pytest.approx(np.trace(np.cov(points, rowvar=False)), rel=1e-6)
    offset = points[:5] - density.mean
    distances = np.einsum("nd,de,ne->n", offset, np.linalg.inv(covariance), offset)
    expected = -0.5 * (distances + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 6
    np.testing.assert_allclose(density.log_density(points[:5]), expected)


def test_outliers_are_less_likely(population: Population) -> None:
    usual = population.voices.log_density(population.speakers)
    odd = population.voices.log_density(np.array([[0, 0, 0, -1.0], [-0.9, 0.9, 0.9, -2]]))
    assert odd.max() < usual.min()


def test_directions_are_named_after_what_goes_along_with_them(population: Population) -> None:
    found = speakers.directions(population)
    assert found[0].name == "brighter" and found[0].correlations[2] > 0.99  # as planted, spectra differ in it alone
    shares = [direction.share for direction in found]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-9


# ---------------------------------------------------------------- who is who


def test_verification_is_symmetric_and_sure_of_itself(toy: Converter, clips: Path, population: Population) -> None:
    low, high = clips / "low.wav", clips / "high.wav"
    forth = speakers.verify(toy, population, low, high)
    back = speakers.verify(toy, population, high, low)
    assert forth.score == pytest.approx(back.score) and forth.threshold == population.verification.threshold
    self_score = speakers.verify(toy, population, low, low)
    assert self_score.score == pytest.approx(1) and self_score.same
    assert forth.score < self_score.score


def test_the_threshold_is_where_the_errors_are_equal() -> None:
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((30, 8))
    embeddings = np.concatenate([centres + 0.9 * rng.standard_normal(centres.shape) for _ in range(3)])
    trials = fitting.Trials([Clip(Path("x"), str(n % 30)) for n in range(90)], embeddings, [])
    plain = Scoring(np.zeros(8))
    found = fitting.verification(plain, trials)
    scores, same = trials.scores(plain)
    rejected, accepted = np.mean(scores[same] < found.threshold), np.mean(scores[~same] >= found.threshold)
    assert 0.02 < found.error == pytest.approx(equal_error_rate(scores[same], scores[~same]))
    assert rejected == pytest.approx(accepted, abs=0.02) and found.error == pytest.approx((rejected + accepted) / 2)
    assert (found.speakers, found.clips) == (30, 90)


def test_a_threshold_between_separated_scores_lies_in_the_middle() -> None:
    embeddings = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1.0]])
    trials = fitting.Trials([Clip(Path("x"), name) for name in "aabb"], embeddings, [])
    found = fitting.verification(Scoring(np.zeros(2)), trials)
    assert found.error == 0 and found.threshold == pytest.approx(
        (np.cos(2 * np.arctan(0.1)) * 0 + 0.198 + 0.995) / 2, abs=0.01
    )


def test_equal_error_rates_have_intervals_over_speakers() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(12), 4)
    centres = rng.standard_normal((12, 5))[labels]
    clips = [Clip(Path("x"), f"{label:02d}") for label in labels]
    systems = {}
    for name, noise in (("EER", 0.5), ("EER of Judge", 1.5)):
        embeddings = centres + noise * rng.standard_normal(centres.shape)
        systems[name], same = fitting.Trials(clips, embeddings, []).scores(Scoring(np.zeros(5)))
    figures = verification.equal_error_rates(systems, labels)
    for name, scores in systems.items():
        assert figures[name].value == pytest.approx(100 * equal_error_rate(scores[same], scores[~same]))
        assert 0 <= figures[name].low < figures[name].value < figures[name].high
    difference = figures["difference to Judge"]
    assert difference.value == pytest.approx(figures["EER"].value - figures["EER of Judge"].value)
    assert difference.high < 0


def test_identification_ranks_people_or_finds_nobody(toy: Converter, clips: Path, population: Population) -> None:
    people = clips.parent / "people"
    (people / "ann").mkdir(parents=True)
    shutil.copy(clips / "high.wav", people / "ann" / "1.wav")
    shutil.copy(clips / "low.wav", people / "bob.wav")
    Voice(-toy.embed(clips / "low.wav"), None).save(people / "odd.npz")
    (people / "notes.txt").write_text("no person")
    enrolled = speakers.enroll(toy, people)
    assert list(enrolled) == ["ann", "bob", "odd"]
    ranked = speakers.identify(toy, population, clips / "low.wav", enrolled)
    assert ranked[0][0] == "bob" and ranked[0][1].score == pytest.approx(1) and ranked[0][1].same
    assert [score.score for _, score in ranked] == sorted((score.score for _, score in ranked), reverse=True)
    ranked = speakers.identify(toy, population, clips / "low.wav", {"odd": enrolled["odd"]})
    assert not ranked[0][1].same


def test_enrolling_nobody_is_an_error(toy: Converter, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, problem in ((tmp_path / "empty", "nobody"), (tmp_path / "none", "no such folder")):
        with pytest.raises(InputError, match=problem):
            speakers.enroll(toy, folder)
    (clips / "low").mkdir()
    with pytest.raises(InputError, match="another 'low'"):
        shutil.copy(clips / "low.wav", clips / "low" / "1.wav")
        speakers.enroll(toy, clips)


# ---------------------------------------------------------------- new voices


def test_a_new_voice_is_the_seeds_and_nobodys(population: Population) -> None:
    first, again, other = (speakers.invent(population, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.voice.embedding, again.voice.embedding)
    assert first.voice.log_f0 == again.voice.log_f0
    assert not np.allclose(first.voice.embedding, other.voice.embedding)
    assert np.linalg.norm(first.voice.embedding) == pytest.approx(1, abs=1e-5)
    scoring = population.scoring
    scores = scoring.project(population.speakers) @ scoring.project(first.voice.embedding)
    assert scores.max() == pytest.approx(first.nearest, abs=1e-6) and first.nearest <= population.apart


def test_registers_are_drawn_with_the_voice(population: Population) -> None:
    drawn = [speakers.invent(population, seed).voice for seed in range(40)]
    along = [voice.embedding[0] for voice in drawn]  # as planted
    assert np.corrcoef(along, [voice.log_f0 for voice in drawn])[0, 1] > 0.7


def test_a_new_voice_is_saved_loaded_and_converted_to(toy: Converter, population: Population, tmp_path: Path) -> None:
    voice = speakers.invent(population, 0).voice
    voice.save(tmp_path / "new.npz")
    loaded = Voice.load(tmp_path / "new.npz")
    np.testing.assert_allclose(loaded.embedding, voice.embedding)
    assert loaded.log_f0 == pytest.approx(voice.log_f0) and loaded.reference is None
    wave = toy.convert((speech(0.6), 16000), tmp_path / "new.npz")
    assert len(wave) == round(0.6 * 24000) and np.abs(wave).max() > 0.01


def test_steps_go_the_way_they_are_called(population: Population) -> None:
    reference = Reference(np.zeros((N_MELS, 2)), np.zeros((N_MELS, 4)))
    correction = Correction.of(np.ones((N_MELS, 2 + N_MELS)))
    voice = Voice(population.speakers[0], 0.0, reference, 0.2, correction=correction)
    higher = speakers.move(voice, population, higher=1.5)
    assert higher.log_f0 == pytest.approx(1.5 * population.attribute_deviation[0])
    assert higher.log_f0_spread == 0.2 and higher.reference is higher.correction is None
    change = higher.embedding - voice.embedding
    assert abs(change[0]) > 2 * abs(change[1]) and change[0] > 0  # as planted
    darker = speakers.move(voice, population, brighter=-1.0)
    change = darker.embedding - voice.embedding
    assert darker.log_f0 == 0.0 and abs(change[1]) > 2 * abs(change[0]) and change[1] < 0
    same = speakers.move(voice, population)
    np.testing.assert_allclose(same.embedding, voice.embedding, atol=1e-6)


def test_steps_along_an_axis_take_the_register_with_them(population: Population) -> None:
    voice = Voice(population.speakers[0], 0.0)
    number = 1 + int(np.abs(population.correlations[:, 0]).argmax())
    moved = speakers.move(voice, population, axes={number: 1.0})
    expected = population.correlations[number - 1, 0] * population.attribute_deviation[0]
    assert moved.log_f0 == pytest.approx(expected)
    change = speakers.move(voice, population, axes={1: 1.0}).embedding - voice.embedding
    assert change[1] > 0.1 and change[1] == pytest.approx(np.abs(change).max())
    assert speakers.move(Voice(voice.embedding, None), population, higher=1).log_f0 is None


def test_impossible_steps_are_refused(population: Population) -> None:
    voice = Voice(population.speakers[0], 0.0)
    for steps, problem in (
        ({"higher": np.nan}, "out of range"),
        ({"axes": {99: 1.0}}, "no direction 99"),
        ({"axes": {0: 1.0}}, "no direction 0"),
    ):
        with pytest.raises(InputError, match=problem):
            speakers.move(voice, population, **steps)


# ---------------------------------------------------------------- the file


def test_the_file_keeps_the_population(population: Population, tmp_path: Path) -> None:
    population.save(tmp_path / POPULATION)
    loaded = Population.load(tmp_path / POPULATION)
    np.testing.assert_allclose(loaded.speakers, population.speakers, atol=0.01)
    np.testing.assert_allclose(loaded.joint, population.joint, rtol=1e-5, atol=1e-7)
    assert loaded.verification == population.verification and loaded.model == "planted"
    points = population.speakers[:5]
    np.testing.assert_allclose(loaded.clips.log_density(points), population.clips.log_density(points), atol=0.1)
    assert np.dot(
        speakers.invent(loaded, 3).voice.embedding, speakers.invent(population, 3).voice.embedding
    ) == pytest.approx(1, abs=0.01)


def test_the_population_of_other_weights_is_refused(population: Population, small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(small_model, folder)
    with pytest.raises(InputError, match="has no population of voices; make it with: vconv speakers fit"):
        population_of(folder)
    population.save(folder / POPULATION)
    with pytest.raises(InputError, match="fitted for other weights"):
        population_of(folder)
    (folder / POPULATION).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match="holds no population"):
        population_of(folder)
