"""Measuring conversions: tables, texts, statistics and the metrics that need no model of others."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.conftest import Cli, speech
from tests.synthetic import RATE as SYNTHETIC_RATE
from tests.synthetic import speak
from vconv import audio, features
from vconv.errors import InputError, VconvError
from vconv.evaluation import cache, figures, judges, measure, metrics, pairs, run, scripts, statistics, text
from vconv.evaluation.alignment import distances, warp
from vconv.evaluation.conversion import Speed
from vconv.evaluation.judges import Judge, Settings
from vconv.evaluation.measure import Answers, Failure, Question
from vconv.frontends.pitch import PitchTracker

pytest.importorskip("scipy", reason="intervals and tests of significance are scipy's, of vconv[eval]")

RATE = features.SAMPLE_RATE

# ---------------------------------------------------------------- tables of pairs


@pytest.fixture
def table(clips: Path) -> Callable[[str], Path]:
    """Write a table beside the clips."""

    def write(content: str) -> Path:
        path = clips / "pairs.csv"
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_a_table_is_read(table: Callable[[str], Path], clips: Path) -> None:
    content = '\ufeffid, source,target,system,transcript\n7,src.wav,low.wav,,"Well, yes"\n\n8,src.wav,high.wav,mine,\n'
    found = pairs.read_pairs(table(content))
    first, second = found.good
    assert (first.line, first.source, first.target) == (2, clips / "src.wav", clips / "low.wav")
    assert (first.transcript, first.system, first.extra) == ("Well, yes", pairs.SYSTEM, (("id", "7"),))
    assert (first.converted, first.reference) == (None, None)
    assert (second.line, second.system) == (4, "mine")
    assert not found.bad


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("source,goal\na,b\n", "no column 'target'"),
        ("", "no column 'source'"),
        ("source,target,source\na,b,c\n", "twice"),
        ("source,target\n", "no rows"),
    ],
)
def test_a_table_without_what_it_needs_is_refused(table: Callable[[str], Path], content: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        pairs.read_pairs(table(content))


def test_bad_rows_are_listed_with_their_lines_and_the_rest_stays(table: Callable[[str], Path], clips: Path) -> None:
    audio.write(clips / "silent.wav", np.zeros(RATE, np.float32), RATE)
    audio.write(clips / "short.wav", speech(0.2), RATE)
    (clips / "text.wav").write_text("not audio")
    lines = [
        "source,target,converted",
        "src.wav,low.wav,high.wav",
        "gone.wav,low.wav,high.wav",
        "src.wav,low.wav",
        "src.wav,silent.wav,high.wav",
        ",low.wav,high.wav",
        "src.wav,low.wav,short.wav",
        "text.wav,low.wav,",
        "src.wav,high.wav,",
    ]
    found = pairs.drop_unusable(pairs.read_pairs(table("\n".join(lines))))
    assert [pair.line for pair in found.good] == [2, 9]
    reasons = {bad.line: bad.reason for bad in found.bad}
    for line, words in {
        3: "no such file", 4: "2 values", 5: "only silence", 6: "'source' is empty", 7: "too short", 8: "not audio"
    }.items():  # fmt: skip
        assert words in reasons.pop(line)
    assert not reasons
    assert found.seconds[clips / "src.wav"] == pytest.approx(1.2)


def test_folders_are_paired_in_turn(tmp_path: Path) -> None:
    for name in ("a/1.wav", "a/2.wav", "a/3.wav", "b/x.wav", "b/y.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        audio.write(tmp_path / name, speech(0.5), RATE)
    found = pairs.pair_folders(tmp_path / "a", tmp_path / "b").good
    assert [(p.line, p.source.stem, p.target.stem) for p in found] == [(1, "1", "x"), (2, "2", "y"), (3, "3", "x")]
    back = pairs.pair_folders(tmp_path / "b", tmp_path / "a").good
    assert [(p.source.stem, p.target.stem) for p in back] == [("x", "1"), ("y", "2"), ("x", "3")]


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Don’t stop, Mr. Grey!", "do not stop mister gray"),
        ("In one thousand two hundred and fifty cases", "in 1250 cases"),
        ("it's twenty one or 90", "it is 21 or 90"),
        ("— !? —", ""),
    ],
)
def test_english_is_normalized(written: str, words: str) -> None:
    assert text.normalize(written) == words.split()


def test_other_languages_keep_their_letters() -> None:
    assert text.normalize("Schöne Grüße, 3 Stück!", "de") == ["schöne", "grüße", "3", "stück"]
    assert text.normalize("मराठी भाषा।", "mr") == ["मराठी", "भाषा"]  # vowel signs are marks, not letters


def test_language_tags() -> None:
    assert [text.language_code(tag) for tag in ("pt-BR", "ZH_cn", "en (Mandarin L1)", "yue")] == [
        "pt",
        "zh",
        "en",
        "yue",
    ]
    for tag in ("", "deutsch", "1"):
        with pytest.raises(InputError, match="no language code"):
            text.language_code(tag)


@pytest.mark.parametrize(
    ("reference", "heard", "language", "errors"),
    [
        ("カタカナと、ひらがな。", "かたかなとヒラガナ", "ja", 0),
        ("ﾊﾝｶｸ", "はんかく", "ja", 0),  # half-width
        ("मेरी दादी, लड़के", "میری دادی لڑکے", "hi", 0),  # Urdu's script, as small Whisper models write Hindi
        ("मेरी दादी, लड़के", "Meri dadi, larke", "hi", 0),  # or in Latin letters
        ("मेरी दादी", "मेरी नानी", "hi", 2),
        ("मेरी दुकान", "meri kitab", "hi", 3),
        ("今天 天气 好", "今天天汽好！", "zh", 1),
        ("e\u0301te\u0301", "été", "fr", 0),  # decomposed
    ],
)
def test_one_script_is_compared(reference: str, heard: str, language: str, errors: int) -> None:
    if language == "zh":
        pytest.importorskip("opencc", reason="Chinese is compared with OpenCC, of vconv[eval]")
    assert text.text_errors(reference, heard, language).characters == errors


def test_traditional_characters_are_the_simplified_ones() -> None:
    pytest.importorskip("opencc", reason="Chinese is compared with OpenCC, of vconv[eval]")
    found = text.text_errors("漢語學習", "汉语学习", "zh")
    assert (found.characters, found.reference_characters, found.reference_words) == (0, 4, 0)


def test_chinese_without_its_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts._to_simplified.cache_clear()
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(InputError, match="pip install opencc"):
        text.text_errors("好", "好", "zh")


@pytest.mark.parametrize(
    ("reference", "heard", "words", "characters"),
    [
        ("the cat sat", "the cat sat", 0, 0),
        ("the cat sat", "the bat sat", 1, 1),
        ("the cat sat", "cat sat down", 2, 8),
        ("the cat", "", 2, 7),
        ("yes", "yes no yes no yes no yes no", 1, 3),  # a recognizer that ran away counts as all wrong, not more
    ],
)
def test_errors_are_counted(reference: str, heard: str, words: int, characters: int) -> None:
    found = text.text_errors(reference, heard)
    assert (found.words, found.characters) == (words, characters)
    assert (found.reference_words, found.reference_characters) == (len(reference.split()), len(reference))


# ---------------------------------------------------------------- statistics


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        found = statistics.mean(rng.normal(3.0, 1.0, 30))
        inside += found.low <= 3.0 <= found.high
    assert 0.89 <= inside / 200 <= 0.99


def test_a_single_row_has_no_interval() -> None:
    found = statistics.mean([2.5])
    assert (found.value, found.count) == (2.5, 1)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_counts_are_pooled() -> None:
    found = statistics.ratio([(1, 2), (0, 8)])
    assert found.value == 0.1
    assert (found.low, found.high) == (0.0, 0.5)


@pytest.mark.parametrize(
    ("genuine", "impostor", "rate"),
    [
        ([0.8, 0.9], [0.1, 0.2], 0.0),
        ([0.1, 0.2], [0.8, 0.9], 1.0),
        ([0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8], 0.5),
        ([0.4, 0.6, 0.7, 0.8], [0.1, 0.2, 0.3, 0.5], 0.25),
        ([0.4, 0.6, 0.8], [0.1, 0.5], (1 / 3 + 1 / 2) / 2),  # the shares cross without meeting
    ],
)
def test_equal_error_rate(genuine: list[float], impostor: list[float], rate: float) -> None:
    assert statistics.equal_error_rate(np.array(genuine), np.array(impostor)) == pytest.approx(rate)


def test_paired_test() -> None:
    three = statistics.compare([2, 3, 4], [1, 1, 1])
    assert (three.difference, three.count) == (2.0, 3)
    assert three.p == 2 / 8  # all eight flips of signs, of which two are as far from zero
    assert statistics.compare([1, 2], [1, 2]).p == 1.0
    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    assert statistics.compare(noise + 1, np.zeros(40)).p < 0.001
    assert statistics.compare(noise - noise.mean(), np.zeros(40)).p == pytest.approx(1.0)


# ---------------------------------------------------------------- melody and spectrum


def test_warp_finds_the_cheapest_way() -> None:
    costs = np.random.default_rng(0).uniform(size=(4, 3))
    rows, columns = warp(costs)

    def cheapest(i: int, j: int) -> float:
        """By trying every way."""
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        return costs[i, j] + min([cheapest(a, b) for a, b in before if a >= 0 and b >= 0], default=0.0)

    assert costs[rows, columns].sum() == pytest.approx(cheapest(3, 2))
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 3, 2)


def test_warp_undoes_a_change_of_pace() -> None:
    frames = np.random.default_rng(0).normal(size=(12, 40))
    slow = np.repeat(frames, 2, axis=1)
    rows, columns = warp(distances(frames, slow))
    assert set(rows) == set(range(40))
    np.testing.assert_array_equal(rows, columns // 2)


def test_a_shift_of_two_semitones_is_200_cents() -> None:
    source = np.where(np.arange(100) % 10 < 7, 150 * 2 ** (0.2 * np.sin(np.arange(100) / 9)), 0)
    found = metrics.melody(source, source * 2 ** (2 / 12), metrics.linear_warp(100, 100))
    assert found["f0_rmse"] == pytest.approx(200)
    assert found["f0_shape_rmse"] == pytest.approx(0, abs=1e-6)
    assert found["f0_corr"] == pytest.approx(1)
    assert found["voicing_error"] == 0
    assert metrics.register_distance(source * 2 ** (-2 / 12), source) == pytest.approx(2)


def test_a_shift_of_two_semitones_is_heard_in_sound() -> None:
    track = PitchTracker()
    source, shifted = (track(speech(2.0, f0=f0)) for f0 in (130.0, 130.0 * 2 ** (2 / 12)))
    found = metrics.melody(source, shifted, metrics.linear_warp(len(source), len(shifted)))
    assert found["f0_rmse"] == pytest.approx(200, abs=20)


def test_voicing_errors_and_unvoiced_clips() -> None:
    voiced = np.full(100, 120.0)
    half = np.where(np.arange(100) < 50, 120.0, 0.0)
    path = metrics.linear_warp(100, 100)
    assert metrics.melody(voiced, half, path)["voicing_error"] == 0.5
    assert set(metrics.melody(voiced, np.zeros(100), path)) == {"voicing_error"}  # nothing to compare
    assert metrics.register_distance(voiced, np.zeros(100)) is None


def test_an_aligned_copy_has_no_distance_to_itself() -> None:
    wave = speech(2.0)
    for copy in (wave, 0.25 * wave):  # level does not count
        found = metrics.spectral_distances(copy, wave)
        assert found["mcd"] == pytest.approx(0, abs=1e-3)
        assert found["lsd"] == pytest.approx(0, abs=1e-3)


def test_distances_grow_with_difference() -> None:
    def said(words: str, tract: float) -> np.ndarray:
        return audio.resample(speak(words, 140, tract), SYNTHETIC_RATE, RATE)

    reference = said("aiueo", 1.0)
    near, far = (metrics.spectral_distances(said("aiueo", tract), reference) for tract in (1.05, 1.3))
    other = metrics.spectral_distances(said("uuuaa", 1.0), reference)
    assert 0 < near["mcd"] < far["mcd"]
    assert near["lsd"] < far["lsd"]
    assert near["mcd"] < other["mcd"]
    # Slower speech is no distortion: DTW undoes it.
    slow = audio.resample(said("aiueo", 1.0), 10, 11)
    assert metrics.spectral_distances(slow, reference)["mcd"] < other["mcd"]


def test_the_scale_of_mel_cepstral_distortion() -> None:
    bands = (np.arange(features.N_MELS) + 0.5) / features.N_MELS
    ripple = 0.3 * np.cos(np.pi * 5 * bands)[:, None] + 7  # natural log magnitude; the level is not of the cepstrum
    coefficients = metrics.mel_cepstrum(np.asarray(ripple))[:, 0]
    expected = np.zeros(metrics.CEPSTRUM_ORDER)
    expected[4] = 0.3
    np.testing.assert_allclose(coefficients, expected, atol=1e-9)


# ---------------------------------------------------------------- asking judges


SPOKEN = {"fr": "un deux", "ja": "イチ、に"}  # what the toy ASR transcribes, whatever the clip


def energy(wave: np.ndarray) -> float:
    return float(np.mean(np.square(wave)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Judges without models, and a note of every question to them."""
    log: list[str] = []

    def judge(name: str, answer: Callable[..., Any], pairwise: bool = False, by_language: bool = False) -> Judge:
        def load(_: Settings) -> Callable[..., Any]:
            log.append(f"load {name}")

            def ask(*waves: np.ndarray) -> Any:
                log.append(f"{name} {waves[-1]}" if by_language else name)
                return answer(*waves)

            return ask

        return Judge(name, (), (), load, pairwise=pairwise, by_language=by_language)

    def bands(wave: np.ndarray) -> list[float]:
        return np.exp(features.log_mel(audio.normalize(wave, RATE))).mean(axis=1).tolist()

    def pitch(wave: np.ndarray) -> list[float]:
        return PitchTracker()(wave).tolist()

    toys = {
        "voice": judge("voice", bands),
        "text": judge("text", lambda wave, language: SPOKEN.get(language, "red green blue"), by_language=True),
        "distillmos": judge("distillmos", lambda wave: 3 - 10 * energy(wave)),
        "dnsmos": judge("dnsmos", lambda wave: {"dnsmos": 3.0, "dnsmos_sig": 3.0}),
        "f0": judge("f0", pitch),
        "warp": judge("warp", lambda first, second: [[0, 1], [0, 1], [2, 2]], pairwise=True),
        "spectra": judge("spectra", metrics.spectral_distances, pairwise=True),
    }
    for name, toy in toys.items():
        monkeypatch.setitem(judges.JUDGES, name, toy)
    monkeypatch.setattr(Judge, "version", lambda self, settings: f"{self.label} {settings.asr}")
    return log


