"""Frozen statistics of the instance norms: a part of an utterance is encoded as within the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.conftest import speech  # noqa: E402
from vconv.inference.engine import OnnxEngine  # noqa: E402
from vconv.inference.torch_engine import TorchEngine  # noqa: E402
from vconv.inference.utterance import Utterance  # noqa: E402
from vconv.model_folder import read_config  # noqa: E402
from vconv.models.layers import InstanceNorm  # noqa: E402
from vconv.models.norm_statistics import NormStatistics, from_moments, mixed, moments  # noqa: E402
from vconv.voice import Voice  # noqa: E402


@pytest.fixture(scope="module")
def engines(small_model: Path) -> tuple[OnnxEngine, TorchEngine]:
    return OnnxEngine(small_model, 1), TorchEngine(small_model, "torch", 1)


def test_an_instance_norm_takes_a_share_of_given_statistics_and_reports_its_own() -> None:
    x = torch.randn(1, 3, 50) * 2 + 1
    given = torch.stack([torch.full((1, 3), 5.0), torch.full((1, 3), 4.0)], dim=1)
    with NormStatistics(given, torch.ones(1)) as frozen:
        torch.testing.assert_close(InstanceNorm()(x), (x - 5) / 2, atol=1e-4, rtol=0)
    (own,) = frozen.reported
    torch.testing.assert_close(own[:, 0], x.mean(dim=2))
    plain = InstanceNorm()(x)  # outside of it, norms are as they were
    assert plain.mean().abs() < 1e-5
    with NormStatistics(given, torch.zeros(1)):
        torch.testing.assert_close(InstanceNorm()(x), plain)


def test_mixed_statistics_are_those_of_both_signals_together() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 3, 60) + 1, 3 * torch.randn(2, 3, 20)
    of = lambda x: torch.stack([x.mean(dim=2), x.var(dim=2, correction=0)], dim=1)  # noqa: E731
    torch.testing.assert_close(mixed(of(one), of(other), torch.full((2,), 0.25)), of(torch.cat([one, other], dim=2)))
    shares = torch.tensor([0.0, 1.0])
    wanted = torch.stack([of(one)[0], of(other)[1]])
    torch.testing.assert_close(mixed(of(one)[0], of(other), shares), wanted)
    torch.testing.assert_close(from_moments(moments(of(one))), of(one))


def test_with_frozen_statistics_a_part_is_encoded_as_within_the_whole(
    engines: tuple[OnnxEngine, TorchEngine],
) -> None:
    wave = speech(3.0)
    for engine in engines:
        utterance = Utterance.of(wave)
        whole = engine.content(utterance)
        part = engine.content(utterance.first(100), whole.statistics)
        np.testing.assert_allclose(part.content[:, :35], whole.content[:, :35], atol=1e-4)
        assert part.statistics.shape == whole.statistics.shape
        assert np.abs(part.statistics - whole.statistics).max() > 1e-3
        alone = engine.content(utterance.first(100))
        assert np.abs(alone.content[:, :35] - whole.content[:, :35]).max() > 0.01


def test_both_engines_decode_alike_with_given_statistics(
    engines: tuple[OnnxEngine, TorchEngine], small_model: Path
) -> None:
    config = read_config(small_model)[0]
    onnx, tor = engines
    content = onnx.content(Utterance.of(speech(2.0))).content
    pitch = np.zeros((2, 2 * content.shape[1]), np.float32)
    embedding = np.full(config.embedding_channels, config.embedding_channels**-0.5, np.float32)
    plain = onnx.decode(content, pitch, Voice(embedding, None))
    statistics = plain.statistics * np.float32(1.5)
    first, second = (engine.decode(content, pitch, Voice(embedding, None), statistics) for engine in (onnx, tor))
    np.testing.assert_allclose(first.mel, second.mel, atol=1e-3)
    np.testing.assert_allclose(first.statistics, second.statistics, atol=1e-3)
    assert np.abs(first.mel - plain.mel).max() > 0.01
