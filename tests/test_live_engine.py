"""Live conversion as a library: streams cut anyhow, the stated lookahead, and what may change in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import BASE_MODEL, REPOSITORY, speech
from vconv import audio
from vconv.errors import InputError, VconvError
from vconv.features import OUTPUT_RATE, SAMPLE_RATE, log_mel
from vconv.inference import Converter, load
from vconv.live import window
from vconv.live.gate import HOLD_FRAMES, Gate
from vconv.live.joins import OverlapAdd, Ramp
from vconv.live.resampling import StreamResampler
from vconv.live.statistics import ENROLMENT, Enrolment, NormEstimate, Register

RATES = [(16000, 24000), (48000, 48000), (44100, 44100)]


@pytest.fixture(scope="module")
def converter(small_model: Path) -> Converter:
    return load(small_model, threads=1)


@pytest.fixture(scope="module")
def enrolment(converter: Converter) -> Enrolment:
    return converter.enrol((speech(4.0, f0=140), 16000))


@pytest.fixture(scope="module")
def target(converter: Converter):
    return converter.voice((speech(2.0, f0=220, seed=2), 16000))


def through(live, wave: np.ndarray, cuts: np.ndarray | None = None) -> np.ndarray:
    parts = [live.process(part) for part in np.split(wave, [] if cuts is None else cuts)]
    return np.concatenate([*parts, live.flush()])


@pytest.mark.parametrize("rates", RATES, ids=str)
@pytest.mark.parametrize("enrolled", [True, False], ids=["enrolled", "gathered"])
def test_the_result_does_not_depend_on_how_the_input_is_cut(
    converter: Converter, enrolment: Enrolment, target, rates: tuple[int, int], enrolled: bool
) -> None:
    wave = speech(1.7, rates[0], f0=150)
    live = converter.live(
        target, enrolment=enrolment if enrolled else None, past=0.5, rate_in=rates[0], rate_out=rates[1]
    )
    whole = through(live, wave)
    assert len(whole) == audio.scaled_length(len(wave), *rates)
    assert np.abs(whole).max() > 1e-3
    for seed in range(2):
        cuts = np.sort(np.random.default_rng(seed).integers(0, len(wave), 40))
        np.testing.assert_allclose(through(live, wave, cuts), whole, atol=1e-4)


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_samples_after_the_stated_latency_change_nothing_before(
    converter: Converter, enrolment: Enrolment, target, rates: tuple[int, int]
) -> None:
    wave = speech(1.5, rates[0], f0=150)
    other = wave.copy()
    change = round(0.9 * rates[0])
    other[change:] = speech(1.5, rates[0], f0=230, seed=5)[change:] * 2
    live = converter.live(target, enrolment=enrolment, past=0.5, rate_in=rates[0], rate_out=rates[1])
    first, second = through(live, wave), through(live, other)
    same = int((change / rates[0] - live.latency) * rates[1])
    np.testing.assert_allclose(first[:same], second[:same], atol=1e-5)
    assert np.abs(first - second)[same:].max() > 1e-3


@pytest.mark.parametrize("rates", RATES, ids=str)
def test_a_sample_comes_out_no_later_than_the_stated_latency(converter: Converter, target, rates: tuple) -> None:
    live = converter.live(target, past=0.2, gate=0.0, rate_in=rates[0], rate_out=rates[1])
    given = taken = 0
    for _ in range(300):
        given += 160
        taken += len(live.process(np.zeros(160, np.float32)))
        # Played without a gap, sample ``taken`` is next: it is due ``latency`` after its time.
        assert given / rates[0] - taken / rates[1] <= live.latency + 160 / rates[0]


def test_with_bypass_the_input_comes_out_in_its_place(converter: Converter, target) -> None:
    wave = speech(1.5, 16000)
    live = converter.live(target, past=0.2, rate_out=16000)
    live.bypass = True
    out = through(live, wave)
    settled = slice(1000, None)  # after the fade
    np.testing.assert_allclose(out[settled], wave[settled], atol=1e-6)


def test_voice_pitch_and_bypass_may_change_in_the_middle(converter: Converter, enrolment: Enrolment, target) -> None:
    wave, half = speech(2.0), 16000
    other = converter.voice((speech(2.0, f0=110, seed=7), 16000))
    live = converter.live(target, enrolment=enrolment, past=0.5)
    plain = through(live, wave)
    begin = live.process(wave[:half])
    live.voice = other
    live.pitch = 2.0
    mixed = np.concatenate([begin, live.process(wave[half:]), live.flush()])
    assert len(mixed) == len(plain) and live.voice.log_f0 == other.log_f0
    np.testing.assert_array_equal(mixed[: len(begin)], plain[: len(begin)])
    assert np.abs(mixed - plain)[len(begin) :].max() > 1e-3


def test_silence_skips_the_networks_and_stays_silence(converter: Converter, target, monkeypatch) -> None:
    live = converter.live(target, past=0.2)
    monkeypatch.setattr(live._parts.engine, "vocode", lambda *_: pytest.fail("ran on silence"))
    assert not through(live, np.zeros(16000, np.float32)).any()


def test_samples_that_are_no_numbers_are_silence(converter: Converter, target) -> None:
    live = converter.live(target, past=0.2)
    wave = speech(1.0)
    wave[5000:5050] = np.nan
    wave[6000] = np.inf
    assert np.isfinite(through(live, wave)).all()


def test_numbers_that_are_not_finite_are_not_given_out(converter: Converter, target, monkeypatch) -> None:
    live = converter.live(target, past=0.2, gate=None)
    with pytest.raises(InputError, match="out of range"):
        live.pitch = float("nan")
    vocode = live._parts.engine.vocode
    monkeypatch.setattr(live._parts.engine, "vocode", lambda *given: vocode(*given) * np.nan)
    with pytest.raises(VconvError, match="not finite"):
        live.process(speech(1.0))


def test_a_mirrored_end_makes_up_for_lookahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The included model with 32 ms of lookahead, next to what it gives with 256 ms."""
    shipped = load(BASE_MODEL, threads=1)
    source, _ = audio.read(REPOSITORY / "examples" / "source.flac", SAMPLE_RATE)
    voice = shipped.voice(REPOSITORY / "examples" / "target.flac")

    def mel(lookahead: float) -> np.ndarray:
        live = shipped.live(voice, block=0.064, lookahead=lookahead, past=1.5, gate=None)
        return log_mel(audio.resample(through(live, source[: 2 * SAMPLE_RATE]), OUTPUT_RATE, SAMPLE_RATE))

    wanted, mirrored = mel(0.256), mel(0.032)
    monkeypatch.setattr(window, "MIRRORED", 0)
    assert np.abs(mirrored - wanted).mean() < 0.9 * np.abs(mel(0.032) - wanted).mean()


