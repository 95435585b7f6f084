"""The ladder: which clips meet, and what is made of them on each rung."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import ToyEngine, speech
from vconv import audio
from vconv.config import BottleneckConfig
from vconv.data.manifest import Clip
from vconv.errors import InputError
from vconv.evaluation import ladder
from vconv.evaluation.probe import Choice
from vconv.features import OUTPUT_RATE, SAMPLE_RATE
from vconv.frontends.pitch import PitchTracker
from vconv.inference import Converter


def clip(folder: Path, speaker: str, name: str, group: str = "") -> Clip:
    return Clip(folder / speaker / f"{name}.wav", speaker, split="valid", group=group, transcript=f"words of {name}")


@pytest.fixture
def corpus(tmp_path: Path) -> list[Clip]:
    """Three speakers with four clips each, one with too few, and synthetic ones."""
    clips = [clip(tmp_path, speaker, f"{speaker}{k}") for speaker in "abc" for k in range(4)]
    few = [clip(tmp_path, "d", "d0")]
    synthetic = [clip(tmp_path, f"s{k}", f"{n}", group=f"{n}") for k in range(3) for n in range(5)]
    return clips + few + synthetic


def test_every_clip_meets_its_own_speaker_and_another(corpus: list[Clip]) -> None:
    todo = ladder.steps(corpus, Choice("valid", speakers=20, clips=4))
    assert len(todo) == 12
    for step in todo:
        assert step.same.speaker == step.clip.speaker and step.same.path != step.clip.path
        assert step.other.speaker != step.clip.speaker and not step.other.group
    assert {step.clip.speaker for step in todo} == set("abc") == {step.other.speaker for step in todo}
    for speaker in "abc":  # each against both others
        assert len({step.other.speaker for step in todo if step.clip.speaker == speaker}) == 2


def test_too_few_speakers_are_refused(corpus: list[Clip]) -> None:
    with pytest.raises(InputError, match="speakers with"):
        ladder.steps([clip for clip in corpus if clip.speaker == "a" or clip.group], Choice("valid"))


def test_each_rung_is_made_and_named(toy: Converter, tmp_path: Path, corpus: list[Clip]) -> None:
    a, b, c = dataclasses.replace(corpus[0], language="de-AT"), corpus[1], corpus[4]
    for seed, (which, f0) in enumerate(((a, 120), (b, 130), (c, 220))):
        which.path.parent.mkdir(exist_ok=True)
        audio.write(which.path, speech(1.5, f0=f0, seed=seed), SAMPLE_RATE)
    gone = ladder.Step(corpus[2], a, c)
    made = ladder.climb(toy, [ladder.Step(a, b, c), gone], tmp_path / "rungs", lambda done, total: None)
    assert [pair.system for pair in made.good] == list(ladder.RUNGS)
    assert [pair.target for pair in made.good] == [*[b.path] * 5, a.path, b.path, c.path, b.path]
    assert made.good[0].converted == a.path
    assert {(pair.source, pair.transcript, pair.language) for pair in made.good} == {(a.path, a.transcript, "de")}
    for pair in made.good[1:]:
        assert soundfile.info(pair.converted).frames == round(1.5 * OUTPUT_RATE)
    assert len(made.bad) == 1 and str(corpus[2].path) in made.bad[0].reason
    assert [bool(pair.extra) for pair in made.good] == [False] * 8 + [True]
    ((name, value),) = made.good[8].extra
    assert name == ladder.BITS and 300 < float(value) < 2000


def test_a_model_without_codes_has_no_rung_of_units(tmp_path: Path, corpus: list[Clip]) -> None:
    clip = corpus[0]
    clip.path.parent.mkdir()
    audio.write(clip.path, speech(1.0), SAMPLE_RATE)
    plain = Converter(ToyEngine(), dataclasses.replace(ToyEngine.config, bottleneck=BottleneckConfig(kind="identity")))
    made = ladder.climb(plain, [ladder.Step(clip, clip, clip)], tmp_path / "rungs", lambda done, total: None)
    assert [pair.system for pair in made.good] == list(ladder.RUNGS[:8]) and not made.bad


def test_resynthesis_keeps_length_level_and_melody(small_model: Path) -> None:
    import vconv

    wave = speech(2.03, 22050, f0=150) * np.float32(0.3)
    result = vconv.load(small_model, threads=1).resynthesize((wave, 22050))
    assert len(result) == audio.scaled_length(len(wave), 22050, OUTPUT_RATE)
    assert audio.loudness(result, OUTPUT_RATE) == pytest.approx(audio.loudness(wave, 22050), abs=0.1)
    f0 = PitchTracker()(audio.resample(result, OUTPUT_RATE, SAMPLE_RATE))
    assert np.median(f0[f0 > 0]) == pytest.approx(150, rel=0.03)
