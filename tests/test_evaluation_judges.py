"""The judges of others, where they are installed: do they hear what they should?"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, speech
from vconv import audio
from vconv.evaluation import cache, figures, measure, metrics, run
from vconv.evaluation.judges import JUDGES, RATE, Panel, Settings
from vconv.evaluation.pairs import Pair, Pairs

EXAMPLES = REPOSITORY / "examples"
BENCHMARK = os.environ.get("VCONV_BENCHMARK")  # a folder with published.csv and the clips that it names
SAID = "The last train leaves at half past nine, so bring a coat and meet me at the station."


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel(Settings())


def needs(*names: str) -> pytest.MarkDecorator:
    missing = [problem for problem in (JUDGES[name].missing(Settings()) for name in names) if problem]
    return pytest.mark.skipif(bool(missing), reason=missing[0] if missing else "")


def example(name: str) -> np.ndarray:
    return measure.read_wave(EXAMPLES / f"{name}.flac")


def noisy(wave: np.ndarray, decibels: float) -> np.ndarray:
    """With white noise, ``decibels`` below the speech."""
    noise = np.random.default_rng(0).normal(size=len(wave))
    level = 10 ** ((audio.loudness(wave, RATE) - decibels) / 20)
    return (wave + level * noise).astype(np.float32)


@needs("voice")
def test_a_voice_is_nearest_to_itself(panel: Panel) -> None:
    source, target = example("source"), example("target")
    half = len(target) // 2
    whole, one, other = (panel.ask("voice", wave) for wave in (target, target[:half], source))
    assert metrics.cosine(whole, whole) == pytest.approx(1)
    same, different = metrics.cosine(whole, one), metrics.cosine(whole, other)
    assert different < 0.75
    assert 0.75 < same < 1


@needs("text")
def test_the_words_are_heard(panel: Panel) -> None:
    from vconv.evaluation.text import text_errors

    heard = panel.ask("text", example("source"))
    assert text_errors(SAID, heard).words <= 2
    assert text_errors(SAID, panel.ask("text", example("target"))).words > 10


@needs("distillmos")
def test_noise_lowers_distillmos(panel: Panel) -> None:
    clean = example("source")
    values = [panel.ask("distillmos", wave) for wave in (clean, noisy(clean, 20), noisy(clean, 5))]
    assert values[0] - values[1] > 0.3
    assert values[1] > values[2]
    assert all(1 <= value <= 5.2 for value in values)


@needs("dnsmos")
def test_noise_lowers_dnsmos(panel: Panel) -> None:
    clean = example("source")
    values = [panel.ask("dnsmos", wave) for wave in (clean, noisy(clean, 20), noisy(clean, 5))]
    assert set(values[0]) == {"dnsmos", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808"}
    for name in ("dnsmos", "dnsmos_bak", "dnsmos_p808"):
        assert values[0][name] > values[1][name] > values[2][name]


@needs("f0")
def test_a_shift_of_two_semitones_is_200_cents(panel: Panel) -> None:
    f0, shifted = (panel.ask("f0", speech(2.0, f0=hz)) for hz in (130.0, 130.0 * 2 ** (2 / 12)))
    path = metrics.linear_warp(len(f0), len(shifted))
    assert metrics.melody(f0, shifted, path)["f0_rmse"] == pytest.approx(200, abs=20)
    assert metrics.register_distance(f0, shifted) == pytest.approx(2, abs=0.2)


@needs("f0", "warp")
def test_the_melody_of_slower_speech_is_followed(panel: Panel) -> None:
    wave = example("source")
    slow = audio.resample(wave, 10, 11)  # slower, and lower by as much
    first, second, frames = panel.ask("warp", wave, slow)
    assert frames[1] / frames[0] == pytest.approx(1.1, abs=0.01)
    f0, low = panel.ask("f0", wave), panel.ask("f0", slow)
    found = metrics.melody(f0, low, (figures.on_curve(first, frames[0], f0), figures.on_curve(second, frames[1], low)))
    assert found["f0_corr"] > 0.8
    assert metrics.register_distance(f0, low) == pytest.approx(12 * np.log2(1.1), abs=0.3)


@needs("voice", "distillmos")
def test_the_weights_do_not_disturb_torchaudio() -> None:
    import sys

    before = sys.modules.get("torchaudio")
    Panel(Settings()).ask("distillmos", speech(1.0))
    assert sys.modules.get("torchaudio") is before


# What the benchmark's own judge gives for a published system's clips.
PUBLISHED = {
    "sim_target": (0.830, 0.0006),
    "sim_source": (0.601, 0.0006),
    "target_preferred": (1.0, 0.0),
    "wer": (0.043, 0.02),  # Whisper's integers round otherwise on other CPUs
    "distillmos": (3.56, 0.006),
    "source_distillmos": (4.23, 0.006),
    "f0_corr": (0.75, 0.006),
    "f0_distance": (0.69, 0.006),
}


@pytest.mark.slow
@needs(*(name for name in JUDGES if name != "spectra"))
@pytest.mark.skipif(not BENCHMARK, reason="VCONV_BENCHMARK names no folder of published clips")
def test_a_published_system_is_judged_as_by_the_benchmarks_own_judge(tmp_path: Path) -> None:
    benchmark = Path(BENCHMARK)
    with (benchmark / "published.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["system"] == "UUVC (LibriTTS)"]
    table = Pairs(
        [
            Pair(line, *(benchmark / row[f"{name}_wav"] for name in ("source", "target", "converted")))
            for line, row in enumerate(rows, 2)
        ]
    )
    options = run.Options(metrics=["speaker", "words", "distillmos", "melody"], cache=tmp_path / "c", jobs=2)
    found = run.evaluate(table, tmp_path, options)
    assert not found.bad
    (system,) = found.systems.values()
    for name, (value, tolerance) in PUBLISHED.items():
        assert system[name].value == pytest.approx(value, abs=tolerance + 1e-9), name
    assert cache.Cache(tmp_path / "c").get(found.answers.key(measure.Question("f0", (table.good[0].source,))))