def test_one_content_is_judged_once(asked: list[str], clips: Path, tmp_path: Path) -> None:
    (clips / "copy.wav").write_bytes((clips / "low.wav").read_bytes())
    answers = Answers(Settings(), cache.Cache(tmp_path / "cache.jsonl"))
    questions = [Question("distillmos", (clips / name,)) for name in ("low.wav", "copy.wav", "low.wav", "src.wav")]
    answers.ask(questions, jobs=1)
    assert asked == ["load distillmos", "distillmos", "distillmos"]
    assert answers.get("distillmos", clips / "copy.wav") == answers.get("distillmos", clips / "low.wav")

    asked.clear()
    again = Answers(Settings(), cache.Cache(tmp_path / "cache.jsonl"))
    again.ask(questions, jobs=1)
    assert asked == []
    audio.write(clips / "src.wav", speech(1.0, seed=5), RATE)  # a change of content
    third = Answers(Settings(), cache.Cache(tmp_path / "cache.jsonl"))
    third.ask(questions, jobs=1)
    assert asked == ["load distillmos", "distillmos"]
    asked.clear()
    Answers(Settings(Path("de")), cache.Cache(tmp_path / "cache.jsonl")).ask(questions, jobs=1)  # another judge
    assert asked.count("distillmos") == 2


