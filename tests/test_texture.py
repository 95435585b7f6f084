"""Texture of mels: what a tuned voice is to keep."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
texture = pytest.importorskip("vconv.training.texture")
mel_l1 = pytest.importorskip("vconv.training.losses").mel_l1


def rough(seed: int) -> torch.Tensor:
    return torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(seed))


def test_it_compares_statistics_and_not_values() -> None:
    same, other = texture.texture_distance(rough(0), rough(0)), texture.texture_distance(rough(0), rough(1))
    assert same == 0 and other < 0.2
    assert float(texture.texture_distance(0.5 * rough(1), rough(0))) == pytest.approx(np.log(4), rel=0.1)


def test_a_smoothed_mel_is_brought_back_by_its_gradient() -> None:
    reference = rough(0)
    mel = torch.nn.functional.avg_pool1d(rough(1), 5, 1, 2).requires_grad_()
    before = texture.texture_distance(mel, reference)
    optimizer = torch.optim.Adam([mel], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        distance = texture.texture_distance(mel, reference)
        distance.backward()
        optimizer.step()
    assert distance < 0.1 * before


def test_pauses_do_not_count() -> None:
    reference, mel = rough(0), rough(1)
    reference[:, :, 60:] -= 8
    still = mel.clone()
    still[:, :, 61:] = 0
    with_pauses, without = (float(texture.texture_distance(one, reference)) for one in (mel, still))
    assert without == pytest.approx(with_pauses, abs=0.1)


def test_a_tuned_voice_does_not_learn_what_its_recordings_have_in_pauses() -> None:
    clean = rough(0)
    clean[:, :, 60:] -= 8
    speaking = texture.speaking(clean)
    assert speaking.shape == (2, 1, 120) and speaking[..., :60].all() and not speaking[..., 60:].any()
    mel = (clean + 3).requires_grad_()
    error = mel_l1(mel, clean, speaking)
    error.backward()
    assert error.item() == pytest.approx(1.0)
    assert not mel.grad[..., 60:].any() and mel.grad[..., :60].all()
    assert mel_l1(mel, clean, 0 * speaking) == 0  # nothing counts


def test_a_crop_of_foreign_speech_keeps_content_and_pitch_together() -> None:
    foreign = texture.Foreign(np.arange(400.0)[None], np.repeat(np.arange(400.0), 2)[None].repeat(2, 0))
    content, pitch = foreign.crop(np.random.default_rng(0))
    assert content.shape == (1, 1, texture.CROP_FRAMES) and pitch.shape == (1, 2, 2 * texture.CROP_FRAMES)
    assert torch.equal(pitch[0, 0, ::2], content[0, 0])
    short = texture.Foreign(foreign.content[:, :50], foreign.pitch[:, :100])
    assert short.crop(np.random.default_rng(0))[0].shape == (1, 1, 50)
