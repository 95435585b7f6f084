"""Whether voices and tokens are those of a model, and results fit into their files."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from vconv import audio
from vconv.config import ConversionConfig
from vconv.errors import InputError
from vconv.features import N_MELS, OUTPUT_RATE
from vconv.inference.analysis import Analysis, Inspect
from vconv.inference.targets import check_length
from vconv.tokens.tokens import MAX_FRAMES, MAX_HOURS, Tokens
from vconv.voice import Correction, Reference, Voice


def check_has_codes(config: ConversionConfig) -> None:
    """Raise InputError for a model without discrete codes."""
    if not config.bottleneck.codes_per_frame:
        kind = config.bottleneck.kind
        raise InputError(f"this model has no codes, as its bottleneck is '{kind}'; use another with --model")


def fitting(output: str | os.PathLike[str], inspect: Inspect | None) -> Inspect:
    """``inspect``, after an InputError where the result would not fit into the output file."""

    def look(analysis: Analysis) -> None:
        audio.check_fits(output, analysis.output_samples, OUTPUT_RATE)
        if inspect:
            inspect(analysis)

    return look


def check_not_too_long(name: str, frames: int) -> None:
    """Raise InputError for more frames than a tokens file holds."""
    if frames > 2 * MAX_FRAMES:
        raise InputError(f"{name}: is longer than {MAX_HOURS} h, and a tokens file holds no more; split it")


def check_tokens(tokens: Tokens, config: ConversionConfig, model: bytes) -> None:
    """Raise InputError unless they are this model's and long enough to be spoken."""
    check_has_codes(config)
    if tokens.model not in (None, model):
        raise InputError(f"{tokens.name}: was encoded with another model; name that one with --model")
    bottleneck = config.bottleneck
    rows, values = bottleneck.codes_per_frame, bottleneck.code_values
    if not 0 < len(tokens.codes) <= rows or len(tokens.codes) % bottleneck.codes_of(1):
        raise InputError(f"{tokens.name}: has {len(tokens.codes)} codes a frame, this model has {rows}")
    if tokens.codes.min() < 0 or tokens.codes.max() >= values:
        raise InputError(f"{tokens.name}: has the code {tokens.codes.max()}, this model's end at {values - 1}")
    check_length(tokens.name, tokens.samples, OUTPUT_RATE, "of tokens")


def checked(voice: Voice, name: str, config: ConversionConfig, model: bytes) -> Voice:
    """The voice with its embedding at unit length, if it is one of this model's."""
    voice.check(name)
    expected, embedding = (config.embedding_channels,), np.asarray(voice.embedding, np.float32)
    length = float(np.linalg.norm(embedding))
    if embedding.shape != expected or not 0 < length < np.inf:
        raise InputError(
            f"{name}: is no embedding of this model ({_why_none(embedding, expected)}); "
            "make it again with `vconv embed`"
        )
    if voice.reference is not None and not _fits(voice.reference, config):
        raise InputError(f"{name}: holds speech for another model; make it again with `vconv embed`")
    if voice.correction is not None and not _corrects(voice.correction):
        raise InputError(f"{name}: holds no correction of {N_MELS} bands; make it again with `vconv embed`")
    strange = np.shape(voice.adapter) != config.adapter_shape or voice.model not in (None, model)
    if voice.adapter is not None and strange:
        raise InputError(f"{name}: was tuned for another model; make it again with `vconv finetune`")
    return dataclasses.replace(voice, embedding=embedding / length)


def _corrects(correction: Correction) -> bool:
    shapes = [np.shape(part) for part in (correction.center, correction.shift, correction.matrix)]
    return shapes == [(N_MELS,), (N_MELS,), (N_MELS, N_MELS)]


def _fits(reference: Reference, config: ConversionConfig) -> bool:
    content, mel = np.shape(reference.content), np.shape(reference.mel)
    frames = content[-1]
    return frames > 0 and content == (config.content_channels, frames) and mel == (N_MELS, 2 * frames)


def _why_none(embedding: np.ndarray, expected: tuple[int, ...]) -> str:
    """What is wrong with an embedding that is none of a model's."""
    if embedding.shape != expected:
        return f"shape {embedding.shape}, expected {expected}"
    return "all of it is zero" if not embedding.any() else "its numbers are not finite"
