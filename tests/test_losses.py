"""The losses' values where they can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from vconv.training import losses  # noqa: E402


def test_mel_l1_is_in_units_of_three_nepers() -> None:
    assert losses.mel_l1(torch.zeros(1, 80, 5), torch.full((1, 80, 5), 3.0)).item() == pytest.approx(1.0)


def test_code_consistency_is_free_of_scale_and_holds_the_twin_still() -> None:
    code = torch.randn(2, 8, 30, requires_grad=True)
    twin = torch.randn(2, 8, 30, requires_grad=True)
    small = losses.code_consistency(code, twin)
    large = losses.code_consistency(10 * code, 10 * twin)
    assert small.item() == pytest.approx(large.item(), rel=1e-3)
    small.backward()
    assert twin.grad is None
    assert code.grad.abs().sum() > 0


def test_confusion_is_least_for_a_uniform_guess() -> None:
    uniform = losses.uniform_confusion(torch.zeros(4, 10))
    assert uniform.item() == pytest.approx(math.log(10))
    assert losses.uniform_confusion(torch.randn(4, 10)) > uniform


def test_items_without_a_label_do_not_count() -> None:
    logits = torch.tensor([[0.0, 1.0], [5.0, -5.0], [2.0, 0.0]], requires_grad=True)
    label = torch.tensor([1, -1, 1])
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    loss = losses.label_cross_entropy(logits, label)
    assert loss.item() == pytest.approx(expected)
    (loss + losses.uniform_confusion(logits, label >= 0)).backward()
    assert logits.grad[1].abs().sum() == 0
    assert (logits.grad[[0, 2]].abs().sum(dim=1) > 0).all()
    counted = losses.uniform_confusion(logits, label >= 0)
    assert counted.item() == pytest.approx(losses.uniform_confusion(logits[[0, 2]]).item())
    nobody = torch.full((3,), -1)
    assert losses.label_cross_entropy(logits, nobody).item() == 0.0
    assert losses.uniform_confusion(logits, nobody >= 0).item() == 0.0


def test_units_that_are_unknown_do_not_count() -> None:
    log_probs = torch.randn(2, 5, 7).log_softmax(dim=2)
    units = torch.tensor([[3, -1, 0, -1, 6], [-1] * 5])
    expected = -(log_probs[0, 0, 3] + log_probs[0, 2, 0] + log_probs[0, 4, 6]) / 3
    torch.testing.assert_close(losses.pseudo_label_cross_entropy(log_probs, units), expected)
    assert losses.pseudo_label_cross_entropy(log_probs, torch.full((2, 5), -1)) == 0


def test_ctc_of_a_certain_path_is_zero() -> None:
    log_probs = torch.full((1, 4, 3), -50.0)
    for frame, phone in enumerate([1, 0, 2, 2]):
        log_probs[0, frame, phone] = 0.0
    loss = losses.phone_ctc(log_probs, torch.tensor([4]), torch.tensor([[1, 2]]), torch.tensor([2]))
    assert loss.item() == pytest.approx(0.0, abs=1e-4)


def test_hinge() -> None:
    sure = [torch.full((2, 3), 2.0)], [torch.full((2, 3), -2.0)]
    assert losses.discriminator_hinge(*sure).item() == 0.0
    assert losses.discriminator_hinge([torch.zeros(2)], [torch.zeros(2)]).item() == 2.0
    assert losses.generator_hinge([torch.full((2,), 0.5), torch.full((2,), 1.5)]).item() == -1.0


def test_feature_matching_is_relative_and_zero_for_the_same() -> None:
    maps = [[torch.randn(2, 4, 8), torch.randn(2, 4, 4)]]
    assert losses.feature_matching(maps, maps).item() == 0.0
    doubled = [[2 * m for m in maps[0]]]
    assert losses.feature_matching(maps, doubled).item() == pytest.approx(1.0, rel=1e-3)


def test_mel_distance_counts_a_change_of_level_in_nepers_and_prefers_the_right_formant() -> None:
    noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    assert losses.mel_distance(noise, noise).item() == 0.0
    assert losses.mel_distance(2 * noise, noise).item() == pytest.approx(np.log(2), abs=0.01)
    time = torch.arange(8000) / 16000
    tone, near, far = (torch.sin(2 * torch.pi * f * time)[None] for f in (440, 450, 2000))
    assert losses.mel_distance(near, tone) < 0.5 * losses.mel_distance(far, tone)


def test_spectral_distance_orders_waves_by_likeness() -> None:
    time = torch.arange(12000) / 24000
    tone = torch.sin(2 * torch.pi * 440 * time)[None]
    sizes = (512, 256)
    same = losses.spectral_distance(tone, tone, sizes)
    shifted = losses.spectral_distance(torch.sin(2 * torch.pi * 440 * time + 1)[None], tone, sizes)
    other = losses.spectral_distance(torch.sin(2 * torch.pi * 880 * time)[None], tone, sizes)
    assert same.item() == 0.0
    assert shifted < 0.5 < other