def test_what_is_held_does_not_grow(converter: Converter, target) -> None:
    live = converter.live(target, past=0.2, rate_in=48000, rate_out=44100)

    def held() -> int:
        window = live._window
        arrays = [window._wave, window._mel, window._decoded, window._melody.final, live._pending, live._aside]
        return sum(array.size for array in [*arrays, live._into._held, live._out._held, live._dry._held])

    sizes = []
    for second in range(12):
        live.process(speech(1.0, 48000, seed=second))
        sizes.append(held())
    assert max(sizes[6:]) <= max(sizes[:6]) + 48000 * live.block
    assert 0 <= live._window._melody._phase < 1


def test_an_enrolment_survives_its_file_and_belongs_to_its_model(
    converter: Converter, enrolment: Enrolment, target, tmp_path: Path
) -> None:
    enrolment.save(tmp_path / "me.npz")
    loaded = Enrolment.load(tmp_path / "me.npz")
    assert loaded.log_f0 == enrolment.log_f0 and loaded.model == converter.model
    wave = speech(1.0)
    saved, given = (through(converter.live(target, enrolment=one, past=0.2), wave) for one in (loaded, enrolment))
    np.testing.assert_allclose(saved, given, atol=0.02)
    with pytest.raises(InputError, match="another model"):
        converter.live(target, enrolment=Enrolment(**{**vars(enrolment), "model": b"x"}))
    with pytest.raises(InputError, match="embed --me"):
        (tmp_path / "bad.npz").write_bytes(b"nothing")
        Enrolment.load(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    "wrong",
    [
        {"block": 0.0},
        {"lookahead": float("nan")},
        {"rate_in": 100},
        {"past": 11.0},
        {"pitch": 40.0},
        {"pitch": float("nan")},
    ],
)
def test_impossible_settings_are_refused(converter: Converter, target, wrong: dict) -> None:
    with pytest.raises(InputError, match="out of range"):
        converter.live(target, **wrong)


