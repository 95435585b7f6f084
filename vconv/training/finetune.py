"""The decoder's speaker conditioning, tuned on minutes of one speaker.

The networks stay as they are. What is tuned is an adapter: what the decoder adds to the scales and shifts of its AdaIN
layers and, as matrices of low rank, to its MLPs. The model first says the speaker's words in other voices, which
nobody has; gradient descent on the adapter then learns to turn these back into the recordings
(the back-translation of Sennrich et al. 2016, section 3, for voices). With a pretrained speaker encoder, perceptual
losses are added, since the error of the mel alone blurs it, and speech of other people is to keep the texture that it
has without the adapter. The adapter is a part of a voice: the exported graphs take it as an input.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vconv.config import ConversionConfig
from vconv.errors import InputError
from vconv.features import FRAME_RATE, LOG_MEL_MIDDLE, N_MELS, continuous_log_f0
from vconv.frontends.speaker_encoder import windows
from vconv.model_folder import ASR_ENCODER, SPEAKER_ENCODER_WEIGHTS
from vconv.models import saved
from vconv.models.conversion import ConversionModel
from vconv.models.pretrained.campplus import load_campplus
from vconv.models.pretrained.moonshine import load_moonshine
from vconv.training.losses import mel_l1
from vconv.training.perceptual import Converted, PerceptualLosses
from vconv.training.texture import Foreign, speaking, texture_distance
from vconv.training.trained import load_vocoder

MIN_SECONDS = 20.0  # of speech: less gives little more than a single clip
PIECE_FRAMES = 240  # 3.8 s: what clips are cut into, as sources or targets of conversions
HELD_OUT = 0.1  # share of the pieces, for early stopping
REFERENCE_PIECES = 16  # at most, of the reference: a minute, as at inference
PROBES = 4  # batches of held-out crops, always the same
OTHERNESS = 1.0  # how far other voices' embeddings are from the speaker's: a step of this length in any direction
OTHER_OCTAVES = 0.9  # at most, from the speaker's register to theirs
BETAS = (0.8, 0.98)  # Adam's, as in training
# Weights with perceptual losses.
RECONSTRUCTION, SPEAKER_SIMILARITY, CONTENT_CONSISTENCY, TEXTURE = 0.5, 2.5, 4.0, 4.0


@dataclass(frozen=True)
class FinetuneConfig:
    steps: int = 120  # at most
    items: int = 8
    frames: int = 112  # of a crop, even
    voices: int = 5  # other voices for each piece
    learning_rate: float = 0.003  # of scales and shifts, which are about one, and of matrices of that size
    perceptual_rate: float = 0.001  # the same, with perceptual losses
    check_every: int = 20  # steps between looks at held-out speech
    patience: int = 2  # looks without progress before it stops
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """The adapter (of ``config.adapter_shape``), and the error on held-out speech before and after so many steps."""

    adapter: np.ndarray
    before: float
    after: float
    steps: int


@dataclass(frozen=True)
class Piece:
    """Some seconds of the speaker: mel [N_MELS, T], pitch [2, T], content code [C, T / 2], and the codes of the same
    words in V other voices [V, C, T / 2]; T even."""

    mel: np.ndarray
    pitch: np.ndarray
    content: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Codes of other voices [B, C, T / 2] that say what the speaker does, the pitch [B, 2, T] and mel [B, N_MELS, T]
    of the speaker; content [1, C, K] and mel [1, N_MELS, 2K] of a reference, which all of them share; content
    [1, C, J] and pitch [1, 2, 2J] of other people."""

    content: Tensor
    pitch: Tensor
    clean: Tensor
    reference_content: Tensor
    reference_mel: Tensor
    foreign: tuple[Tensor, Tensor] | None = None


