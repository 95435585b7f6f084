"""Mels as the conversion model predicts them, for a vocoder that is to be used behind it."""

from __future__ import annotations

import numpy as np
import torch

from vconv.errors import InputError
from vconv.features import continuous_log_f0
from vconv.models.conversion import ConversionModel
from vconv.training.batches import Corpus
from vconv.training.likeness import clip_voices


@torch.no_grad()
def predict_mels(
    model: ConversionModel, corpus: Corpus, indices: list[int], seed: int, verifier: str = ""
) -> dict[int, np.ndarray]:
    """The items ``indices`` decoded from the words with their speaker's embedding: mels [frames, N_MELS] float16.

    The words come from a parallel clip in another voice where there is one, else from the clip itself;
    the embedding from another clip of the speaker where there is one, as ``verifier`` hears it if the model has one.

    Raises:
        InputError: the model hears with a recognizer whose features the corpus has not, or with a verifier.
    """
    if model.config.phonetic_channels not in (0, corpus.store.phonetic_channels):
        raise InputError("conversion: hears with a recognizer; set corpus.recognizer to the one it was trained with")
    hears = model.config.speaker == "verifier"
    if hears and not verifier:
        raise InputError("conversion: hears speakers with a verifier; set verifier to the one it was trained with")
    voices = clip_voices(corpus, verifier) if hears else None
    rng = np.random.default_rng(seed)
    store, device = corpus.store, next(model.parameters()).device

    def another(members: list[int], index: int) -> int:
        others = [i for i in members if i != index] or [index]
        return others[rng.integers(len(others))]

    def speech(index: int, frames: int | None = None) -> list[torch.Tensor]:
        """Mel [1, N_MELS, T] and a recognizer's features [1, R, T / 2], T even."""
        entry = corpus.items[index].entry
        mel, phonetic = store.clip_mel(entry)[:frames], store.clip_phonetic(entry)
        rows = len(mel) // 2
        return [tensor(mel[: 2 * rows].T), tensor(phonetic[:rows].T)]

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None].to(device)

    predicted = {}
    for index in indices:
        item = corpus.items[index]
        frames = item.entry.frames // 2 * 2
        heard, heard_phonetic = speech(another(corpus.by_group.get(item.group, []), index), frames)
        other = another(corpus.by_speaker[item.speaker], index)
        voice, voice_phonetic = speech(other)
        pitch = np.stack(continuous_log_f0(store.clip_f0(item.entry)))[:, :frames]
        speaker = tensor(voices[other]) if hears else torch.tensor([item.speaker], device=device)
        mel = model(heard, tensor(pitch), voice, speaker, heard_phonetic, voice_phonetic)[0].T.cpu().numpy()
        # The model works on pairs of frames; an odd last one stays as it is.
        predicted[index] = np.concatenate([mel.astype(np.float16), store.clip_mel(item.entry)[frames:]])
    return predicted
