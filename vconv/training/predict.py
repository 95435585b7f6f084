"""Mels as the conversion model predicts them, for a vocoder that is to be used behind it."""

from __future__ import annotations

import numpy as np
import torch

from vconv.features import continuous_log_f0
from vconv.models.conversion import ConversionModel
from vconv.training.batches import Corpus


@torch.no_grad()
def predict_mels(model: ConversionModel, corpus: Corpus, indices: list[int], seed: int) -> dict[int, np.ndarray]:
    """The items ``indices`` decoded from the words with their speaker's embedding: mels [frames, N_MELS] float16.

    The words come from a parallel clip in another voice where there is one, else from the clip itself;
    the embedding from another clip of the speaker where there is one.
    """
    rng = np.random.default_rng(seed)
    store, device = corpus.store, next(model.parameters()).device

    def another(members: list[int], index: int) -> np.ndarray:
        others = [i for i in members if i != index] or [index]
        return store.clip_mel(corpus.items[others[rng.integers(len(others))]].entry)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None].to(device)

    predicted = {}
    for index in indices:
        item = corpus.items[index]
        frames = item.entry.frames // 2 * 2
        heard = another(corpus.by_group.get(item.group, []), index)[:frames]
        voice = another(corpus.by_speaker[item.speaker], index)
        pitch = np.stack(continuous_log_f0(store.clip_f0(item.entry)))[:, :frames]
        speaker = torch.tensor([item.speaker], device=device)
        target = tensor(voice[: len(voice) // 2 * 2].T)
        mel = model(tensor(heard.T), tensor(pitch), target, speaker)[0].T.cpu().numpy()
        # The model works on pairs of frames; an odd last one stays as it is.
        predicted[index] = np.concatenate([mel.astype(np.float16), store.clip_mel(item.entry)[frames:]])
    return predicted