def test_a_resampled_sine_is_that_sine() -> None:
    for rates in ((48000, 16000), (44100, 16000), (24000, 48000), (24000, 44100), (8000, 16000), (16000, 11025)):
        resampler = StreamResampler(*rates)
        time = np.arange(rates[0]) / rates[0]
        parts = [resampler.process(part) for part in np.array_split(np.sin(2 * np.pi * 1000 * time), 37)]
        out = np.concatenate([*parts, resampler.flush()])
        assert abs(len(out) - rates[1]) <= 1
        middle = slice(500, len(out) - 500)
        expected = np.sin(2 * np.pi * 1000 * np.arange(len(out)) / rates[1])
        np.testing.assert_allclose(out[middle], expected[middle], atol=1e-3)


def test_a_join_of_equal_stretches_is_seamless_and_a_ramp_never_jumps() -> None:
    wave = np.sin(np.arange(500) / 9).astype(np.float32)
    join = OverlapAdd(20)
    joined = [join.join(wave[start : start + 120], 100) for start in range(0, 400, 100)]
    np.testing.assert_allclose(np.concatenate(joined), wave[:400], atol=1e-6)
    ramp = Ramp(10)
    steps = np.diff(np.concatenate([ramp.next(7, True), ramp.next(20, True), ramp.next(20, False)]))
    assert np.abs(steps).max() < 0.11 and ramp.settled(False)


def test_a_gate_opens_ahead_of_speech_and_closes_after_a_while() -> None:
    gate = Gate(-50.0)
    quiet, loud = np.full(18, 1e-8), np.full(18, 1e-2)
    assert not gate.is_open(quiet, 6)
    assert gate.is_open(np.append(quiet[:17], 1e-2), 6)  # known, but not due yet
    assert gate.is_open(loud, 6)
    opened = [gate.is_open(quiet, 6) for _ in range(8)]
    assert opened[0] and not opened[-1] and sum(opened) * 6 >= HOLD_FRAMES
    assert Gate(None).is_open(quiet, 6)


def test_statistics_converge_and_never_jump() -> None:
    goal = np.stack([np.full(3, 4.0), np.full(3, 9.0)])
    norms = NormEstimate(np.stack([np.zeros(3), np.ones(3)]), frozen=False)
    values = [norms.value]
    for _ in range(3000):
        norms.add(goal, 0.1)
        values.append(norms.value)
    np.testing.assert_allclose(norms.value, goal, rtol=0.01)
    assert np.abs(np.diff(values, axis=0)[:, 0]).max() < 0.25
    register = Register(0.0, 0.2)
    for _ in range(100):
        register.add(np.full(6, 100.0), 0.1, np.zeros(12))
    assert register.log_f0 == pytest.approx(-1.0, abs=0.05)
    frozen = Register(0.0, 0.2, frozen=True)
    frozen.add(np.full(6, 100.0), 0.1, np.zeros(12))
    assert frozen.log_f0 == 0.0


def test_the_register_is_set_before_the_first_word_sounds_and_glides_from_there() -> None:
    register, silence = Register(0.0, 0.2), np.zeros(6)
    register.add(silence, 0.1, np.zeros(12))
    assert register.log_f0 == 0.0  # the average speaker's
    register.add(silence, 0.1, np.append(np.zeros(6), np.full(6, 100.0)))
    register.add(silence, 0.1, np.full(12, 100.0))
    assert register.log_f0 == pytest.approx(-1.0, abs=0.2)
    heard = [register.log_f0]
    for _ in range(50):
        register.add(np.full(6, 100.0), 0.1, np.full(12, 100.0))
        heard.append(register.log_f0)
    assert np.abs(np.diff(heard)).max() < 0.1 and heard[-1] == pytest.approx(-1.0, abs=0.02)


def test_noise_before_the_first_word_does_not_move_the_gain(converter: Converter, target) -> None:
    live = converter.live(target, past=0.2, gate=None)
    level = live._window._speaker.level
    before = level.gain
    live.process(np.random.default_rng(0).standard_normal(2 * 16000).astype(np.float32) * 1e-3)
    assert level.gain == pytest.approx(before, rel=0.1)
    live.process(speech(3.0) * np.float32(0.1))
    assert audio.gain(audio.loudness(speech(3.0) * np.float32(0.1), 16000)) == pytest.approx(level.gain, rel=0.3)


@pytest.mark.skipif(not (BASE_MODEL / ENROLMENT).is_file(), reason="the weights are not in this checkout")
def test_the_average_speaker_belongs_to_the_weights_beside_it() -> None:
    """Made anew for new weights by `vconv embed --me pretrained/base/enrolment.npz CLIPS`."""
    assert Enrolment.load(BASE_MODEL / ENROLMENT).model == load(threads=1).model
