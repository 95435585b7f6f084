"""Training of ASR encoder and denoiser: their batches, what they learn, and what is made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.conftest import BASE_MODEL, REPOSITORY  # noqa: E402
from tests.synthetic import make_corpus  # noqa: E402
from tests.test_recipes import script  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv import audio  # noqa: E402
from vconv.config import ConversionConfig  # noqa: E402
from vconv.config import build as build_config  # noqa: E402
from vconv.data.augmentation.recording import DisturbConfig  # noqa: E402
from vconv.data.corpus import load_corpus  # noqa: E402
from vconv.data.manifest import read_manifest  # noqa: E402
from vconv.data.store import build, open_store  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import HOP_LENGTH, N_MELS, SAMPLE_RATE, log_mel  # noqa: E402
from vconv.frontends.asr_encoder import AsrEncoder  # noqa: E402
from vconv.frontends.ends import MIRRORED  # noqa: E402
from vconv.frontends.grid import CODE_HOP  # noqa: E402
from vconv.model_folder import ASR_ENCODER  # noqa: E402
from vconv.models.content_encoder import ContentEncoder  # noqa: E402
from vconv.models.denoiser import Denoiser  # noqa: E402
from vconv.models.pretrained.moonshine import load_moonshine  # noqa: E402
from vconv.training.loader import to_tensors  # noqa: E402
from vconv.training.robust_frontend import (  # noqa: E402
    RobustFrontend,
    RobustFrontendBatchConfig,
    RobustFrontendSampler,
    RobustFrontendTraining,
    load_robust_frontend,
)

pytestmark = pytest.mark.slow  # trains, or runs whole recipes

GRAPH = BASE_MODEL / ASR_ENCODER
RECIPE = REPOSITORY / "recipes" / "base" / "asr_encoder.py"
HEARING = f"""
task: robust_frontend
asr_encoder: {GRAPH}
threads: 1
asr_encoder_rate: 0.02
model: {{denoiser_channels: 16, denoiser_blocks: 2}}
batch:
  items: 4
  seconds: 1.0
  disturb: {{clean: 0, noise: 1}}
optimizer:
  warmup: 2
  learning_rate: 0.005
  ema: 0.9
log:
  every: 5
  validate_every: 1000