def load_model(folder: Path, threads: int) -> ConversionModel:
    """The conversion model of a model folder, its weights frozen, to run on so many threads.

    Raises:
        InputError: the folder has no PyTorch weights, or damaged ones, or the decoder has no AdaIN to tune.
    """
    path = folder / "conversion.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: is missing, and fine-tuning needs it; give a folder made by `vconv export`")
    torch.set_num_threads(threads)
    model = saved.load(folder)[0].requires_grad_(False)
    if not model.config.adapter_shape[0]:
        raise InputError(f"{folder}: has no scales and shifts to tune; take a model with `conditioning: adain`")
    return model


@dataclass(frozen=True)
class PerceptualTarget:
    """Perceptual losses, and the pretrained embedding [1, V] of the speaker as their target."""

    losses: PerceptualLosses
    voice: Tensor


def load_perceptual(folder: Path, config: ConversionConfig, waves: Sequence[np.ndarray]) -> PerceptualTarget | None:
    """Perceptual losses with a model folder's encoders, for the speaker of some recordings: each [N] at 16 kHz.

    None where the model has no pretrained speaker encoder. An ASR encoder without PyTorch twin is left out.

    Raises:
        InputError: a file of the folder is missing or wrong.
    """
    if config.speaker != "pretrained":
        return None
    speaker_encoder, asr_encoder = load_campplus(folder / SPEAKER_ENCODER_WEIGHTS), None
    if config.asr_channels:
        with contextlib.suppress(InputError):
            asr_encoder = load_moonshine(folder / ASR_ENCODER)
    with torch.inference_mode():
        embeddings = torch.cat([speaker_encoder(_tensor(windows(wave))) for wave in waves])
    losses = PerceptualLosses(load_vocoder(folder), speaker_encoder, asr_encoder)
    return PerceptualTarget(losses, F.normalize(embeddings.sum(dim=0, keepdim=True), dim=1).clone())


