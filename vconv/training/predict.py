"""Mels as the conversion model predicts them, for a vocoder that is to be used behind it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from vconv.data.corpus import Corpus
from vconv.data.crops import Speech, part_of
from vconv.data.decoded import Decoded
from vconv.errors import InputError
from vconv.features import N_MELS, continuous_log_f0
from vconv.files import digest, replacing
from vconv.models.conversion import ConversionModel
from vconv.training.perceptual import clip_embeddings


class PredictedMels(Mapping[int, np.ndarray]):
    """Mels [frames, N_MELS] float16 by the index of an item, of a file that holds them one after another.

    Raises:
        OSError, ValueError, EOFError: the file is missing, damaged, or of another length.
    """

    def __init__(self, path: Path, indices: Sequence[int], frames: Sequence[int]) -> None:
        self._made_from = path, indices, frames
        self._mels = np.load(path, mmap_mode="r")
        ends = np.cumsum(frames).tolist()
        if self._mels.shape != (ends[-1], N_MELS) or self._mels.dtype != np.float16:
            raise ValueError(f"{path}: holds no mels of these clips")
        self._places = {index: slice(end - count, end) for index, end, count in zip(indices, ends, frames)}

    def __getitem__(self, index: int) -> np.ndarray:
        return self._mels[self._places[index]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __reduce__(self) -> tuple[Callable[..., PredictedMels], tuple[Path, Sequence[int], Sequence[int]]]:
        return PredictedMels, self._made_from  # to another process goes the place, not the array


def predict_mels(
    model: ConversionModel, corpus: Corpus, indices: list[int], seed: int, speaker_encoder: str = ""
) -> Mapping[int, np.ndarray]:
    """The items ``indices`` decoded from the words with their speaker's embedding: mels [frames, N_MELS] float16.

    The words come from a parallel clip in another voice where there is one, else from the clip itself;
    the embedding from another clip of the speaker where there is one. They are kept beside the features of the corpus,
    since they take minutes: a training that goes on reads them again.

    Raises:
        InputError: the model needs ASR features that the corpus has not, or a speaker encoder.
    """
    if model.config.asr_channels not in (0, corpus.store.asr_channels):
        raise InputError("conversion: needs ASR features; set corpus.asr_encoder to the one it was trained with")
    if model.config.speaker == "pretrained" and not speaker_encoder:
        raise InputError(
            "conversion: needs a pretrained speaker encoder; set speaker_encoder to the one it was trained with"
        )
    if not indices:
        return {}
    path = corpus.store.folder / f"predicted-{_key(model, corpus, indices, seed, speaker_encoder)}.npy"
    frames = [corpus.items[index].entry.frames for index in indices]
    with contextlib.suppress(OSError, ValueError, EOFError):  # nothing was predicted before, or the file is damaged
        return PredictedMels(path, indices, frames)
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, np.concatenate(_predicted(model, corpus, indices, seed, speaker_encoder)))
    return PredictedMels(path, indices, frames)


def _key(model: ConversionModel, corpus: Corpus, indices: list[int], seed: int, speaker_encoder: str) -> str:
    """Tells whether predictions are the same, by all that they depend on."""
    found = hashlib.sha256(f"{model.config} {seed} {digest(speaker_encoder) if speaker_encoder else ''}".encode())
    for item in corpus.items:
        found.update(f"{item.entry} {item.group} {item.speaker}".encode("utf-8", "surrogateescape"))
    found.update(np.array(indices).tobytes())
    if isinstance(corpus.store, Decoded) and model.config.asr_channels:  # a built store is of one ASR encoder
        found.update(digest(corpus.store.asr_encoder).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.cpu().float().numpy().tobytes())
    return found.hexdigest()[:16]


@torch.no_grad()
def _predicted(
    model: ConversionModel, corpus: Corpus, indices: list[int], seed: int, speaker_encoder: str
) -> list[np.ndarray]:
    """The mels, in order."""
    pretrained = model.config.speaker == "pretrained"
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

    predicted = []
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
        predicted.append(np.concatenate([mel.astype(np.float16), store.clip_mel(item.entry)[frames:]]))
    return predicted