"""
SIZE = {"denoiser_channels": 16, "denoiser_blocks": 2}
SMALL = ConversionConfig(channels=16, content_blocks=(1, 1), asr_channels=3, denoiser_channels=8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = make_corpus(tmp_path_factory.mktemp("robust_frontend") / "clips")
    build(read_manifest(manifest), manifest.with_suffix(".store"))
    return manifest


@pytest.fixture(scope="module")
def trained(corpus: Path) -> Path:
    """The folder of a short training"""
    train(corpus.parent, HEARING, corpus, "optimizer.steps=120", "log.validate_every=60")
    return corpus.parent / "run"


# ---------------------------------------------------------------- the denoiser


def test_a_new_denoiser_changes_nothing() -> None:
    torch.manual_seed(0)
    mel, asr_features = torch.randn(2, N_MELS, 40), torch.randn(2, 3, 20)
    denoiser = Denoiser(dataclasses.replace(SMALL, denoiser_blocks=2))
    assert torch.equal(denoiser(mel, asr_features), mel)
    torch.nn.init.normal_(denoiser.output.weight)
    changed = denoiser(mel, asr_features)
    assert changed.shape == mel.shape and (changed - mel).abs().mean() > 0.1
    # The features are heard, but not what is constant in them; zeros stand for none.
    assert (denoiser(mel, torch.zeros(2, 3, 20)) - changed).abs().mean() > 1e-3
    torch.testing.assert_close(denoiser(mel, 3 * asr_features + 5), changed, atol=1e-3, rtol=0)
    assert torch.equal(denoiser(mel), denoiser(mel, torch.zeros(2, 3, 20)))


def test_the_content_encoder_hears_what_it_leaves() -> None:
    torch.manual_seed(0)
    encoder = ContentEncoder(dataclasses.replace(SMALL, denoiser_blocks=1)).eval()
    mel, asr_features = torch.randn(1, N_MELS, 40), torch.randn(1, 3, 20)
    before = encoder(mel, asr_features)
    torch.nn.init.normal_(encoder.denoiser.output.weight)
    after, denoised = encoder(mel, asr_features), encoder.denoiser(mel, asr_features)
    assert (after - before).abs().mean() > 1e-2
    encoder.denoiser = None
    assert torch.equal(encoder(mel, asr_features), before) and torch.equal(encoder(denoised, asr_features), after)


# ---------------------------------------------------------------- batches


def test_a_batch_has_each_crop_twice(corpus: Path) -> None:
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    config = RobustFrontendBatchConfig(items=40, seconds=1.0)
    first, again = (RobustFrontendSampler(training, config, 0).batch(3) for _ in range(2))
    np.testing.assert_array_equal(first.disturbed, again.disturbed)
    assert first.clean.shape == first.disturbed.shape == (40, 31 * CODE_HOP)
    assert first.clean_mel.shape == first.disturbed_mel.shape == (40, N_MELS, 62)
    np.testing.assert_allclose(first.disturbed_mel[5], log_mel(first.disturbed[5])[:, :62])
    differ = np.abs(first.clean - first.disturbed).max(axis=1) > 0
    assert 20 < differ.sum() < 40
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.clean[differ], first.disturbed[differ])]
    assert np.median(alike) > 0.7 and max(alike) < 0.9999
    quiet = dataclasses.replace(config, disturb=DisturbConfig(clean=1.0))
    same = RobustFrontendSampler(training, quiet, 0).batch(3)
    np.testing.assert_array_equal(same.clean, same.disturbed)


def test_waves_that_break_off(corpus: Path) -> None:
    """The student gets a stretch of each crop, and its end mirrored."""
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    config = RobustFrontendBatchConfig(
        items=3, seconds=2.0, broken_off=0.5, window=(0.5, 1.2), disturb=DisturbConfig(clean=1.0)
    )
    sampler = RobustFrontendSampler(training, config, 0)
    whole, lengths = 0, set()
    for step in range(24):
        batch = sampler.batch(step)
        frames, first = len(batch.weights), int(batch.first) * CODE_HOP
        assert batch.weights.sum() == pytest.approx(1)
        assert batch.clean_mel.shape == (3, N_MELS, 2 * frames)
        assert batch.disturbed_mel.shape == (3, N_MELS, batch.disturbed.shape[1] // HOP_LENGTH)
        if batch.disturbed.shape == batch.clean.shape:
            whole += 1
            assert first == 0 and np.ptp(batch.weights) == 0
            continue
        lengths.add(frames)
        stretch, after = np.split(batch.disturbed, [frames * CODE_HOP], axis=1)
        np.testing.assert_array_equal(stretch, batch.clean[:, first : first + frames * CODE_HOP])
        np.testing.assert_array_equal(after, stretch[:, ::-1][:, : after.shape[1]])
        assert after.shape[1] == MIRRORED * HOP_LENGTH
        assert first + frames * CODE_HOP <= SAMPLE_RATE * 2 - SAMPLE_RATE // 4  # the teacher sees what follows
        assert batch.weights[-1] == pytest.approx(5 * batch.weights[0])
    assert 5 < whole < 19 and min(lengths) >= 15 and max(lengths) <= 38 and len(lengths) > 3


def test_an_encoder_of_whole_crops_has_no_loss_on_them(corpus: Path) -> None:
    """The losses of a stretch compare the same frames: they are small for one encoder, and large for frames beside."""
    training, _ = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    config = build_config(RobustFrontendTraining, {**yaml.safe_load(HEARING), "model": {**SIZE, "asr_channels": 288}})
    quiet = RobustFrontendBatchConfig(
        items=3, seconds=3.0, broken_off=1.0, window=(1.5, 2.0), disturb=DisturbConfig(clean=1.0)
    )
    batch = to_tensors(RobustFrontendSampler(training, quiet, 0).batch(1), "cpu")
    torch.manual_seed(0)
    robust_frontend, teacher = RobustFrontend(config).eval(), load_moonshine(GRAPH)
    with torch.no_grad():
        right = robust_frontend(batch, teacher(batch.clean))["content_consistency"]
        wrong = robust_frontend(batch._replace(first=batch.first + 3), teacher(batch.clean))["content_consistency"]
    assert 1e-4 < right < 0.5 * wrong


# ---------------------------------------------------------------- training and after


def test_they_learn_to_look_through_noise(corpus: Path, trained: Path) -> None:
    """Held-out clips disturbed anew, by what is trained and by what it was."""
    config = build_config(RobustFrontendTraining, {**yaml.safe_load(HEARING), "model": {**SIZE, "asr_channels": 288}})
    torch.manual_seed(0)
    robust_frontend, teacher = RobustFrontend(config).eval(), load_moonshine(GRAPH)
    _, validation = load_corpus(open_store(corpus.with_suffix(".store")), read_manifest(corpus))
    batch = to_tensors(
        RobustFrontendSampler(validation, dataclasses.replace(config.batch, items=12), 9).batch(0), "cpu"
    )
    found = []
    for weights in (None, load_robust_frontend(trained / "checkpoint.safetensors")):
        for part, state in (weights or {}).items():
            getattr(robust_frontend, part).load_state_dict(state)
        with torch.no_grad():
            found.append({k: v.item() for k, v in robust_frontend(batch, teacher(batch.clean)).items()})
    before, after = found
    assert after["content_consistency"] < 0.9 * before["content_consistency"] and after["mel"] < 0.95 * before["mel"]
    for name in ("validation/content_consistency", "validation/features", "validation/mel", "gradient/denoiser"):
        assert np.isfinite(scalars(trained.parent, name)).all()


def test_a_training_goes_on_where_it_stopped(corpus: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    store = f"corpus.store={corpus.with_suffix('.store')}"
    settings = [store, "batch.items=2", "batch.seconds=0.5", "optimizer.warmup=1", "optimizer.final_rate=1e-3"]
    one = train(whole, HEARING, corpus, *settings, "optimizer.steps=4")
    train(parts, HEARING, corpus, *settings, "optimizer.steps=2")
    two = train(parts, HEARING, corpus, *settings, "optimizer.steps=4", resume=True)
    for name, value in one["ema"].items():
        torch.testing.assert_close(two["ema"][name], value)


def speaker_similarity(heard: np.ndarray | torch.Tensor, moonshine: torch.nn.Module, wave: np.ndarray) -> float:
    """Mean cosine over frames of features [R, F] and those that a network hears, less the mean of these."""
    wanted = moonshine(torch.from_numpy(wave)[None])[0]
    middle = wanted.mean(dim=1, keepdim=True)
    return torch.cosine_similarity(torch.as_tensor(heard) - middle, wanted - middle, dim=0).mean().item()


def test_a_recognizer_is_made_of_it(trained: Path, tmp_path: Path, capsys) -> None:
    made = tmp_path / "robust_frontend.onnx"
    main = script(RECIPE).main
    arguments = [str(GRAPH), "--trained", str(trained / "checkpoint.safetensors")]
    assert main([*arguments, "-o", str(made)]) == 0
    weights = load_robust_frontend(trained / "checkpoint.safetensors")["asr_encoder"]
    after = load_moonshine(GRAPH)
    after.load_state_dict(weights)
    clip, _ = audio.read(REPOSITORY / "examples" / "source.flac", SAMPLE_RATE)
    noisy = clip[: 2 * SAMPLE_RATE] + np.random.default_rng(0).normal(0, 0.05, 2 * SAMPLE_RATE).astype(np.float32)
    graph, reloaded = AsrEncoder(made), load_moonshine(made)
    assert speaker_similarity(graph(clip), after, clip) > 0.99
    assert speaker_similarity(graph(noisy), reloaded, noisy) > 0.99
    assert abs(made.stat().st_size / GRAPH.stat().st_size - 1) < 0.02
    again = reloaded.state_dict()  # and may be trained further
    for name, value in weights.items():
        assert (again[name] - value).abs().max() < 0.01 * value.abs().max()
    # Half of the way there, and none of it.
    ends = load_moonshine(GRAPH).state_dict(), again
    for share, (one, other) in (("0.5", (0.5, 0.5)), ("0", (1, 0))):
        half = tmp_path / f"{share}.onnx"
        assert main([*arguments, "--share", share, "-o", str(half)]) == 0
        for name, value in load_moonshine(half).state_dict().items():
            assert (value - one * ends[0][name] - other * ends[1][name]).abs().max() < 0.01 * value.abs().max()
    assert main([*arguments, "--share", "2", "-o", str(made)]) == 2
    assert "--share 2: use 0 to 1" in capsys.readouterr().err
    (tmp_path / "other.safetensors").write_bytes(b"none")
    assert main([str(GRAPH), "--trained", str(tmp_path / "other.safetensors"), "-o", str(made)]) == 2
    assert "other.safetensors" in capsys.readouterr().err


def test_a_conversion_training_begins_with_the_denoiser(corpus: Path, trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoint.safetensors"
    settings = [
        f"corpus.store={tmp_path / 'heard.store'}",
        f"corpus.asr_encoder={GRAPH}",
        f"robust_frontend={checkpoint}",
    ]
    size = [f"model.{name}={value}" for name, value in SIZE.items()]
    state = train(tmp_path, CONVERSION, corpus, *settings, *size, "optimizer.steps=1", "optimizer.learning_rate=0")
    for name, value in load_robust_frontend(checkpoint)["denoiser"].items():
        assert torch.equal(state["ema"][f"content.denoiser.{name}"], value)
    for wrong in ("model.denoiser_blocks=0", "model.denoiser_channels=8"):
        with pytest.raises(InputError, match=r"its denoiser does not fit the model .*; set model.denoiser_blocks"):
            other = tmp_path / wrong
            other.mkdir()
            train(other, CONVERSION, corpus, *settings, *size, wrong, "optimizer.steps=1")


@pytest.mark.parametrize(
    ("setting", "message"),
    [("asr_encoder=''", "asr_encoder: not set"), ("model.denoiser_blocks=0", "0 is no denoiser; use 1 or more")],
)
def test_settings_that_cannot_be(corpus: Path, tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, HEARING, corpus, setting)


def test_a_conversion_checkpoint_is_no_hearing(trained: Path, tmp_path: Path) -> None:
    from vconv.training import checkpoint

    checkpoint.save(tmp_path / "a.safetensors", {"task": "vocoder"})
    with pytest.raises(InputError, match="holds a vocoder training, not a robust_frontend one"):
        load_robust_frontend(tmp_path / "a.safetensors")