def finetune(
    model: ConversionModel,
    clips: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    embedding: np.ndarray,
    config: FinetuneConfig = FinetuneConfig(),
    report: Callable[[int, int], None] = lambda done, steps: None,
    people: np.ndarray | None = None,
    perceptual: PerceptualTarget | None = None,
    foreign: Foreign | None = None,
) -> Tuned:
    """The adapter that goes with a speaker's ``embedding`` [E], from clips.

    A clip is its log-mel [N_MELS, T], T even, its F0 [T'] Hz and, if the model takes any, ASR features [R, T / 2].

    With it other voices that say the held-out part of the clips are turned into the speaker's no worse than without.
    These are some of ``people``, embeddings [N, E], or without any in random directions from the speaker's. The error
    is that of the mel, with ``perceptual`` losses added if given, and with them the change of texture of ``foreign``
    speech, which keeps conversions natural. ``report`` gets the steps done and their total.

    Raises:
        InputError: less than ``MIN_SECONDS`` of speech.
    """
    speaker = _tensor([embedding])
    rng = np.random.default_rng([config.seed, 1])
    pieces, held_out = _split(_cut(model, clips, speaker, rng, config.voices, people), config.seed)
    probes = [_batch(held_out, pieces, rng, config, foreign) for _ in range(PROBES)]
    torch.manual_seed(config.seed)
    adapter = _first_adapter(model.config).requires_grad_()
    optimizer = torch.optim.Adam([adapter], config.perceptual_rate if perceptual else config.learning_rate, BETAS)
    best, best_step = torch.zeros_like(adapter), 0
    before = after = _error(model, probes, speaker, best, perceptual)
    for done in range(1, config.steps + 1):
        rng = np.random.default_rng([config.seed, 2, done])
        order = [pieces[k] for k in rng.permutation(len(pieces))]
        spoken, reference = order[: len(order) // 2], order[len(order) // 2 :]
        batch = _batch(spoken, reference, rng, config, foreign)

        loss = _loss(model, batch, speaker, adapter, perceptual)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        report(done, config.steps)
        if done % config.check_every == 0:
            error = _error(model, probes, speaker, adapter, perceptual)
            if error < after:
                best, best_step, after = adapter.detach().clone(), done, error
            elif done - best_step >= config.patience * config.check_every:
                break
    return Tuned(best[0].numpy(), before, after, best_step)


def _first_adapter(config: ConversionConfig) -> Tensor:
    """An adapter [1, L, S] that adds nothing yet: one factor of each matrix is zero, the other is random."""
    adapter = torch.zeros(1, *config.adapter_shape)
    width, hidden = config.decoder_channels, config.decoder_channels * config.expansion
    if config.adapter_rank:
        matrices = adapter[..., 2 * width :].unflatten(2, (2, -1, width + hidden))
        for matrix, inputs in ((matrices[:, :, 0], width), (matrices[:, :, 1], hidden)):
            matrix[..., :inputs].normal_(std=inputs**-0.5)
    return adapter


@torch.no_grad()
def _cut(
    model: ConversionModel,
    clips: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    speaker: Tensor,
    rng: np.random.Generator,
    voices: int,
    people: np.ndarray | None = None,
) -> list[Piece]:
    """Clips cut into pieces of about ``PIECE_FRAMES``."""
    seconds = sum(mel.shape[1] for mel, *_ in clips) / FRAME_RATE
    if seconds < MIN_SECONDS:
        raise InputError(
            f"{seconds:.0f} s of speech are too little to tune a voice on; give at least {MIN_SECONDS:.0f} s, "
            "better a minute or more, or use `vconv embed`"
        )
    pieces = []
    for mel, f0, asr_features in clips:
        frames = mel.shape[1]
        pitch = np.stack(continuous_log_f0(f0))[:, :frames]
        content = model.encode(_tensor(mel[None]), _repeated(asr_features, 1)).z_q[0].numpy()
        # Evenly, and at even frames: content has one frame for two of the mel's.
        bounds = np.linspace(0, frames // 2, max(1, round(frames / PIECE_FRAMES)) + 1).astype(int)
        for start, end in itertools.pairwise(bounds):
            both = slice(2 * start, 2 * end)
            words, features = content[:, start:end], None if asr_features is None else asr_features[:, start:end]
            others_embeddings = _other_embeddings(speaker, rng, voices, people)
            others = _in_other_voices(model, words, features, pitch[:, both], others_embeddings, rng)
            pieces.append(Piece(mel[:, both], pitch[:, both], words, others))
    return pieces


def _other_embeddings(speaker: Tensor, rng: np.random.Generator, count: int, people: np.ndarray | None) -> Tensor:
    """Embeddings of voices other than the speaker's [1, E]: [count, E]"""
    if people is not None:
        return _tensor(people[rng.choice(len(people), count, replace=len(people) < count)])
    away = F.normalize(_tensor(rng.standard_normal((count, speaker.shape[1]))), dim=1)
    return F.normalize(speaker + OTHERNESS * away, dim=1)


def _in_other_voices(
    model: ConversionModel,
    content: np.ndarray,
    asr_features: np.ndarray | None,
    pitch: np.ndarray,
    others_embeddings: Tensor,
    rng: np.random.Generator,
) -> np.ndarray:
    """Codes of what the decoder makes of content [C, T / 2] and pitch [2, T] in V voices [V, E]: [V, C, T / 2]

    Their ASR features are taken to be those of the recording, ``asr_features`` [R, T / 2].
    """
    count = len(others_embeddings)
    moved = _tensor([pitch] * count)
    moved[:, :1] += _tensor(rng.uniform(-OTHER_OCTAVES, OTHER_OCTAVES, (count, 1, 1)))
    nothing = torch.zeros(1, len(content), 2), torch.full((1, N_MELS, 4), LOG_MEL_MIDDLE)  # no reference
    mel = model.decoder(_tensor([content] * count), moved, others_embeddings, *nothing)
    return model.encode(mel, _repeated(asr_features, count)).z_q.numpy()


def _repeated(asr_features: np.ndarray | None, count: int) -> Tensor | None:
    """[R, T] -> [count, R, T]"""
    return None if asr_features is None else _tensor([asr_features] * count)


def _split(pieces: list[Piece], seed: int) -> tuple[list[Piece], list[Piece]]:
    """Pieces to tune on, and those held out: at least one."""
    order = np.random.default_rng([seed, 0]).permutation(len(pieces))
    count = max(1, round(len(pieces) * HELD_OUT))
    return [pieces[k] for k in order[count:]], [pieces[k] for k in order[:count]]


def _batch(
    spoken: list[Piece], rest: list[Piece], rng: np.random.Generator, config: FinetuneConfig, foreign: Foreign | None
) -> Batch:
    """Random crops of the pieces ``spoken``, all in turn, each from one of the other voices.

    The ``rest`` is the reference: from a reference with the crop itself the decoder could copy.
    """
    content, clean, pitch = [], [], []
    for k in range(config.items):
        piece = spoken[k % len(spoken)]
        half = config.frames // 2
        start = int(rng.integers(0, max(1, piece.content.shape[1] - half + 1)))
        frames = np.arange(2 * start, 2 * start + config.frames)
        clean.append(np.take(piece.mel, frames, axis=1, mode="wrap"))
        pitch.append(np.take(piece.pitch, frames, axis=1, mode="wrap"))
        other = piece.others[int(rng.integers(len(piece.others)))]
        content.append(np.take(other, np.arange(start, start + half), axis=1, mode="wrap"))
    return Batch(
        content=_tensor(content),
        pitch=_tensor(pitch),
        clean=_tensor(clean),
        reference_content=_tensor([np.concatenate([piece.content for piece in rest[:REFERENCE_PIECES]], axis=1)]),
        reference_mel=_tensor([np.concatenate([piece.mel for piece in rest[:REFERENCE_PIECES]], axis=1)]),
        foreign=foreign and foreign.crop(rng),
    )


def _loss(
    model: ConversionModel, batch: Batch, speaker: Tensor, adapter: Tensor, perceptual: PerceptualTarget | None
) -> Tensor:
    """How far the crops in the speaker's voice are from the recordings."""
    mel = _rebuild(model, batch, speaker, adapter)
    if perceptual is None:
        return mel_l1(mel, batch.clean)
    error = mel_l1(mel, batch.clean, speaking(batch.clean))  # what is in their pauses is the room's, not the voice's
    who = torch.zeros(len(mel), dtype=torch.long)
    found = perceptual.losses(Converted(mel, batch.pitch, batch.clean, batch.pitch, who), perceptual.voice)
    return (
        RECONSTRUCTION * error
        + SPEAKER_SIMILARITY * found["speaker_similarity"]
        + CONTENT_CONSISTENCY * found.get("content_consistency", 0.0)
        + TEXTURE * _change_of_texture(model, batch, speaker, adapter)
    )


def _change_of_texture(model: ConversionModel, batch: Batch, speaker: Tensor, adapter: Tensor) -> Tensor | float:
    """What the adapter does to the texture of other people's speech in the speaker's voice."""
    if batch.foreign is None:
        return 0.0
    inputs = *batch.foreign, speaker, batch.reference_content, batch.reference_mel
    with torch.no_grad():
        plain = model.decoder(*inputs)
    return texture_distance(model.decoder(*inputs, adapter), plain)


def _rebuild(model: ConversionModel, batch: Batch, speaker: Tensor, adapter: Tensor) -> Tensor:
    """The crops as the decoder says them with an embedding [1, E] and an adapter [1, L, S]: mel [B, N_MELS, T]"""
    return model.decoder(batch.content, batch.pitch, speaker, batch.reference_content, batch.reference_mel, adapter)


@torch.no_grad()
def _error(
    model: ConversionModel, probes: list[Batch], speaker: Tensor, adapter: Tensor, perceptual: PerceptualTarget | None
) -> float:
    """Mean loss of the probes, always with the same noise in the vocoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        errors = [_loss(model, probe, speaker, adapter, perceptual).item() for probe in probes]
    return sum(errors) / len(errors)


def _tensor(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(arrays, np.float32))