def test_a_judge_that_fails_costs_its_row(asked: list[str], clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Settings) -> Callable[[np.ndarray], float]:
        def rate(wave: np.ndarray) -> float:
            if len(wave) == RATE:  # high.wav
                raise ValueError("too high")
            return 1.0

        return rate

    monkeypatch.setitem(judges.JUDGES, "distillmos", Judge("DistillMOS", (), (), load))
    answers = Answers(Settings(), cache.Cache(None))
    rows = pairs.drop_unusable(
        pairs.Pairs(
            [
                pairs.Pair(2, clips / "src.wav", clips / "low.wav", clips / "low.wav"),
                pairs.Pair(3, clips / "src.wav", clips / "low.wav", clips / "high.wav"),
            ]
        )
    )
    answers.ask(figures.questions(rows.good, ["distillmos"]), jobs=1)
    assert isinstance(answers.get("distillmos", clips / "high.wav"), Failure)
    good, left = figures.make_rows(rows, answers, ["distillmos"], {})
    assert [row.pair.line for row in good] == [2]
    assert [bad.line for bad in left.bad] == [3]
    assert "DistillMOS failed (ValueError: too high)" in left.bad[0].reason


def test_processes_agree_with_one(clips: Path, tmp_path: Path) -> None:
    asked = [
        Question("spectra", (clips / a, clips / b))
        for a, b in itertools.permutations(("src.wav", "low.wav", "high.wav"), 2)
    ]
    values = []
    for jobs in (1, 2):
        answers = Answers(Settings(), cache.Cache(None))
        reported: list[tuple[int, int]] = []
        answers.ask(asked, jobs, lambda done, total: reported.append((done, total)))  # noqa: B023 (called right here)
        assert reported == [(n, 6) for n in range(1, 7)]
        values.append([answers.get("spectra", *question.paths) for question in asked])
    for alone, among_others in zip(*values):  # matrix products add up in another order with other threads
        assert among_others == pytest.approx(alone, rel=1e-6)
    assert values[0][0]["mcd"] > 0


