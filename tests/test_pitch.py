"""The network that tracks F0: what it takes into account, how near it comes, and its training."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.synthetic import make_corpus
from vconv import audio, features
from vconv.excitation import PulseTrain
from vconv.features import F0_REFERENCE, HOP_LENGTH, OUTPUT_RATE, PITCH_BINS, PITCH_STEPS, SAMPLE_RATE
from vconv.frontends import pitch
from vconv.frontends.pitch import PITCH_AHEAD, PITCH_PAST, WINDOW_FRAMES, PitchTracker

ROOT = Path(__file__).parent.parent


def pulses(f0: np.ndarray) -> np.ndarray:
    """A pulse train through one resonance, at 16 kHz: [T] Hz -> [T * HOP_LENGTH]"""
    wave = audio.resample(PulseTrain(np.log2(f0 / F0_REFERENCE)).samples(0, len(f0)), OUTPUT_RATE, SAMPLE_RATE)
    spectrum, hertz = np.fft.rfft(wave), np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    wave = np.fft.irfft(spectrum / (1 + ((hertz - 600) / 400) ** 2), len(wave))
    return audio.normalize(wave.astype(np.float32), SAMPLE_RATE)


@pytest.mark.parametrize("hertz", [65.0, 90.0, 140.0, 220.0, 330.0, 480.0, 700.0])
def test_f0_of_a_pulse_train_is_found_over_the_whole_range(hertz: float) -> None:
    wanted = hertz * 2 ** (0.1 * np.sin(np.arange(150) / 12))
    found, confidence = PitchTracker().track(pulses(wanted))[:2, 5:-5]
    cents = 1200 * np.abs(np.log2(found / wanted[5:-5]))
    assert np.median(cents) < 15 and np.percentile(cents, 95) < 60
    assert confidence.mean() > 0.5


def test_steps_and_f0_are_inverse() -> None:
    steps = np.linspace(0, PITCH_STEPS - 1, 77)
    np.testing.assert_allclose(features.pitch_step(features.f0_of_step(steps)), steps, atol=1e-9)


def test_a_frame_depends_on_the_stated_frames_alone() -> None:
    rng, tracker, at = np.random.default_rng(0), PitchTracker(), 60
    wave = pulses(np.full(120, 150.0)) + 0.01 * rng.standard_normal(120 * HOP_LENGTH).astype(np.float32)
    whole = tracker.track(wave)[:, at]
    first, last = at - PITCH_PAST - WINDOW_FRAMES, at + PITCH_AHEAD + WINDOW_FRAMES
    changed = rng.standard_normal(len(wave)).astype(np.float32)
    changed[first * HOP_LENGTH : last * HOP_LENGTH] = wave[first * HOP_LENGTH : last * HOP_LENGTH]
    np.testing.assert_allclose(tracker.track(changed)[:, at], whole, rtol=1e-5)
    changed[(last - WINDOW_FRAMES - 1) * HOP_LENGTH :] = 0
    assert not np.allclose(tracker.track(changed)[:, at], whole, rtol=1e-5)


def test_another_talker_in_the_background_is_not_tracked() -> None:
    low, high = pulses(np.full(200, 110.0)), pulses(np.full(200, 260.0))
    talks = np.repeat(np.tile([1.0, 0.0], 5), 20 * HOP_LENGTH).astype(np.float32)
    f0 = PitchTracker()(low * talks + 0.1 * high)
    assert np.median(f0[f0 > 0]) == pytest.approx(110, rel=0.02)


# ---------------------------------------------------------------- the recipe


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    for needed in ("torch", "swift_f0", "onnxscript"):
        pytest.importorskip(needed)
    spec = importlib.util.spec_from_file_location("pitch_recipe", ROOT / "recipes" / "pitch" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


def test_the_recipe_learns_and_its_graph_runs(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    manifest, graph = make_corpus(tmp_path / "clips", sentences=3), tmp_path / "pitch.onnx"
    monkeypatch.setattr(recipe, "ITEMS", 4)
    monkeypatch.setattr(recipe, "WARMUP", 5)
    monkeypatch.setattr(recipe, "VALIDATION_CLIPS", 4)
    corpus = recipe.label(manifest, graph.with_suffix(".work"))
    spectra, f0 = map(torch.from_numpy, recipe.Sampler(corpus, "train", 7).batch(4))
    assert spectra.shape == (4, PITCH_BINS, recipe.FRAMES) and (f0 > 0).any() and (f0 == 0).any()
    torch.manual_seed(0)
    before = recipe.loss_of(recipe.PitchNetwork(), spectra, f0).item()
    network = recipe.train(corpus, 40, tmp_path / "network.safetensors")
    assert recipe.loss_of(network, spectra, f0).item() < 0.9 * before
    assert "step 40 loss" in capsys.readouterr().out
    again = recipe.train(corpus, 1, tmp_path / "again.safetensors", tmp_path / "network.safetensors", rate=0.0)
    assert recipe.loss_of(again, spectra, f0).item() == pytest.approx(recipe.loss_of(network, spectra, f0).item())
    recipe.write(network, graph)
    monkeypatch.setattr(pitch, "GRAPH", graph)
    found = PitchTracker().track(pulses(np.full(80, 150.0)))
    assert found.shape == (3, 80) and np.isfinite(found).all()
    with torch.no_grad():
        spectrum = torch.from_numpy(features.low_spectrum(pulses(np.full(80, 150.0))))[None]
        np.testing.assert_allclose(found[1], network.eval()(spectrum)[1][0], atol=1e-3)


def test_labelled_recordings_are_kept_for_the_next_run(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = make_corpus(tmp_path / "clips", sentences=1), tmp_path / "work"
    first = recipe.label(manifest, folder)
    monkeypatch.setattr(recipe, "teach", lambda *_: pytest.fail("labelled again"))
    again = recipe.label(manifest, folder)
    assert again.clips == first.clips and len(first.clips) > 3
    np.testing.assert_array_equal(again.f0, first.f0)
