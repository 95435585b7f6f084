"""The speaker encoder that listens in training: what it hears, its file, and what training makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from recipes.base import speaker_encoder as recipe  # noqa: E402
from tests.conftest import speech  # noqa: E402
from tests.synthetic import CAMPPLUS_SIZES, make_corpus  # noqa: E402
from tests.test_training import CONVERSION, VOCODER, scalars, train  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.models.pretrained.campplus import FBANKS, CamPlusPlusConfig, fbank, load_campplus, save_campplus  # noqa: E402
from vconv.training import checkpoint  # noqa: E402
from vconv.training.perceptual import PerceptualLosses, speaker_similarity, to_analysis_rate  # noqa: E402
from vconv.training.trained import load_vocoder  # noqa: E402
from vconv.training.vocoder import feature_difference  # noqa: E402

SMALL = CamPlusPlusConfig(**CAMPPLUS_SIZES)


def tone(frequency: float, rate: int, samples: int = 24000) -> torch.Tensor:
    return torch.sin(2 * torch.pi * frequency * torch.arange(samples, dtype=torch.float64) / rate).float()[None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A corpus with its feature store, and the checkpoint of a vocoder."""
    manifest = make_corpus(tmp_path_factory.mktemp("corpus"))
    train(manifest.parent, VOCODER, manifest, "optimizer.steps=1")
    return manifest, manifest.parent / "run" / "checkpoint.safetensors"


def test_filterbank_energies_are_kaldis() -> None:
    wave = 30 * torch.from_numpy(speech(1.0))[None]  # loud: nothing comes near the floor
    bands = fbank(wave)
    assert bands.shape == (1, 98, FBANKS)  # (16000 - 400) / 160 + 1
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), FBANKS + 2)
    place = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)

    def by_definition(index: int) -> np.ndarray:
        """Mean off, pre-emphasis, Povey's window, power, triangles of height one on the HTK mel scale from 20 Hz."""
        frame = wave[0, 160 * index : 160 * index + 400].numpy().astype(float)
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        return np.log([power @ np.interp(place, edges[k : k + 3], [0, 1, 0]) for k in range(FBANKS)])

    # The difference of two frames: each band's mean over time is gone.
    difference = (bands[0, 50] - bands[0, 20]).numpy()
    np.testing.assert_allclose(difference, by_definition(50) - by_definition(20), atol=2e-3)
    torch.testing.assert_close(bands.mean(dim=1), torch.zeros(1, FBANKS), atol=1e-4, rtol=0)


def test_loudness_and_a_fixed_filter_do_not_make_another_voice(speaker_encoder_file: Path) -> None:
    speaker_encoder = load_campplus(speaker_encoder_file)
    wave = 30 * torch.from_numpy(speech(2.0))[None]
    voice = speaker_encoder(wave)
    torch.testing.assert_close(voice.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(speaker_encoder(3 * wave), voice, atol=2e-3, rtol=0)
    assert (speaker_encoder(30 * torch.from_numpy(speech(2.0, f0=220.0, seed=5))[None]) - voice).abs().max() > 1e-3


def test_a_file_comes_back_and_others_are_refused(speaker_encoder_file: Path, tmp_path: Path) -> None:
    speaker_encoder = load_campplus(speaker_encoder_file)
    assert speaker_encoder.config == SMALL and not any(p.requires_grad for p in speaker_encoder.parameters())
    again = tmp_path / "again.safetensors"
    save_campplus(again, speaker_encoder)
    assert again.read_bytes() == speaker_encoder_file.read_bytes()
    (tmp_path / "text").write_text("no weights")
    checkpoint.save(tmp_path / "other", {"task": "vocoder", "step": 1, "weights": torch.zeros(3)})
    for name in ("missing", "text", "other"):
        with pytest.raises(InputError, match=f"{name}: not a speaker encoder"):
            load_campplus(tmp_path / name)


def original(norm_of: dict[str, int]) -> dict[str, torch.Tensor]:
    """Batch norms as the original checkpoint has them, with statistics of their own."""
    found = {}
    for name, channels in norm_of.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels)
        found[f"{name}.running_mean"], found[f"{name}.running_var"] = torch.randn(channels), torch.rand(channels) + 0.5
    return found


def test_the_recipe_folds_batch_norms() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv1d(4, 6, 3, bias=False)
    norm = torch.nn.BatchNorm1d(6).eval()
    state = original({"norm": 6}) | {"layer.weight": convolution.weight.detach()}
    norm.load_state_dict({k.removeprefix("norm."): v for k, v in state.items() if k.startswith("norm")}, strict=False)
    folding = recipe.Folding(state)
    folding.folded("new", "layer", "norm")
    folding.alone("affine", "norm")
    x = torch.randn(2, 4, 9)
    folded = torch.nn.functional.conv1d(x, folding.found["new.weight"], folding.found["new.bias"])
    torch.testing.assert_close(folded, norm(convolution(x)))
    y = torch.randn(2, 6, 9)
    torch.testing.assert_close(y * folding.found["affine.scale"] + folding.found["affine.shift"], norm(y))