def test_a_worker_that_dies_is_reported() -> None:
    import os

    with pytest.raises(VconvError, match="worker process died"), measure.workers(1, os.getpid) as pool:
        pool.submit(os._exit, 1).result()


def test_the_cache_outlives_damage(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "cache.jsonl"
    cache.Cache(place).put("a", [1, 2])
    with place.open("a") as file:
        file.write('["b", 3')  # cut short
    again = cache.Cache(place)
    assert (again.get("a"), again.get("b")) == ([1, 2], None)
    again.put("b", 4)
    assert cache.Cache(place).get("b") == 4
    with pytest.raises(InputError, match="--cache"):
        cache.Cache(tmp_path)


# ---------------------------------------------------------------- figures


def test_the_target_itself_is_nearest_to_the_target(asked: list[str], clips: Path) -> None:
    table = [
        pairs.Pair(2, clips / "src.wav", clips / "low.wav", clips / "low.wav", system="target"),
        pairs.Pair(3, clips / "src.wav", clips / "low.wav", clips / "src.wav", system="source"),
    ]
    found = run.evaluate(pairs.Pairs(table), clips, run.Options(metrics=["speaker", "melody"])).systems
    assert found["target"]["sim_target"].value == pytest.approx(1)
    assert found["source"]["sim_target"].value < found["target"]["sim_target"].value
    assert (found["target"]["target_preferred"].value, found["source"]["target_preferred"].value) == (1, 0)
    assert found["target"]["eer"].value == 0
    assert found["source"]["f0_corr"].value == pytest.approx(1)
    assert found["source"]["f0_rmse"].value == pytest.approx(0)
    assert found["target"]["f0_distance"].value == pytest.approx(0)
    assert asked.count("warp") == 1  # the target is longer than the source


def test_estimates_of_a_system() -> None:
    pair = pairs.Pair(1, Path("a"), Path("b"), Path("c"))
    rows = [
        figures.Row(pair, {"word_errors": 1, "words": 4, "wer": 0.25, "memory": 10.0, "distillmos": 3.0}),
        figures.Row(pair, {"word_errors": 3, "words": 4, "wer": 0.75, "memory": 30.0}),
        figures.Row(pair, {"distillmos": 4.0, "word_errors": 0, "words": 0}),
    ]
    found = figures.estimates(rows[:2])
    assert found["wer"].value == 0.5
    assert found["memory"].value == 30.0
    assert found["distillmos"].count == 1
    assert "mcd" not in found


def test_systems_are_compared_on_common_pairs(clips: Path) -> None:
    def rows(system: str, values: list[float], sources: list[str]) -> list[figures.Row]:
        return [
            figures.Row(pairs.Pair(n, clips / s, clips / "low.wav", system=system), {"distillmos": v})
            for n, (s, v) in enumerate(zip(sources, values))
        ]

    answers = Answers(Settings(), cache.Cache(None))
    names = ["src.wav", "high.wav", "low.wav"]
    one, other = rows("one", [3.0, 2.5, 2.0], names), rows("other", [2.0, 2.0, 1.0, 9.0], [*names, "src.wav"][:3])
    (contest,) = figures.contests([*one, *other], answers)
    assert (contest.first, contest.second, contest.pairs) == ("one", "other", 3)
    assert contest.comparisons["distillmos"].difference == pytest.approx(2.5 / 3)
    assert contest.comparisons["distillmos"].p == 0.25
    assert figures.contests([*one[:2], *other], answers) == []  # two pairs say nothing


# ---------------------------------------------------------------- the command


@pytest.fixture
def written(table: Callable[[str], Path]) -> Path:
    """Two systems on three pairs, with bad rows."""
    return table(
        "source,target,converted,reference,system,note\n"
        "src.wav,low.wav,low.wav,low.wav,one,=first\n"
        "src.wav,high.wav,low.wav,,one,\n"
        "high.wav,low.wav,low.wav,,one,\n"
        "src.wav,low.wav,src.wav,low.wav,<b>other</b>,\n"
        "src.wav,high.wav,src.wav,,<b>other</b>,\n"
        "high.wav,low.wav,high.wav,,<b>other</b>,\n"
        "gone.wav,low.wav,low.wav,,one,\n"
        "src.wav\n"
    )


def test_evaluate_command(asked: list[str], vconv_cli: Cli, written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("evaluate", written, "-o", out, "--cache", tmp_path / "cache.jsonl", "--jobs", "1")
    done = vconv_cli(*arguments)
    assert done.code == 1
    assert "line 8:" in done.err and "gone.wav: no such file" in done.err and "line 9: 1 values" in done.err
    assert "SIM to target" in done.out and "<b>other</b> (3)" in done.out and "report.html" in done.out
    results = json.loads((out / "results.json").read_text())
    assert [row["line"] for row in results["rows"]] == [2, 3, 4, 5, 6, 7]
    assert [bad["line"] for bad in results["bad_rows"]] == [8, 9]
    assert results["systems"]["one"]["wer"]["value"] == 0
    assert results["systems"]["one"]["mcd"]["low"] is None  # one row has no interval
    assert results["contests"][0]["metrics"]["sim_target"]["count"] == 3
    assert results["rows"][0]["figures"]["mcd"] == pytest.approx(0, abs=1e-3)
    lines = (out / "rows.csv").read_text().splitlines()
    assert len(lines) == 7 and lines[0].startswith(
        "line,note,system,language,source,target,converted,reference,sim_target"
    )
    assert "one,sim_target," in (out / "summary.csv").read_text()

    asked.clear()
    first = (out / "report.html").read_text()
    assert vconv_cli(*arguments, "--quiet").out == ""
    assert asked == []
    assert (out / "report.html").read_text() == first


def test_each_language_has_its_own_figures(
    asked: list[str], vconv_cli: Cli, table: Callable[[str], Path], tmp_path: Path
) -> None:
    mixed = table(
        "source,target,converted,transcript,language,system\n"
        "src.wav,low.wav,high.wav,un trois,fr-FR,one\n"
        "src.wav,low.wav,high.wav,いち に,ja,one\n"
        "src.wav,low.wav,high.wav,red green blue,,one\n"
        "src.wav,low.wav,high.wav,x,deutsch,one\n"
    )
    out = tmp_path / "out"
    command = ("evaluate", mixed, "-o", out, "--no-cache", "--metrics", "words", "--jobs", "1")
    refused = vconv_cli(*command)
    assert refused.code == 2 and "language fr: the default Whisper model is English only" in refused.error
    stressed = vconv_cli("stress", mixed, "-o", tmp_path / "stress", "--metrics", "words")
    assert stressed.code == 2 and "with --asr" in stressed.error and not (tmp_path / "stress").exists()
    german = [f"{speaker}{number}.wav\t{speaker}\tvalid\tde" for speaker in "ab" for number in range(4)]
    (tmp_path / "corpus.tsv").write_text("\n".join(["path\tspeaker\tsplit\tlanguage", *german]) + "\n")
    climbed = vconv_cli("ladder", tmp_path / "corpus.tsv", "-o", tmp_path / "ladder", "--metrics", "words")
    assert climbed.code == 2 and "language de: the default" in climbed.error and not (tmp_path / "ladder").exists()
    done = vconv_cli(*command, "--asr", tmp_path)
    assert done.code == 1 and "line 5: language 'deutsch'" in done.err
    # Source and conversion are one question each and language, though the clips are the same.
    assert sorted(asked) == ["load text", *(f"text {code}" for code in ("en", "en", "fr", "fr", "ja", "ja"))]

    results = json.loads((out / "results.json").read_text())
    assert [row["language"] for row in results["rows"]] == ["fr", "ja", "en"]
    found = {language: systems["one"] for language, systems in results["languages"].items()}
    assert found["fr"]["wer"]["value"] == 1 / 2 and found["en"]["wer"]["value"] == 0
    assert "wer" not in found["ja"] and found["ja"]["cer"]["value"] == 0
    assert found["fr"]["cer"]["value"] == found["fr"]["source_cer"]["value"] > 0
    assert found["fr"]["cer_loss"]["value"] == 0  # the toy makes the same errors in both
    assert results["systems"]["one"]["wer"]["value"] == 1 / 5  # over the words of French and English
    lines = [line.split(",") for line in (out / "summary.csv").read_text().splitlines()]
    assert ["one", "wer", "fr"] in [[line[0], line[1], line[-1]] for line in lines]
    page = (out / "report.html").read_text()
    assert "<h2>Languages</h2>" in page and "<td>ja</td>" in page
    assert "language" in done.out


def test_missing_packages_are_said_and_the_rest_is_judged(
    vconv_cli: Cli, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, gone = judges.importlib.util.find_spec, {"resemblyzer", "speechmos"}
    monkeypatch.setattr(judges.importlib.util, "find_spec", lambda name: None if name in gone else found(name))
    done = vconv_cli("evaluate", written, "-o", tmp_path / "out", "--no-cache", "--jobs", 1)
    assert done.code == 1
    assert "MCD to reference" in done.out
    assert f"Speaker similarity is not measured: no resemblyzer; {judges.WITHOUT_DEPENDENCIES}" in done.out
    assert f"DNSMOS is not measured: no speechmos; {judges.EXTRA}" in done.out
    asked_for = vconv_cli("evaluate", written, "-o", tmp_path / "other", "--metrics", "speaker")
    assert asked_for.code == 2 and "no resemblyzer" in asked_for.error
    assert not (tmp_path / "other").exists()


def test_a_folder_without_a_whisper_model_is_refused(
    vconv_cli: Cli, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(judges, "_version_of", lambda package: "1")
    done = vconv_cli("evaluate", written, "-o", tmp_path / "out", "--metrics", "words", "--asr", tmp_path)
    assert done.code == 2
    assert "no Whisper model" in done.error
    (tmp_path / "model.bin").write_bytes(b"weights")
    own = Settings(tmp_path)
    judge = judges.JUDGES["text"]
    assert judge.needs(own) == ("faster_whisper",) and len(judge.needs(Settings())) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "either PAIRS.csv or both"),
        (["--source-dir", "a"], "either PAIRS.csv or both"),
        (["gone.csv"], "no such file"),
        (["{table}", "--metrics", "beauty"], "no such metric"),
        (["{table}", "-o", "{table}"], "is a file"),
        (["{table}", "--language", "klingonisch"], "no language code"),
        (["{table}", "--metrics", "reference", "--cache", "/"], "cannot be used as a cache"),
        (["{table}", "--source-dir", "a", "--target-dir", "b"], "either PAIRS.csv or both"),
    ],
)
def test_bad_use_of_evaluate(vconv_cli: Cli, written: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = vconv_cli("evaluate", "-o", tmp_path / "out", *(a.format(table=written) for a in arguments))
    assert done.code == 2
    assert words in done.error


def test_no_judge_is_imported_before_it_is_asked() -> None:
    """With the extra's packages blocked, every module can be imported."""
    blocked = {"torch", "librosa", "scipy", "sklearn", "matplotlib", "faster_whisper", "parselmouth", "resemblyzer"}
    code = f"import sys\nfor name in {sorted(blocked)}: sys.modules[name] = None\n"
    code += "import vconv.evaluation.report, vconv.evaluation.probe, vconv.evaluation.maps, vconv.evaluation.run\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_no_deps_command_is_the_same_everywhere(vconv_cli: Cli) -> None:
    assert judges.WITHOUT_DEPENDENCIES in " ".join(vconv_cli("evaluate", "--help").out.split())


def test_what_is_missing_is_converted_and_timed(
    vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said").mkdir()
    (clips / "src.wav").rename(tmp_path / "said" / "src.wav")
    out = tmp_path / "out"
    arguments = (
        "evaluate", "--source-dir", tmp_path / "said", "--target-dir", clips, "-o", out, "--model", model,
        "--metrics", "reference", "--cache", tmp_path / "cache.jsonl", "--jobs", "1",
    )  # fmt: skip
    done = vconv_cli(*arguments)
    assert (done.code, done.err) == (0, "")
    results = json.loads((out / "results.json").read_text())
    assert len(results["rows"]) == 2
    assert results["systems"]["vconv"]["real_time_factor"]["value"] > 0
    assert results["systems"]["vconv"]["memory"]["value"] > 20
    assert results["systems"]["vconv"]["duration_ratio"]["value"] == pytest.approx(1)
    made = sorted((out / "converted").iterdir())
    assert [path.name.rpartition("_")[0] for path in made] == ["src_as_high", "src_as_low"]
    assert all(soundfile.info(path).samplerate == features.OUTPUT_RATE for path in made)
    times = [path.stat().st_mtime_ns for path in made]
    assert vconv_cli(*arguments).code == 0
    assert [path.stat().st_mtime_ns for path in made] == times  # kept
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "decoder.py").write_text("# another")
    monkeypatch.setattr("vconv.__file__", str(tmp_path / "__init__.py"))
    assert vconv_cli(*arguments).code == 0
    again = sorted((out / "converted").iterdir())
    assert len(again) == 4 and set(made) < set(again)  # other code may convert otherwise


def test_speed_is_a_figure(asked: list[str], clips: Path) -> None:
    pair = pairs.Pair(2, clips / "src.wav", clips / "low.wav", clips / "high.wav")
    usable = pairs.drop_unusable(pairs.Pairs([pair]))
    rows, _ = figures.make_rows(usable, Answers(Settings(), cache.Cache(None)), [], {2: Speed(0.3, 0.25, None)})
    assert rows[0].figures["real_time_factor"] == 0.25
    assert "memory" not in rows[0].figures
