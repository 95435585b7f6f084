"""One voice of several: who gets how much of it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vconv.errors import InputError
from vconv.inference.converter import Converter, Target
from vconv.voice import REFERENCE_FRAMES, Correction, Reference, Voice


def parse_weight(text: str | os.PathLike[str]) -> tuple[Path, float | None]:
    """``a.wav:0.7`` as (a.wav, 0.7). What names an existing file, colon and all, or ends in no number has no weight.

    Raises:
        InputError: the weight is not positive.
    """
    whole = Path(text)
    name, colon, ending = str(text).rpartition(":")
    if not colon or len(name) < 2 or whole.exists():  # one letter before the colon is a drive of Windows
        return whole, None
    try:
        weight = float(ending)
    except ValueError:
        return whole, None
    if not 0 < weight < math.inf:
        raise InputError(f"{text}: a weight of {ending} is impossible; give a positive number")
    return Path(name), weight


def target_voice(converter: Converter, targets: Sequence[Target]) -> Voice:
    """The voice of targets as a command names them: clips of one speaker, or different voices, as ``a.wav:0.7``.

    Raises:
        InputError: a target cannot be used, or only some of them have weights.
    """
    parsed = [parse_weight(target) if isinstance(target, str | os.PathLike) else (target, None) for target in targets]
    weights = [weight for _, weight in parsed if weight is not None]
    if not weights:
        return converter.voice(list(targets))
    if len(weights) < len(parsed):
        bare = next(path for path, weight in parsed if weight is None)
        raise InputError(f"{bare}: has no weight, but other targets do; give each one, as {bare}:0.5, or none")
    return mix(converter, [(path, weight) for path, weight in parsed if weight is not None])


def mix(converter: Converter, parts: Sequence[tuple[Target | list[Target], float]]) -> Voice:
    """A voice between those of several targets, each with its weight: any scale, only their ratio counts.

    Embeddings, registers and corrections are averaged, and references are cut in proportion. What
    `vconv finetune` adds to a voice fits that one alone and is left out, and with it the correction.

    Raises:
        InputError: a target cannot be used, a weight is not positive, or the voices cancel each other out.
    """
    if not parts:
        raise InputError("no voices to mix; give at least one")
    for _, weight in parts:
        if not 0 < weight < math.inf:
            raise InputError(f"a weight of {weight} is impossible; give a positive number")
    total = sum(weight for _, weight in parts)
    shares = [weight / total for _, weight in parts]
    voices = [converter.voice(target) for target, _ in parts]
    embedding = np.average([voice.embedding for voice in voices], axis=0, weights=shares)
    length = float(np.linalg.norm(embedding))
    if length < 1e-6:
        raise InputError("these voices are each other's opposite, and their mixture is nobody; change the weights")
    return Voice(
        embedding / length,
        _average([voice.log_f0 for voice in voices], shares),
        _references([voice.reference for voice in voices], shares),
        _average([voice.log_f0_spread for voice in voices], shares),
        correction=_correction([None if voice.adapter is not None else voice.correction for voice in voices], shares),
    )


def _average(values: Sequence[float | None], shares: Sequence[float]) -> float | None:
    """Of those that are known."""
    known = [(value, share) for value, share in zip(values, shares) if value is not None]
    return sum(value * share for value, share in known) / sum(share for _, share in known) if known else None


def _correction(corrections: Sequence[Correction | None], shares: Sequence[float]) -> Correction | None:
    """Their mean; None where a part has none."""
    known = [correction.columns for correction in corrections if correction is not None]
    return Correction.of(np.average(known, axis=0, weights=shares)) if len(known) == len(corrections) else None


def _references(references: Sequence[Reference | None], shares: Sequence[float]) -> Reference | None:
    """The beginning of each one's speech, as long as its share of ``REFERENCE_FRAMES``, or less of all where it ends.

    None if a part has no reference: the decoder would sound like the others.
    """
    known = [reference for reference in references if reference is not None]
    if len(known) < len(references):
        return None
    frames = min(REFERENCE_FRAMES, *(reference.mel.shape[1] / share for reference, share in zip(known, shares)))
    counts = [max(1, int(frames * share / 2 + 1e-6)) for share in shares]
    return Reference(
        np.concatenate([reference.content[:, :count] for reference, count in zip(known, counts)], axis=1),
        np.concatenate([reference.mel[:, : 2 * count] for reference, count in zip(known, counts)], axis=1),
    )
