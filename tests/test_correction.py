"""The correction of a voice's average spectrum."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import vconv
from tests.conftest import ToyEngine, speech
from vconv.errors import InputError, VconvError
from vconv.features import N_MELS, SAMPLE_RATE
from vconv.inference import Converter
from vconv.inference.correction import corrected, measured
from vconv.inference.engine import Decoded
from vconv.inference.utterance import Utterance
from vconv.voice import Correction, Voice
from vconv.voices.mixing import mix

FRAMES = 400


def mels(seed: int, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Of a target's speech, a third of it pauses, and of what a decoder could make of it: both [N_MELS, frames]

    The decoder misses a band by a constant, and what goes up and down in many bands together by a quarter.
    """
    rng = np.random.default_rng(seed)
    shape, sound = rng.standard_normal((N_MELS, 3)), rng.standard_normal((3, frames))
    recorded = shape @ sound - 4 + 0.1 * rng.standard_normal((N_MELS, frames))
    decoded = 0.75 * shape @ sound - 4 + rng.standard_normal((N_MELS, 1))
    pauses = np.arange(frames) % 3 == 0
    recorded[:, pauses] -= 12
    decoded[:, pauses] -= 12
    return recorded.astype(np.float32), decoded.astype(np.float32)


def voice_with(correction: Correction | None) -> Voice:
    return Voice(np.eye(4, dtype=np.float32)[0], None, correction=correction)


def spectrum(mel: np.ndarray) -> np.ndarray:
    """Mean by band of the frames with speech: [N_MELS]"""
    return mel[:, mel.mean(axis=0) > mel.mean() - 0.3].mean(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_it_brings_speech_nearer_to_the_targets(seed: int) -> None:
    recorded, decoded = mels(seed)
    nearer = corrected(decoded, voice_with(measured(recorded, decoded)))
    assert nearer.dtype == np.float32
    before, after = (np.abs(spectrum(mel) - spectrum(recorded)).mean() for mel in (decoded, nearer))
    assert 0.2 * before < after < 0.6 * before


def test_it_raises_peaks_and_leaves_valleys() -> None:
    """Where the decoder makes everything too flat, as a recording without noise has it."""
    recorded, decoded = mels(1)
    correction = measured(recorded, decoded)
    missing = corrected(decoded, voice_with(correction)) - decoded - correction.shift[:, None]
    apart = decoded - correction.center[:, None]
    speech = np.arange(FRAMES) % 3 > 0
    peaks, valleys = (apart > 1) & speech, (apart < -1) & speech
    assert missing[peaks].mean() > 0.15
    # The deeper valleys of the recording are made deeper: only what would fill them is left out.
    assert missing[valleys].mean() < -0.15
    mirrored = dataclasses.replace(correction, matrix=-correction.matrix)
    filled = corrected(decoded, voice_with(mirrored)) - decoded - correction.shift[:, None]
    assert filled[peaks].mean() < -0.15 and np.abs(filled[valleys]).mean() < 0.1


def test_it_leaves_pauses_as_they_are() -> None:
    recorded, decoded = mels(0)
    nearer = corrected(decoded, voice_with(measured(recorded, decoded)))
    pauses = np.arange(FRAMES) % 3 == 0
    np.testing.assert_allclose(nearer[:, pauses], decoded[:, pauses], atol=1e-3)
    assert np.abs(nearer - decoded)[:, ~pauses].mean() > 0.1


def test_little_speech_corrects_less() -> None:
    recorded, decoded = mels(1)
    sizes = [float(np.abs(measured(recorded[:, :n], decoded[:, :n]).shift).mean()) for n in (9, 30, 90, 390)]
    assert sizes == sorted(sizes) and sizes[0] < 0.4 * sizes[-1]


def test_much_speech_is_trusted_no_more_than_a_clip() -> None:
    recorded, decoded = mels(1)
    clip = measured(recorded, decoded).matrix
    minute = measured(np.tile(recorded, 9), np.tile(decoded, 9)).matrix
    assert np.abs(minute).sum() < 1.2 * np.abs(clip).sum()


def test_what_the_decoder_makes_right_stays() -> None:
    recorded, _ = mels(2)
    np.testing.assert_allclose(corrected(recorded, voice_with(measured(recorded, recorded))), recorded, atol=1e-5)
    assert corrected(recorded, voice_with(None)) is recorded


def test_a_tuned_voice_is_corrected_by_the_means_alone() -> None:
    recorded, decoded = mels(0)
    plain, tuned = measured(recorded, decoded), measured(recorded, decoded, tuned=True)
    np.testing.assert_array_equal(tuned.shift, plain.shift)
    assert plain.matrix.any() and not tuned.matrix.any()


def test_frames_are_corrected_each_by_itself() -> None:
    """So that blocks of live conversion get what a whole file gets."""
    recorded, decoded = mels(0)
    voice = voice_with(measured(recorded, decoded))
    blocks = [corrected(decoded[:, start : start + 6], voice) for start in range(0, FRAMES, 6)]
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), corrected(decoded, voice), atol=1e-6)