def campplus(layers: tuple[int, int, int], embedding: int) -> dict[str, torch.Tensor]:
    """A checkpoint of CAM++ with random weights, under the names that 3D-Speaker gives them."""
    norms = {"head.bn1": 32, "head.bn2": 32, "xvector.tdnn.nonlinear.batchnorm": 128}
    weights = {"head.conv1": (32, 1, 3, 3), "head.conv2": (32, 32, 3, 3), "xvector.tdnn.linear": (128, 320, 5)}
    for place in ("layer1.0", "layer1.1", "layer2.0", "layer2.1"):
        for k in (1, 2):
            weights[f"head.{place}.conv{k}"], norms[f"head.{place}.bn{k}"] = (32, 32, 3, 3), 32
        if place.endswith("0"):
            weights[f"head.{place}.shortcut.0"], norms[f"head.{place}.shortcut.1"] = (32, 32, 1, 1), 32
    channels, biased = 128, set()
    for block, count in enumerate(layers, 1):
        for k in range(1, count + 1):
            name = f"xvector.block{block}.tdnnd{k}"
            norms |= {f"{name}.nonlinear1.batchnorm": channels, f"{name}.nonlinear2.batchnorm": 128}
            weights |= {f"{name}.linear1": (128, channels, 1), f"{name}.cam_layer.linear_local": (32, 128, 3)}
            weights |= {f"{name}.cam_layer.linear1": (64, 128, 1), f"{name}.cam_layer.linear2": (32, 64, 1)}
            biased |= {f"{name}.cam_layer.linear1", f"{name}.cam_layer.linear2"}
            channels += 32
        norms[f"xvector.transit{block}.nonlinear.batchnorm"] = channels
        weights[f"xvector.transit{block}.linear"] = (channels // 2, channels, 1)
        channels //= 2
    norms |= {"xvector.out_nonlinear.batchnorm": channels, "xvector.dense.nonlinear.batchnorm": embedding}
    weights["xvector.dense.linear"] = (embedding, 2 * channels, 1)
    state = {f"{name}.weight": torch.randn(shape) / np.prod(shape[1:]) ** 0.5 for name, shape in weights.items()}
    state |= original(norms) | {f"{name}.bias": torch.randn(weights[name][0]) for name in biased}
    for part in ("weight", "bias"):  # the last norm has none of its own
        del state[f"xvector.dense.nonlinear.batchnorm.{part}"]
    return state


def test_the_recipe_converts_a_whole_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = campplus((2, 1, 3), 16)
    torch.save(state, tmp_path / "campplus.pt")
    assert recipe.main([str(tmp_path / "campplus.pt"), "-o", str(tmp_path / "speaker_encoder.safetensors")]) == 0
    speaker_encoder = load_campplus(tmp_path / "speaker_encoder.safetensors")
    assert (speaker_encoder.config.layers, speaker_encoder.config.embedding_channels) == ((2, 1, 3), 16)
    # The first layer by hand, convolution and batch norm apart.
    wave = torch.from_numpy(speech(1.0))[None]
    image = fbank(wave).transpose(1, 2)[:, None]
    plain = torch.nn.functional.conv2d(image, state["head.conv1.weight"], padding=1)
    running = (state["head.bn1.running_mean"], state["head.bn1.running_var"])
    normed = torch.nn.functional.batch_norm(plain, *running, state["head.bn1.weight"], state["head.bn1.bias"])
    torch.testing.assert_close(speaker_encoder.input(image), normed, atol=0.05, rtol=0.01)  # half precision
    assert [x.shape[1] for x in speaker_encoder.features(wave)] == [32, 128, 96, 64, 80]
    assert torch.isfinite(speaker_encoder(wave)).all()


def test_the_recipe_refuses_what_is_no_checkpoint_of_campplus(tmp_path: Path, capsys) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("other.pt", "text.pt", "missing.pt"):
        assert recipe.main([str(tmp_path / name), "-o", str(tmp_path / "out.safetensors")]) != 0
        assert f"{name}: not a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_the_upper_band_is_left_out() -> None:
    low, high = tone(1000.0, 24000), tone(10000.0, 24000)
    torch.testing.assert_close(to_analysis_rate(low), tone(1000.0, 16000, 16000), atol=1e-4, rtol=0)
    assert to_analysis_rate(high).abs().max() < 1e-3


def test_likeness_counts_known_speakers_alone() -> None:
    voices = torch.eye(3)
    heard = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert speaker_similarity(heard, voices, torch.tensor([0, 1, 2])) == 0
    assert speaker_similarity(heard, voices, torch.tensor([1, -1, 2])) == 0.5
    assert speaker_similarity(heard, voices, torch.tensor([-1, -1, -1])) == 0


def test_what_is_heard_reaches_the_mel_and_nothing_else(trained: tuple[Path, Path], speaker_encoder_file: Path) -> None:
    perceptual = PerceptualLosses(load_vocoder(trained[1]), load_campplus(speaker_encoder_file))
    mel = torch.full((2, FBANKS, 32), -5.0).add(torch.randn(2, FBANKS, 32)).requires_grad_()
    pitch = torch.stack([torch.linspace(-1, 1, 32), torch.ones(32)]).expand(2, 2, 32)
    heard = perceptual.speaker_encoder(perceptual.wave(mel, pitch))
    assert heard.shape == (2, SMALL.embedding_channels)
    heard[0, 0].backward()
    assert mel.grad[0].abs().sum() > 0 and mel.grad[1].abs().sum() == 0
    assert all(p.grad is None for p in [*perceptual.speaker_encoder.parameters(), *perceptual.vocoder.parameters()])


def test_training_listens(trained: tuple[Path, Path], speaker_encoder_file: Path, tmp_path: Path) -> None:
    manifest, vocoder = trained
    settings = [
        f"speaker_encoder={speaker_encoder_file}",
        f"vocoder={vocoder}",
        "losses.speaker_similarity=1",
        "losses.speaker_embedding=1",
    ]
    state = train(tmp_path, CONVERSION, manifest, *settings, "losses.cycle_items=3", "optimizer.steps=30")
    voice = scalars(tmp_path, "speaker_embedding")
    assert voice[-1] < 0.5 * voice[0]
    assert (
        len(scalars(tmp_path, "speaker_similarity")) == 3 and np.isfinite(scalars(tmp_path, "speaker_similarity")).all()
    )
    # The frozen networks are in no checkpoint, and the voices are heard only once.
    names = {name.partition(".")[0] for name in state["learner"]}
    assert "speaker_embedding_head" in names and not names & {"voices", "perceptual", "speaker_encoder"}
    assert len(list(manifest.with_suffix(".store").glob("voices-*.npy"))) == 1


def test_a_verifier_hears_the_difference_of_what_is_made(speaker_encoder_file: Path) -> None:
    speaker_encoder = load_campplus(speaker_encoder_file)
    real = torch.from_numpy(np.stack([speech(0.4, 24000), speech(0.4, 24000, 200.0, 3)]))
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    assert feature_difference(speaker_encoder, real, real) == 0
    near, far = real + 0.001 * noise, (real + 0.1 * noise).requires_grad_()
    assert feature_difference(speaker_encoder, real, near) < 0.8 * feature_difference(speaker_encoder, real, far)
    feature_difference(speaker_encoder, real, far).backward()
    closer = far.detach() - 0.002 * far.grad / far.grad.abs().mean()
    assert feature_difference(speaker_encoder, real, closer) < feature_difference(speaker_encoder, real, far)


def test_a_vocoder_trains_with_a_verifier(
    trained: tuple[Path, Path], speaker_encoder_file: Path, tmp_path: Path
) -> None:
    settings = [
        f"speaker_encoder={speaker_encoder_file}",
        "losses.speaker_similarity=1",
        "losses.adversarial_from=1",
        "optimizer.steps=10",
    ]
    state = train(tmp_path, VOCODER, trained[0], *settings, "batch.frames=24")
    assert np.isfinite(scalars(tmp_path, "speaker_similarity")).all()
    assert not any("speaker_encoder" in name for name in state)
    with pytest.raises(InputError, match="set speaker_encoder"):
        train(tmp_path, VOCODER, trained[0], "losses.speaker_similarity=1", f"output={tmp_path / 'other'}")


def test_a_verifier_is_asked_for(trained: tuple[Path, Path], tmp_path: Path) -> None:
    for settings, missing in (
        (("losses.speaker_embedding=1",), "set speaker_encoder"),
        (("losses.speaker_similarity=1", "speaker_encoder=x"), "set vocoder"),
        (("losses.speaker_similarity=1", "speaker_encoder=x", "vocoder=x", "losses.cycle_items=0"), "use 1 or more"),
    ):
        with pytest.raises(InputError, match=missing):
            train(tmp_path, CONVERSION, trained[0], *settings)
