"""Mels as the conversion model predicts them, for a vocoder that is to be used behind it."""

from __future__ import annotations

import numpy as np
import torch

from vconv.features import N_MELS, continuous_log_f0
from vconv.models.conversion import ConversionModel
from vconv.training.batches import Corpus


@torch.no_grad()
def predict_mels(model: ConversionModel, corpus: Corpus, seed: int) -> np.ndarray:
    """Each clip decoded from a content code of its words with its speaker's embedding: [frames, N_MELS] float16.

    The words come from a parallel clip in another voice where there is one, else from the clip itself;
    the embedding from another clip of the speaker where there is one. The layout is the store's.
    """
    rng = np.random.default_rng(seed)
    store, device = corpus.store, next(model.parameters()).device
    predicted = np.array(store.mel)
    for index, item in enumerate(corpus.items):
        entry, frames = item.entry, item.entry.frames // 2 * 2
        twins = [i for i in corpus.by_group.get(item.group, []) if i != index] or [index]
        voices = [i for i in corpus.by_speaker[item.speaker] if i != index] or [index]
        heard = store.clip_mel(corpus.items[twins[rng.integers(len(twins))]].entry)[:frames]
        voice = store.clip_mel(corpus.items[voices[rng.integers(len(voices))]].entry)
        pitch = np.stack(continuous_log_f0(store.clip_f0(entry)))[:, :frames]

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.astype(np.float32))[None].to(device)

        even = len(voice) // 2 * 2
        mel = model(tensor(heard.T), tensor(pitch), tensor(voice[:even].T))[0]
        predicted[entry.start : entry.start + frames] = mel.T.cpu().numpy()
    assert predicted.shape[1] == N_MELS
    return predicted