def test_a_silent_band_gives_no_extreme_factor() -> None:
    recorded, decoded = mels(0)
    decoded[5], recorded[6] = -4.0, -4.0
    assert np.abs(measured(recorded, decoded).matrix).max() < 1


# ---------------------------------------------------------------- of a model


@pytest.fixture(scope="module")
def target() -> tuple[np.ndarray, int]:
    return speech(3.0, f0=210, seed=7), SAMPLE_RATE


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_the_targets_own_speech_comes_out_nearer_to_it(
    small_model: Path, target: tuple[np.ndarray, int], engine: str
) -> None:
    converter = vconv.load(small_model, device=engine, threads=1)
    voice = converter.voice(target)
    plain = dataclasses.replace(voice, correction=None)
    said = Utterance.of(target[0])
    decode = converter._engine.decode
    content = converter._engine.content(said).content
    pitch = np.zeros((2, said.frames), np.float32)
    made = (spectrum(decode(content, pitch, v).mel) for v in (plain, voice))
    before, after = (np.abs(mean - spectrum(said.mel)).mean() for mean in made)
    assert after < 0.8 * before
    wave, other = (converter.convert((speech(1.0), SAMPLE_RATE), v) for v in (plain, voice))
    assert wave.shape == other.shape and np.abs(wave - other).max() > 1e-3


def test_a_saved_voice_keeps_it(small_model: Path, target: tuple[np.ndarray, int], tmp_path: Path) -> None:
    voice = vconv.load(small_model, threads=1).voice(target)
    voice.save(tmp_path / "voice.npz")
    np.testing.assert_array_equal(Voice.load(tmp_path / "voice.npz").correction.columns, voice.correction.columns)


def test_a_voice_of_an_older_version_has_none(toy: Converter, tmp_path: Path) -> None:
    toy.voice((speech(1.0), SAMPLE_RATE)).save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as arrays:
        np.savez(tmp_path / "old.npz", **{name: arrays[name] for name in arrays if name != "correction"})
    assert Voice.load(tmp_path / "old.npz").correction is None
    toy.convert((speech(0.6), SAMPLE_RATE), tmp_path / "old.npz")


def test_a_correction_of_other_bands_is_refused(toy: Converter) -> None:
    for columns in (np.zeros((N_MELS - 1, N_MELS + 1)), np.zeros((N_MELS, N_MELS + 1))):
        with pytest.raises(InputError, match="correction of 80 bands"):
            toy.convert((speech(0.6), SAMPLE_RATE), voice_with(Correction.of(columns)))


def test_a_decoder_that_diverged_makes_no_voice(
    toy: Converter, toy_engine: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(content: np.ndarray, *_: object) -> Decoded:
        return Decoded(np.full((N_MELS, 2 * content.shape[1]), np.inf, np.float32), None)

    monkeypatch.setattr(toy_engine, "decode", decode)
    with pytest.raises(VconvError, match="correction holds numbers that are not finite"):
        toy.voice((speech(1.0), SAMPLE_RATE))


# ---------------------------------------------------------------- of other voices


def test_a_mixture_has_the_mean_of_the_corrections(toy: Converter) -> None:
    one, two = (voice_with(Correction.of(np.full((N_MELS, 2 + N_MELS), value))) for value in (1.0, 2.0))
    np.testing.assert_allclose(mix(toy, [(one, 3), (two, 1)]).correction.columns, 1.25)
    assert mix(toy, [(one, 1), (voice_with(None), 1)]).correction is None
    shape = toy._config.adapter_shape
    tuned = dataclasses.replace(two, adapter=np.zeros(shape, np.float32))  # its correction is that of its adapter
    assert mix(toy, [(one, 1), (tuned, 1)]).correction is None
