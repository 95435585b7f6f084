"""Bounds on mutual information: their values by hand, and what critics find in dependent and independent pairs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from vconv.features import LOG_MEL_MIDDLE, LOG_MEL_SPREAD, N_MELS  # noqa: E402
from vconv.training.information import (  # noqa: E402
    ContentInformation,
    FuturePrediction,
    SpeakerInformation,
    info_nce,
    jensen_shannon,
)

CHANNELS, FRAMES = 6, 20  # of the code


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def learned(critic: nn.Module, draw: Callable[[], tuple[Tensor, ...]], steps: int = 60) -> float:
    """The bound on pairs that it has not seen, once a critic has learned from so many batches; none comes twice."""
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        critic(*draw()).backward()
        optimizer.step()
    with torch.no_grad():
        return -sum(critic(*draw()).item() for _ in range(8)) / 8


# ---------------------------------------------------------------- the two estimators


def test_info_nce_by_hand() -> None:
    scores = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]])
    expected = (math.log(1 + 2 * math.exp(-1)) + math.log(1 + 2 * math.exp(-2))) / 2
    assert info_nce(scores, torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_info_nce_of_scores_that_say_nothing_is_log_n() -> None:
    assert info_nce(torch.full((2, 5, 7), 3.0), torch.arange(5)).item() == pytest.approx(math.log(7))


def test_jensen_shannon_by_hand() -> None:
    matching = torch.eye(2).bool()
    assert jensen_shannon(torch.zeros(2, 2), matching).item() == pytest.approx(0.0, abs=1e-6)
    assert jensen_shannon(100 * (2 * torch.eye(2) - 1), matching).item() == pytest.approx(2 * math.log(2))
    scores = torch.tensor([[1.0, -2.0], [-2.0, 1.0]])
    expected = 2 * math.log(2) - math.log(1 + math.exp(-1)) - math.log(1 + math.exp(-2))
    assert jensen_shannon(scores, matching).item() == pytest.approx(expected)


def test_without_pairs_of_both_kinds_there_is_nothing_to_find() -> None:
    scores = torch.randn(3, 3, requires_grad=True)
    bound = jensen_shannon(scores, torch.ones(3, 3).bool())
    bound.backward()
    assert bound.item() == 0.0
    assert scores.grad.abs().sum() == 0


# ---------------------------------------------------------------- what critics find


def turning(batch: int = 8) -> tuple[Tensor]:
    """Codes that go round at one pace, each from a phase of its own: the future follows from the past."""
    angle = torch.rand(batch, 1) * 2 * torch.pi + 0.6 * torch.arange(FRAMES)
    plane = torch.stack([angle.cos(), angle.sin()], dim=1).repeat(1, CHANNELS // 2, 1)
    return (2 * plane + 0.3 * torch.randn_like(plane),)


def test_the_future_is_foretold_where_it_follows_from_the_past() -> None:
    assert learned(FuturePrediction(CHANNELS, 3, 32), turning) > 0.7


def test_white_noise_has_no_future() -> None:
    """Nor has a critic seen it: what is to come is not in the context."""
    bound = learned(FuturePrediction(CHANNELS, 3, 32), lambda: (torch.randn(8, CHANNELS, FRAMES),))
    assert abs(bound) < 0.1


def test_the_bound_of_the_future_is_the_hand_computed_one() -> None:
    """One step ahead in one clip: two anchors, each against the clip's three frames."""
    head = FuturePrediction(2, 1, 4)
    code = torch.randn(1, 2, 3)
    frames = code[0].T
    with torch.no_grad():
        context = head.context(frames[None])[0][0]
        scores = head.ahead[0](context[:2]) @ frames.T / 2**0.5
        expected = -(scores.softmax(dim=1)[[0, 1], [1, 2]].log().mean() + math.log(3))
        assert head(code).item() == pytest.approx(expected.item(), rel=1e-5)


def mel_and_code(dependent: bool) -> Callable[[], tuple[Tensor, Tensor]]:
    mix = torch.randn(CHANNELS, N_MELS) / N_MELS**0.5

    def draw() -> tuple[Tensor, Tensor]:
        mel = torch.randn(8, N_MELS, 2 * FRAMES)
        speech = mel if dependent else torch.randn_like(mel)
        code = mix @ nn.functional.avg_pool1d(speech, 2) * 2
        return LOG_MEL_MIDDLE + LOG_MEL_SPREAD * mel, code

    return draw


@pytest.mark.parametrize(("dependent", "low", "high"), [(True, 0.5, math.log(FRAMES)), (False, -0.1, 0.1)])
def test_content_information_is_found_where_the_code_depends_on_the_speech(
    dependent: bool, low: float, high: float
) -> None:
    assert low < learned(ContentInformation(CHANNELS, 32), mel_and_code(dependent)) < high


def code_and_voice(dependent: bool) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    voices = nn.functional.normalize(torch.randn(5, 4), dim=1)
    mix = 2 * torch.randn(CHANNELS, 4)

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        speaker = torch.randint(5, (12,))
        embedding = voices[speaker]
        shown = embedding if dependent else voices[torch.randint(5, (12,))]
        return torch.randn(12, CHANNELS, FRAMES) + (shown @ mix.T).unsqueeze(2), embedding, speaker

    return draw


@pytest.mark.parametrize(("dependent", "low", "high"), [(True, 0.5, 2 * math.log(2)), (False, -0.1, 0.1)])
def test_speaker_information_is_found_where_the_code_shows_the_voice(dependent: bool, low: float, high: float) -> None:
    assert low < learned(SpeakerInformation(CHANNELS, 4, 16), code_and_voice(dependent), 40) < high


def test_pairs_of_unknown_speakers_are_left_out() -> None:
    critic, code, embedding = SpeakerInformation(CHANNELS, 4, 16), torch.randn(3, CHANNELS, FRAMES), torch.randn(3, 4)
    known = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1]]).bool()
    with torch.no_grad():
        scores = critic.code(code) @ critic.voice(critic.gain * embedding).T / 16**0.5
        bound = -critic(code, embedding, torch.tensor([0, -1, -1]))
    assert bound.item() == pytest.approx(jensen_shannon(scores[known], torch.eye(3).bool()[known]).item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["future", "content", "speaker"])
def test_a_bound_in_bf16_is_nearly_that_in_float32(kind: str) -> None:
    if kind == "future":
        critic, inputs = FuturePrediction(CHANNELS, 3, 32), turning()
    elif kind == "content":
        critic, inputs = ContentInformation(CHANNELS, 32), mel_and_code(True)()
    else:
        critic, inputs = SpeakerInformation(CHANNELS, 4, 16), code_and_voice(True)()
    exact = critic(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = critic(*inputs)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), abs=0.03)
    rounded.backward()
    assert all(torch.isfinite(p.grad).all() for p in critic.parameters())


def test_the_code_is_pulled_to_where_it_tells_less_of_the_speaker() -> None:
    critic, draw = SpeakerInformation(CHANNELS, 4, 16), code_and_voice(True)
    learned(critic, draw, 15)
    code, embedding, speaker = draw()
    code.requires_grad_(True)
    embedding.requires_grad_(True)
    loss = critic(code, embedding, speaker)
    loss.backward()
    with torch.no_grad():
        told_less = critic(code - code.grad / code.grad.norm(), embedding, speaker)
    assert -told_less.item() < -loss.item()
    assert embedding.grad is None  # who speaks is to stay in the embedding
