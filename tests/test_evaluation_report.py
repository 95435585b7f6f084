"""The report: one page, which a browser opens from disk."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.browser import find_chromium
from tests.conftest import speech
from vconv import audio, features
from vconv.evaluation import cache, figures, pairs, picture, report, results
from vconv.evaluation.judges import Settings
from vconv.evaluation.measure import Answers
from vconv.evaluation.pairs import BadRow, Pair
from vconv.evaluation.run import Evaluation
from vconv.evaluation.statistics import Comparison

for package in ("scipy", "jinja2", "matplotlib"):
    pytest.importorskip(package, reason=f"the report is made with {package}, of vconv[eval]")


@pytest.fixture
def evaluation(clips: Path) -> Evaluation:
    """Two systems on two pairs, one of them with a reference; names that are also markup."""
    table = [
        (2, "high", "low", "low", None, "one", 0.9, 3.0),
        (3, "src", "low", "low", "low", "one", 0.8, 4.0),
        (4, "high", "low", "high", None, "<i>two</i>", 0.7, 3.5),
        (5, "src", "low", "src", "low", "<i>two</i>", 0.1, None),
    ]
    rows = []
    for line, source, target, converted, reference, system, similarity, quality in table:
        files = [clips / f"{name}.wav" if name else None for name in (source, target, converted, reference)]
        found = {"sim_target": similarity} | ({} if quality is None else {"distillmos": quality})
        rows.append(figures.Row(Pair(line, *files, system=system), found, recognized="so & so", expected="a < b"))
    return Evaluation(
        rows=rows,
        bad=[BadRow(6, "gone.wav: no such file; check the path")],
        missing=["WER is not measured: no faster_whisper"],
        judges={"voice": "toy 1"},
        answers=Answers(Settings(), cache.Cache(None)),
        systems={name: figures.estimates(part) for name, part in figures.by_system(rows).items()},
    )


def test_the_page_holds_everything(evaluation: Evaluation, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    report.write_report(evaluation, tmp_path / "report.html", lambda *state: done.append(state))
    page = (tmp_path / "report.html").read_text()
    assert done == [(1, 2), (2, 2)]
    assert page.count("<audio") == page.count("<img") == 2 * 2 + 1 + 4  # sources, targets, reference, conversions
    assert "line 6: gone.wav" in page and "no faster_whisper" in page
    assert "<i>two" not in page and "&lt;i&gt;two" in page and "so &amp; so" in page and "a &lt; b" in page
    linked = re.findall(r'(?:src|href)="([^"]{,30})', page)
    assert linked and all(link.startswith(("data:", "#row")) for link in linked)
    assert {f"#row{line}" for line in (2, 3, 4, 5)} <= set(linked)


def test_what_is_explained_is_there() -> None:
    assert report.MEANINGS.keys() <= {metric.key for metric in figures.METRICS}


def test_a_page_without_comparison_has_no_table_for_it(evaluation: Evaluation) -> None:
    assert "System against system" not in report.page(evaluation)


@pytest.mark.skipif(find_chromium() is None, reason="no chromium is installed")
def test_the_page_works_in_a_browser(evaluation: Evaluation, tmp_path: Path) -> None:
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    place = tmp_path / "report.html"
    report.write_report(evaluation, place)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium())
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.goto(place.as_uri())
        players = page.evaluate("[...document.querySelectorAll('audio')].map(a => a.controls && a.src.slice(0, 15))")
        assert players == ["data:audio/mpeg"] * 9
        assert page.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth > 10).length") == 9
        widths = "[...document.querySelectorAll('.picture path')].map(p => p.getBoundingClientRect().width)"
        curves = page.evaluate(widths)
        assert len(curves) == 9 and min(curves) > 50
        assert page.locator(".plot circle").count() == 7  # a dot for each figure of each row
        # A player can read what it holds.
        seconds = page.evaluate(
            "new Promise(done => { const a = document.querySelector('audio'); "
            "a.addEventListener('loadedmetadata', () => done(a.duration)); a.preload = 'metadata'; a.load(); })"
        )
        assert seconds == pytest.approx(1.0, abs=0.15)

        table = page.locator("table").nth(1)

        def column(number: int) -> list[str]:
            return table.locator(f"tbody tr td:nth-child({number + 1})").all_text_contents()

        def sort_by(title: str) -> None:
            table.get_by_role("button", name=title).click()

        sort_by("SIM to target")
        assert column(0) == ["5", "4", "3", "2"]
        sort_by("SIM to target")
        assert column(0) == ["2", "3", "4", "5"]
        sort_by("DistillMOS")
        assert column(0) == ["2", "4", "3", "5"]  # unknown comes last
        sort_by("source")
        assert column(2) == ["high", "high", "src", "src"]
        assert problems == []
        browser.close()


def test_a_spectrogram_is_brightest_where_the_tone_is() -> None:
    image = pytest.importorskip("PIL.Image")
    tone = np.sin(2 * np.pi * 300 * np.arange(16000) / 16000).astype(np.float32)
    shown = image.open(io.BytesIO(picture.spectrogram_png(tone)))
    mel = features.log_mel(tone)
    assert shown.format == "PNG" and shown.size == mel.shape[::-1]
    lightness = np.asarray(shown.convert("L"), float).mean(axis=1)
    assert len(lightness) - 1 - lightness.argmax() == mel.mean(axis=1).argmax()


def test_f0_is_drawn_in_stretches() -> None:
    low, high = picture.F0_RANGE
    assert picture.f0_path([low, high, 0, high, high * 2], 100, 10) == "M10.0 10.0L30.0 0.0M70.0 0.0L90.0 0.0"
    assert picture.f0_path([0, 0]) == ""


def test_mp3_can_be_read_again() -> None:
    import soundfile

    wave, rate = soundfile.read(io.BytesIO(picture.mp3(2 * speech(1.0), features.SAMPLE_RATE)))
    assert rate == picture.SOUND_RATE
    assert len(wave) / rate == pytest.approx(1.0, abs=0.1)
    assert 0.1 < np.abs(wave).max() <= 1.1


@pytest.mark.parametrize("rate", [8000, 48000])
def test_players_play_at_the_speed_of_the_file(evaluation: Evaluation, tmp_path: Path, rate: int) -> None:
    import soundfile

    place = tmp_path / "clip.wav"
    audio.write(place, speech(2.0, rate), rate)
    row = figures.Row(Pair(2, place, place, place, None, system="one"), {})
    page = report.page(dataclasses.replace(evaluation, rows=[row]))
    players = re.findall(r"data:audio/mpeg;base64,([^\"]+)", page)
    assert len(players) == 3
    for player in players:
        wave, played = soundfile.read(io.BytesIO(base64.b64decode(player)))
        assert len(wave) / played == pytest.approx(2.0, abs=0.1)


def test_results_are_json_without_nan(evaluation: Evaluation) -> None:
    text = json.dumps(results.as_json(evaluation), allow_nan=False)
    assert json.loads(text)["systems"]["<i>two</i>"]["distillmos"] == {
        "value": 3.5, "low": None, "high": None, "count": 1
    }  # fmt: skip
    csv_lines = results.rows_csv(evaluation.rows).splitlines()
    columns = "line,system,language,source,target,converted,reference,sim_target,distillmos,expected,recognized"
    assert csv_lines[0] == columns
    assert csv_lines[4].endswith(",0.1000,,a < b,so & so")
    assert pairs.SYSTEM not in results.summary_csv(evaluation)


def test_it_is_said_who_is_better() -> None:
    comparisons = {
        "sim_target": Comparison(0.1, 0.05, 0.2, 0.0004, 9),
        "wer": Comparison(0.02, 0.01, 0.03, 0.03, 9),  # higher is worse
        "distillmos": Comparison(0.5, -0.1, 1.1, 0.07, 9),  # may be chance
    }
    (line,) = results.contest_lines([figures.Contest("one", "two", 9, comparisons)])
    assert line == (
        "one and two, 9 pairs: one is better in SIM to target (by 0.100, p < 0.001); "
        "two is better in WER (by 2.0, p 0.030)"
    )
    alike = figures.Contest("one", "two", 9, {"distillmos": comparisons["distillmos"]})
    assert results.contest_lines([alike]) == ["one and two, 9 pairs: no difference beyond chance"]
