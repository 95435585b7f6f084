"""The contractive penalty against exact Jacobians, and layer-wise pre-training one layer at a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from tests.synthetic import make_corpus  # noqa: E402
from tests.test_training import CONVERSION, scalars, train  # noqa: E402
from vconv.config import ConversionConfig  # noqa: E402
from vconv.errors import InputError  # noqa: E402
from vconv.features import N_MELS  # noqa: E402
from vconv.models.content_encoder import ContentEncoder  # noqa: E402
from vconv.training.contractive import contractive_penalty, squared_jacobian_norm  # noqa: E402
from vconv.training.layerwise import PretrainConfig, layers_of, pretrain  # noqa: E402

SMALL = ConversionConfig(channels=12, expansion=2, content_blocks=(1, 1), content_channels=4, asr_channels=2)


def small_encoder(config: ConversionConfig = SMALL) -> ContentEncoder:
    torch.manual_seed(0)
    return ContentEncoder(config)


def speech(frames: int = 8, items: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(items, N_MELS, frames) - 6, torch.randn(items, 2, frames // 2)


# ---------------------------------------------------------------- the contractive penalty


def exact_norms(encoder: ContentEncoder, mel: torch.Tensor, asr_features: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius norm of each item's Jacobian: [B]"""
    norms = []
    for one, features in zip(mel, asr_features):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, features=features: encoder(x[None], features[None])[0], one, create_graph=True
        )
        norms.append(jacobian.square().sum())
    return torch.stack(norms)


def test_hutchinsons_estimate_is_the_exact_jacobians_norm() -> None:
    encoder, (mel, asr_features) = small_encoder(), speech()
    exact = exact_norms(encoder, mel, asr_features)
    many = 400
    repeated = asr_features.repeat_interleave(many, 0)
    found, code = squared_jacobian_norm(lambda x: encoder(x, repeated), mel.repeat_interleave(many, 0))
    torch.testing.assert_close(found.unflatten(0, (2, many)).mean(dim=1), exact, rtol=0.05, atol=0)
    torch.testing.assert_close(code[::many], encoder(mel, asr_features))
    # The gradient as well, on the weights alone.
    weight = encoder.output.weight
    (wanted,) = torch.autograd.grad(exact.sum(), weight)
    (estimate,) = torch.autograd.grad(found.sum() / many, weight)
    assert torch.cosine_similarity(estimate.flatten(), wanted.flatten(), dim=0) > 0.98
    assert not mel.requires_grad


def test_one_sign_is_exact_where_the_rows_of_the_jacobian_are_orthogonal() -> None:
    x = torch.randn(3, 5)
    factors = torch.tensor([1.0, 2, 0, -3, 0.5])
    norms, _ = squared_jacobian_norm(lambda x: x * factors, x)
    torch.testing.assert_close(norms, factors.square().sum().expand(3))


def test_the_penalty_does_not_change_with_the_size_of_the_code() -> None:
    encoder, inputs = small_encoder(), speech()
    torch.manual_seed(2)
    before = contractive_penalty(encoder, *inputs)
    with torch.no_grad():
        encoder.output.weight *= 3
        encoder.output.bias *= 3
    torch.manual_seed(2)
    torch.testing.assert_close(contractive_penalty(encoder, *inputs), before, rtol=1e-2, atol=0)


def test_an_encoder_learns_to_contract() -> None:
    encoder, inputs = small_encoder(), speech(16)
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    before = exact_norms(encoder, *inputs).sum() / encoder(*inputs).var()
    for _ in range(30):
        optimizer.zero_grad()
        contractive_penalty(encoder, *inputs).backward()
        optimizer.step()
    assert exact_norms(encoder, *inputs).sum() / encoder(*inputs).var() < 0.7 * before


# ---------------------------------------------------------------- layer by layer


def test_each_stage_trains_one_layer_and_no_other() -> None:
    encoder, inputs = small_encoder(), speech(32)
    names = [layer.name for layer in layers_of(encoder)]
    assert names == ["input", "fine.0", "halve", "coarse.0", "output"]
    before = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    torch.manual_seed(0)
    stages = pretrain(encoder, lambda step: inputs, PretrainConfig(steps=40, learning_rate=3e-3))
    for name, trained in itertools.zip_longest(names, stages):
        assert trained.name == name
        changed = {key for key, value in encoder.named_parameters() if not torch.equal(value, before[key])}
        assert changed == {key for key in before if key.startswith(f"{name}.")}
        assert trained.after < 0.8 * trained.before
        before = {key: value.detach().clone() for key, value in encoder.named_parameters()}
    assert all(value.grad is None for value in encoder.parameters())


# ---------------------------------------------------------------- in training


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), sentences=3)


def test_both_train_in_miniature(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    switches = ("losses.contractive=0.1", "pretrain.steps=2", "losses.adversary=0", "log.every=1")
    train(tmp_path, CONVERSION, corpus, *switches, "optimizer.steps=2")
    assert len(scalars(tmp_path, "contractive")) == 2
    lines = [line.split(":")[0] for line in capfd.readouterr().out.splitlines() if line.startswith("pre-trained")]
    assert lines == [f"pre-trained {name}" for name in ("input", "fine.0", "halve", "coarse.0", "output")]
    train(tmp_path, CONVERSION, corpus, *switches, "optimizer.steps=3", resume=True)
    assert "pre-trained" not in capfd.readouterr().out
    on_device = ("corpus.features=device", f"corpus.store={tmp_path / 'device.store'}", f"output={tmp_path / 'device'}")
    train(tmp_path, CONVERSION, corpus, *switches, *on_device, "optimizer.steps=1")
    assert capfd.readouterr().out.count("pre-trained") == 5
    with pytest.raises(InputError, match=r"pretrain\.steps: would overwrite"):
        train(tmp_path, CONVERSION, corpus, *switches, "start_from=pretrained/base", resume=True)
