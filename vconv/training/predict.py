"""Mels as the conversion model predicts them, for a vocoder that is to be used behind it."""

from __future__ import annotations

import numpy as np
import torch

from vconv.data.corpus import Corpus
from vconv.data.crops import Speech, part_of
from vconv.errors import InputError
from vconv.features import continuous_log_f0
from vconv.models.conversion import ConversionModel
from vconv.training.perceptual import clip_embeddings


@torch.no_grad()
def predict_mels(
    model: ConversionModel, corpus: Corpus, indices: list[int], seed: int, speaker_encoder: str = ""
) -> dict[int, np.ndarray]:
    """The items ``indices`` decoded from the words with their speaker's embedding: mels [frames, N_MELS] float16.

    The words come from a parallel clip in another voice where there is one, else from the clip itself;
    the embedding from another clip of the speaker where there is one.

    Raises:
        InputError: the model needs ASR features that the corpus has not, or a speaker encoder.
    """
    if model.config.asr_channels not in (0, corpus.store.asr_channels):
        raise InputError("conversion: needs ASR features; set corpus.asr_encoder to the one it was trained with")
    pretrained = model.config.speaker == "pretrained"
    if pretrained and not speaker_encoder:
        raise InputError(
            "conversion: needs a pretrained speaker encoder; set speaker_encoder to the one it was trained with"
        )
    voices = clip_embeddings(corpus, speaker_encoder) if pretrained else None
    rng = np.random.default_rng(seed)
    store, device = corpus.store, next(model.parameters()).device

    def another(members: list[int], index: int) -> int:
        others = [i for i in members if i != index] or [index]
        return others[rng.integers(len(others))]

    def speech(index: int, frames: int) -> Speech:
        """Mel [1, N_MELS, T] and an ASR encoder's features [1, R, T / 2], T even."""
        entry = corpus.items[index].entry
        whole = Speech(store.clip_mel(entry), store.clip_asr_features(entry))
        return part_of(whole, 0, frames).each(lambda rows, _: tensor(rows.T))

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None].to(device)

    predicted = {}
    for index in indices:
        item = corpus.items[index]
        frames = item.entry.frames // 2 * 2
        source, asr_features = speech(another(corpus.by_group.get(item.group, []), index), frames)
        other = another(corpus.by_speaker[item.speaker], index)
        voice, voice_asr_features = speech(other, corpus.items[other].entry.frames)
        pitch = np.stack(continuous_log_f0(store.clip_f0(item.entry)))[:, :frames]
        speaker = tensor(voices[other]) if pretrained else torch.tensor([item.speaker], device=device)
        mel = model(source, tensor(pitch), voice, speaker, asr_features, voice_asr_features)[0].T.cpu().numpy()
        # The model works on pairs of frames; an odd last one stays as it is.
        predicted[index] = np.concatenate([mel.astype(np.float16), store.clip_mel(item.entry)[frames:]])
    return predicted
