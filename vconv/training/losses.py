"""Losses as plain functions; weights and schedules are the training loops' business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv.features import HOP_LENGTH, LOG_FLOOR, LOG_MEL_SPREAD, N_FFT, mel_filterbank


def mel_l1(predicted: Tensor, target: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean absolute difference of log-mels [B, N_MELS, T], in the networks' unit of 3 nepers.

    ``counted`` [B, 1, T], of ones and zeros, leaves the other frames out.
    """
    difference = (predicted - target).abs()
    if counted is None:
        return difference.mean() / LOG_MEL_SPREAD
    return (difference.mean(dim=1, keepdim=True) * counted).sum() / counted.sum().clamp(min=1) / LOG_MEL_SPREAD


def code_consistency(code: Tensor, twin: Tensor) -> Tensor:
    """How far a code [B, C, T] is from its clean or parallel twin's, which is held still; scale-free."""
    twin = twin.detach().float()
    return (code.float() - twin).square().mean() / (twin.var() + 1e-4)


def label_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of classifier logits [B, K] over the items whose label [B] is known, that is not -1."""
    total = F.cross_entropy(logits.float(), label, ignore_index=-1, reduction="sum")
    return total / (label >= 0).sum().clamp(min=1)


def pseudo_label_cross_entropy(log_probs: Tensor, pseudo_labels: Tensor) -> Tensor:
    """Mean cross-entropy of log-probabilities [B, T, U] over the frames whose unit [B, T] is known, that is not -1."""
    total = F.nll_loss(log_probs.transpose(1, 2), pseudo_labels, ignore_index=-1, reduction="sum")
    return total / (pseudo_labels >= 0).sum().clamp(min=1)


def uniform_confusion(logits: Tensor, counted: Tensor | None = None) -> Tensor:
    """Cross-entropy of a uniform guess against classifier logits [B, K]: least when nothing can be read.

    ``counted`` [B] bool leaves the other items out.
    """
    confusion = -logits.float().log_softmax(dim=1).mean(dim=1)
    return confusion.mean() if counted is None else (confusion * counted).sum() / counted.sum().clamp(min=1)


def phone_ctc(log_probs: Tensor, frames: Tensor, phones: Tensor, counts: Tensor) -> Tensor:
    """CTC (Graves et al. 2006) per phone: log_probs [B, T, P], frames [B], phones [B, L], counts [B]."""
    return F.ctc_loss(log_probs.transpose(0, 1), phones, frames, counts, zero_infinity=True)


def discriminator_hinge(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge loss of the discriminators' scores, mean over discriminators."""
    terms = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake)]
    return torch.stack(terms).mean()


def generator_hinge(fake: list[Tensor]) -> Tensor:
    return torch.stack([-f.float().mean() for f in fake]).mean()


def feature_matching(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """L1 between feature maps, each relative to the real one's size (Kumar et al. 2023, DAC)."""
    terms = [
        (r.detach().float() - f.float()).abs().mean() / (r.detach().float().abs().mean() + 1e-4)
        for maps_r, maps_f in zip(real, fake)
        for r, f in zip(maps_r, maps_f)
    ]
    return torch.stack(terms).mean()


def _magnitude(wave: Tensor, n_fft: int, overlap: int = 4) -> Tensor:
    """STFT magnitude with so many windows over each sample: [B, N] -> [B, bins, frames]"""
    window = torch.hann_window(n_fft, device=wave.device)
    spectrum = torch.stft(wave.float(), n_fft, n_fft // overlap, window=window, return_complex=True)
    # A little under the root, so that the gradient of a zero bin is finite.
    return (torch.view_as_real(spectrum).square().sum(dim=-1) + 1e-7).sqrt()


def spectral_distance(predicted: Tensor, target: Tensor, n_ffts: tuple[int, ...]) -> Tensor:
    """Multi-resolution STFT loss of waves [B, N]: spectral convergence and log magnitude.

    Yamamoto et al. 2020, Parallel WaveGAN, eq. 5 and 6, mean over resolutions.
    """
    terms = []
    for n_fft in n_ffts:
        p, t = _magnitude(predicted, n_fft), _magnitude(target, n_fft)
        convergence = (p - t).square().sum(dim=(1, 2)).sqrt() / (t.square().sum(dim=(1, 2)).sqrt() + 1e-3)
        terms.append(convergence.mean() + (p.log() - t.log()).abs().mean())
    return torch.stack(terms).mean()


def mel_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference, in nepers, of the log-mels of 16 kHz waves [B, N], on twice as many frames.

    A linear frequency scale has an eighth of its bins below 1 kHz, where most of a voice's energy is.
    """
    filters = torch.from_numpy(mel_filterbank()).to(predicted.device)
    mels = [
        (filters @ _magnitude(wave, N_FFT, N_FFT // HOP_LENGTH * 2)).clamp(min=LOG_FLOOR).log()
        for wave in (predicted, target)
    ]
    return (mels[0] - mels[1]).abs().mean()


def weigh(losses: dict[str, Tensor], weights: Any) -> Tensor:
    """The sum of the losses, each by the weight of its name in ``weights``."""
    return sum(getattr(weights, name) * value for name, value in losses.items())


def validated(found: Sequence[dict[str, Tensor]], weights: Any) -> dict[str, float]:
    """For the log: the mean of each loss over some batches, and as ``validation`` the weighted sum of these."""
    means = {name: float(np.mean([one[name].item() for one in found])) for name in found[0]}
    total = sum(getattr(weights, name) * value for name, value in means.items())
    return {"validation": total, **{f"validation/{name}": value for name, value in means.items()}}
