"""Soft codes: what the decoder hears of a code in use, between the nearest entry and what was quantized."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.conftest import BASE_MODEL, Cli, speech  # noqa: E402
from vconv.config import BottleneckConfig, ConversionConfig, build  # noqa: E402
from vconv.config_files import override  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.export import export  # noqa: E402
from vconv.inference.engine import OnnxEngine  # noqa: E402
from vconv.inference.torch_engine import TorchEngine  # noqa: E402
from vconv.inference.utterance import Utterance  # noqa: E402
from vconv.model_folder import ASR_ENCODER  # noqa: E402
from vconv.models import saved  # noqa: E402
from vconv.models.bottleneck import Bottleneck, make_bottleneck  # noqa: E402
from vconv.training import checkpoint  # noqa: E402


def quantizers(*settings: dict[str, float]) -> list[Bottleneck]:
    """Bottlenecks with the same codebooks and settings of their own."""
    torch.manual_seed(0)
    first = make_bottleneck(8, BottleneckConfig(codes=16)).train()
    first(torch.randn(4, 8, 50))
    made = [make_bottleneck(8, BottleneckConfig(codes=16, **own)) for own in settings]
    for bottleneck in made:
        bottleneck.load_state_dict(first.state_dict())
        bottleneck.eval()
    return made


def test_softness_is_a_mean_of_entries_and_the_codes_stay() -> None:
    hard, sharp, soft, wide = quantizers(
        {}, {"soft_temperature": 1e-4}, {"soft_temperature": 0.3}, {"soft_temperature": 1e4}
    )
    z = torch.randn(2, 8, 30)
    codes = [bottleneck.encode(z).codes for bottleneck in (hard, sharp, soft, wide)]
    assert all(torch.equal(code, codes[0]) for code in codes)
    torch.testing.assert_close(sharp.encode(z).z_q, hard.encode(z).z_q, rtol=0, atol=1e-3)
    # Anything at all: the mean of all entries, whatever the frame.
    middle = wide.codebooks.mean(1).flatten()[None, :, None].expand_as(z)
    torch.testing.assert_close(wide.encode(z).z_q, middle, rtol=0, atol=1e-3)
    nearest, expected = hard.encode(z).z_q, soft.encode(z).z_q
    assert (expected - z).square().mean() < (nearest - z).square().mean()
    torch.testing.assert_close(soft.decode(codes[0]), nearest)


def test_the_weights_are_those_of_the_formula() -> None:
    (soft,) = quantizers({"soft_temperature": 0.5})
    z = torch.randn(1, 8, 5)
    book = soft.codebooks[1]
    distance = (z[0, 4:].T[:, None] - book).square().sum(2)
    weight = (-distance / (0.5 * soft.codebooks.square().sum(2).mean())).softmax(1)
    torch.testing.assert_close(soft.encode(z).z_q[0, 4:], (weight @ book).T)


def test_residue_adds_its_share_of_what_was_taken_away() -> None:
    hard, part, all_of_it = quantizers({}, {"residual_mix": 0.25}, {"residual_mix": 1.0})
    z = torch.randn(2, 8, 30)
    z_q = hard.encode(z).z_q
    torch.testing.assert_close(part.encode(z).z_q, z_q + 0.25 * (z - z_q))
    torch.testing.assert_close(all_of_it.encode(z).z_q, z)


def test_training_hears_the_nearest_entries() -> None:
    hard, soft = quantizers({}, {"soft_temperature": 0.3, "residual_mix": 0.5})
    z = torch.randn(2, 8, 30)
    torch.testing.assert_close(soft.train()(z).z_q, hard.encode(z).z_q, rtol=0, atol=1e-5)


def test_a_share_of_the_items_is_trained_on_what_is_heard_in_use() -> None:
    settings = {"soft_temperature": 0.3, "residual_mix": 0.5}
    hard, all_soft, some = quantizers({}, {**settings, "soft_probability": 1.0}, {**settings, "soft_probability": 0.5})
    z = torch.randn(40, 8, 30, requires_grad=True)
    nearest, heard = hard.encode(z).z_q, all_soft.encode(z).z_q
    for bottleneck in (all_soft, some):  # as long as they are trained, the codebooks follow
        for stage in bottleneck.stages:
            stage["_codebook"].decay = 1.0
    trained = all_soft.train()(z)
    torch.testing.assert_close(trained.z_q, heard, rtol=0, atol=1e-4)
    assert torch.equal(trained.codes, hard.encode(z).codes)
    (gradient,) = torch.autograd.grad(trained.z_q.sum(), z, retain_graph=True)
    (expected,) = torch.autograd.grad(heard.sum(), z)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)
    mixed = some.train()(z).z_q
    soft = (mixed - heard).abs().amax(dim=(1, 2)) < 1e-3
    assert 8 < soft.sum() < 32
    torch.testing.assert_close(mixed[~soft], nearest[~soft], rtol=0, atol=1e-3)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="soft_probability"):
        build(ConversionConfig, {"bottleneck": {"soft_probability": share}})


@pytest.mark.parametrize("settings", [{"soft_temperature": -1.0}, {"residual_mix": 1.5}], ids=lambda s: str(s))
def test_impossible_ones_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        build(ConversionConfig, {"bottleneck": settings})


def test_export_sets_them_and_both_engines_agree(small_model: Path, tmp_path: Path) -> None:
    plain, folder, file = small_model, tmp_path / "soft", tmp_path / "conversion.safetensors"
    model, _ = saved.load(plain)
    state = {"task": "conversion", "config": {"model": asdict(model.config)}, "ema": model.state_dict()}
    checkpoint.save(file, state)
    export(file, plain, folder, ["bottleneck.soft_temperature=0.3", "bottleneck.residual_mix=0.25"])
    utterance = Utterance.of(speech(0.5))
    soft, again = (engine.content(utterance) for engine in (OnnxEngine(folder, 1), TorchEngine(folder, "torch", 1)))
    np.testing.assert_allclose(soft.content, again.content, atol=1e-4)
    np.testing.assert_array_equal(soft.codes, again.codes)
    hard = OnnxEngine(plain, 1).content(utterance)
    np.testing.assert_array_equal(hard.codes, soft.codes)
    assert np.abs(soft.content - hard.content).max() > 1e-2
    with pytest.raises(InputError, match="other shapes"):
        export(file, plain, tmp_path / "other", ["bottleneck.codes=8"])
    with pytest.raises(InputError, match="did you mean 'soft_temperature'"):
        export(file, plain, tmp_path / "other", ["bottleneck.soft_temperatur=0.3"])


def test_override_leaves_the_rest() -> None:
    config = override(ConversionConfig(), ["bottleneck.codes=64", "channels=16"])
    assert (config.bottleneck.codes, config.channels, config.bottleneck.groups) == (64, 16, 2)


def test_both_models_may_come_from_model_folders(small_model: Path, tmp_path: Path, vconv_cli: Cli) -> None:
    done = vconv_cli("export", BASE_MODEL, small_model, "-o", tmp_path / "mixed")
    assert done.code == 0, done.error
    for name in ("conversion.safetensors", "speaker_encoder.safetensors", ASR_ENCODER):
        assert (tmp_path / "mixed" / name).read_bytes() == (BASE_MODEL / name).read_bytes(), name
    assert (tmp_path / "mixed" / "vocoder.safetensors").read_bytes() == (
        small_model / "vocoder.safetensors"
    ).read_bytes()
    done = vconv_cli("export", BASE_MODEL, small_model, "-o", tmp_path / "none", "--set", "channels=16")
    assert done.code == 2 and "a model folder's settings stay as they are" in done.error
    done = vconv_cli("export", tmp_path, small_model, "-o", tmp_path / "none")
    assert done.code == 2 and str(tmp_path) in done.error
