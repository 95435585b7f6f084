"""Disturbances: that each does what its name says, and that every pair meets every condition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import speech
from vconv import audio
from vconv.errors import InputError
from vconv.evaluation import stress
from vconv.evaluation.pairs import Pair, Pairs
from vconv.evaluation.stress import Surroundings
from vconv.features import SAMPLE_RATE
from vconv.inference import Converter

WAVE = speech(2.0)


@pytest.fixture
def around() -> Surroundings:
    return Surroundings([speech(1.5, f0=f0, seed=f0) for f0 in (110, 150, 210)], np.random.default_rng(0))


def level(wave: np.ndarray) -> float:
    """RMS in dB."""
    return 10 * np.log10(np.mean(wave.astype(float) ** 2))


@pytest.mark.parametrize("make", [stress.babble, stress.white_noise])
def test_noise_is_as_far_below_the_speech_as_asked(make, around: Surroundings) -> None:
    added = make(15.0)(WAVE, around) - WAVE
    assert audio.loudness(WAVE, SAMPLE_RATE) - level(added) == pytest.approx(15.0, abs=0.2)


def test_babble_is_no_part_of_the_speech(around: Surroundings) -> None:
    added = stress.babble(15.0)(WAVE, around) - WAVE
    assert abs(np.corrcoef(added, WAVE)[0, 1]) < 0.2


def test_a_room_goes_on_after_the_sound_and_dies_away(around: Surroundings) -> None:
    click = np.zeros(SAMPLE_RATE)
    click[100] = 1.0
    heard = stress.reverberation(0.5)(click, around)
    assert heard[100] == pytest.approx(1.0) and np.abs(heard[:100]).max() < 1e-9
    tail = [level(heard[start : start + 800]) for start in (1000, 5000)]
    assert tail[0] - tail[1] == pytest.approx(60 * 4000 / (0.5 * SAMPLE_RATE), abs=2)


def test_a_telephone_has_no_bass_and_no_treble(around: Surroundings) -> None:
    spectrum = np.abs(np.fft.rfft(stress.telephone(WAVE, around)))
    frequency = np.fft.rfftfreq(len(WAVE), 1 / SAMPLE_RATE)
    outside = (frequency < 295) | (frequency > 3405)
    assert spectrum[outside].max() < 1e-6 * spectrum.max()


def test_clipping_cuts_the_peaks_alone(around: Surroundings) -> None:
    result = stress.clipped(WAVE, around)
    limit = 0.25 * np.abs(WAVE).max()
    assert np.abs(result).max() == pytest.approx(limit)
    np.testing.assert_array_equal(result[np.abs(WAVE) < limit], WAVE[np.abs(WAVE) < limit])


def test_conditions_are_chosen_by_name() -> None:
    assert stress.choose(None) == list(stress.CONDITIONS)
    assert [c.name for c in stress.choose("telephone, target 3 s")] == ["clean", "telephone", "target 3 s"]
    with pytest.raises(InputError, match="no such condition"):
        stress.choose("thunder")


def test_every_pair_meets_every_condition(toy: Converter, tmp_path: Path) -> None:
    for name, f0 in (("a", 120), ("b", 220)):
        audio.write(tmp_path / f"{name}.wav", speech(4.0, f0=f0), SAMPLE_RATE)
    todo = Pairs([Pair(2, tmp_path / "a.wav", tmp_path / "b.wav"), Pair(3, tmp_path / "gone.wav", tmp_path / "b.wav")])
    made = stress.convert_all(toy, todo, stress.CONDITIONS, tmp_path / "out", lambda done, total: None)
    assert [pair.system for pair in made.good] == [condition.name for condition in stress.CONDITIONS]
    assert len({pair.line for pair in made.good}) == len(made.good)
    waves = [audio.read(pair.converted)[0] for pair in made.good]
    assert len({len(wave) for wave in waves}) == 1
    assert all(not np.array_equal(wave, waves[0]) for wave in waves[1:])
    assert [bad.line for bad in made.bad] == [3] and "gone.wav" in made.bad[0].reason
