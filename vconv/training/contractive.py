"""A contractive penalty: small changes of the speech are to change the content code little."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vconv.models.content_encoder import ContentEncoder


def squared_jacobian_norm(encode: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate, for each item, of the squared Frobenius norm of the Jacobian of ``encode`` at x [B, ...]: [B].

    ||J||_F^2 = tr(J J^T) = E ||J^T v||^2 for random signs v (Hutchinson 1990, "A Stochastic Estimator of the Trace of
    the Influence Matrix for Laplacian Smoothing Splines"), here for one v. Gradients reach the weights of ``encode``,
    and not x. ``encode`` must work on each item alone.

    Returns:
        The estimate, and what ``encode`` made of x.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        code = encode(x)
        signs = torch.randint(0, 2, code.shape, device=code.device).to(code.dtype) * 2 - 1
        (back,) = torch.autograd.grad(code, x, signs, create_graph=True)
    return back.float().square().flatten(1).sum(dim=1), code


def contractive_penalty(encoder: ContentEncoder, mel: Tensor, asr_features: Tensor | None = None) -> Tensor:
    """Squared Frobenius norm of the Jacobian of the content code with respect to the mel [B, N_MELS, T].

    Rifai et al. 2011, "Contractive Auto-Encoders: Explicit Invariance During Feature Extraction". It is the mean over
    the code's numbers, relative to their variance: without tied weights, an encoder could otherwise reduce it by a
    smaller code, which the decoder scales up again. The ASR features are held constant.
    """
    norms, code = squared_jacobian_norm(lambda x: encoder(x, asr_features), mel)
    return norms.mean() / code[0].numel() / (code.float().var() + 1e-4)
