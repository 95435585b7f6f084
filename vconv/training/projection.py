"""From a speaker encoder to a speaker encoder: a model that has learned with the one goes on with the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vconv.config import ConversionConfig, build
from vconv.data.corpus import Corpus
from vconv.models.speaker_encoder import SpeakerEncoder, SpeakerProjection
from vconv.training.state import load_start

CLIP_FRAMES = 256  # of each clip, for the encoder
RIDGE = 1.0  # of the least squares; from 0.001 to 10 makes no difference on held-out speakers


@torch.no_grad()
def fit_projection(projection: SpeakerProjection, path: Path, corpus: Corpus, voices: np.ndarray) -> None:
    """Fit the projection of pretrained speaker embeddings to the embeddings of a checkpoint's own speaker encoder.

    A ridge regression over all clips: the decoder of that checkpoint then gets familiar embeddings from the first step
    on. Nothing is done where the checkpoint has no speaker encoder, or one with another embedding size.

    Args:
        path: the checkpoint.
        voices: pretrained speaker embeddings of the clips [items, V].
    """
    state = load_start(path, "conversion")
    config = build(ConversionConfig, state["config"]["model"], str(path))
    if config.speaker != "encoder" or config.embedding_channels != projection.projection.out_features:
        return
    encoder = SpeakerEncoder(config).eval()
    own, prefix = state["ema"].items(), "speaker."
    encoder.load_state_dict({name.removeprefix(prefix): value for name, value in own if name.startswith(prefix)})
    embeddings = torch.cat([encoder(_beginning(corpus, index)) for index in range(len(corpus.items))]).double()
    inputs = torch.nn.functional.pad(torch.from_numpy(voices).double(), (0, 1), value=1.0)
    found = torch.linalg.solve(inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1]), inputs.T @ embeddings)
    projection.projection.weight.copy_(found[:-1].T)
    projection.projection.bias.copy_(found[-1])


def _beginning(corpus: Corpus, index: int) -> Tensor:
    """The first ``CLIP_FRAMES`` of a clip: [1, N_MELS, T], T even"""
    mel = corpus.store.clip_mel(corpus.items[index].entry)[:CLIP_FRAMES].astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(mel[: len(mel) // 2 * 2].T))[None]
