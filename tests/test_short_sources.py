"""Short sources: the population's share in their instance norms."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import vconv
from tests.conftest import speech
from vconv import audio
from vconv.audio.level import LoudnessMeter
from vconv.features import HOP_LENGTH, SAMPLE_RATE
from vconv.inference.engine import Encoded, OnnxEngine
from vconv.inference.prior import ENOUGH_SECONDS, Prior
from vconv.inference.utterance import Utterance
from vconv.live.statistics import ENROLMENT


@pytest.fixture(scope="module")
def without(small_model: Path) -> vconv.Converter:
    return vconv.load(small_model)


@pytest.fixture(scope="module")
def known(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> vconv.Converter:
    """The same model with the statistics of a population."""
    folder = tmp_path_factory.mktemp("known") / "model"
    shutil.copytree(small_model, folder)
    clips = [(speech(3.0, f0=f0, seed=seed), SAMPLE_RATE) for seed, f0 in enumerate((100.0, 150.0, 220.0))]
    vconv.load(folder).enrol(clips).save(folder / ENROLMENT)
    return vconv.load(folder)


def source(seconds: float) -> tuple[np.ndarray, int]:
    return speech(seconds, seed=5), SAMPLE_RATE


def test_a_short_part_is_encoded_more_as_within_the_whole(known: vconv.Converter, small_model: Path) -> None:
    engine, wave = OnnxEngine(small_model, 1), audio.normalize(speech(6.0, seed=5), SAMPLE_RATE)
    whole = engine.content(Utterance.of(wave)).content
    start, frames, pause = 100, 24, 40
    part = np.pad(wave[start * HOP_LENGTH : (start + frames) * HOP_LENGTH], pause * HOP_LENGTH)
    inner = slice((pause + 4) // 2, (pause + frames - 4) // 2)
    wanted = whole[:, (start + 4) // 2 : (start + frames - 4) // 2]
    found = [
        known_of(engine, Utterance.of(part)).content for known_of in (Prior.of(known.population, 0.4).content, alone)
    ]
    with_prior, by_itself = (np.abs(content[:, inner] - wanted).mean() for content in found)
    assert with_prior < 0.8 * by_itself


def alone(engine: OnnxEngine, utterance: Utterance) -> Encoded:
    return engine.content(utterance)


def test_the_decoder_gets_a_share_of_the_statistics_that_the_voice_has(
    known: vconv.Converter, small_model: Path
) -> None:
    engine = OnnxEngine(small_model, 1)
    content = engine.content(Utterance.of(speech(1.0))).content
    pitch = np.stack([np.full(2 * content.shape[1], 0.3), np.ones(2 * content.shape[1])]).astype(np.float32)
    voice = known.voice(source(4.0))
    alone = engine.decode(content, pitch, voice).mel
    half, most = (Prior.of(known.population, s).decoder(engine, pitch, voice)(content, pitch).mel for s in (2.5, 0.1))
    assert 0 < np.abs(half - alone).mean() < np.abs(most - alone).mean()


def test_only_a_source_with_little_speech_is_converted_otherwise(
    known: vconv.Converter, without: vconv.Converter
) -> None:
    for converter in (known, without):
        assert (converter.population is None) == (converter is without)
    voice = without.voice(source(4.0))
    for seconds, same in ((ENOUGH_SECONDS + 4, True), (1.0, False)):
        first, second = (converter.convert(source(seconds), voice) for converter in (known, without))
        assert len(first) == len(second) == round(seconds * 24000)
        assert np.array_equal(first, second) == same


def test_pauses_are_no_speech() -> None:
    meter = LoudnessMeter(SAMPLE_RATE)
    for block in (np.zeros(3 * SAMPLE_RATE), speech(2.0), np.zeros(3 * SAMPLE_RATE)):
        meter.add(block.astype(np.float32))
    assert 1.0 < meter.active_seconds() < 2.1
    assert LoudnessMeter(SAMPLE_RATE).active_seconds() == 0


def test_tokens_of_a_short_source_are_those_that_extract_gives(known: vconv.Converter) -> None:
    if not known.has_codes:
        pytest.skip("a bottleneck without codes")
    tokens = known.encode(source(1.0))
    np.testing.assert_array_equal(tokens.codes, known.extract(source(1.0)).codes)
    assert len(known.decode(tokens)) == 24000
