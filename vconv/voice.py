"""A target voice: who to sound like, and in which register."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vconv import features
from vconv.errors import InputError, VconvError
from vconv.files import replacing
from vconv.untrusted import check_finite, load_arrays

VOICE_SUFFIX = ".npz"
REFERENCE_FRAMES = 3750  # one minute of reference speech; more only takes time
MAX_CHANNELS = 1024  # of an embedding or a code
MAX_REGISTER = 10.0  # octaves from the reference, and of the spread
# The largest shape of each array in a file; `mix` rounds the reference frames of each part up.
_LARGEST = {
    "embedding": (MAX_CHANNELS,),
    "log_f0": (),
    "log_f0_spread": (),
    "reference_content": (MAX_CHANNELS, REFERENCE_FRAMES),
    "reference_mel": (features.N_MELS, 2 * REFERENCE_FRAMES),
    "adapter": (256, 1 << 16),
    "correction": (features.N_MELS, 2 + features.N_MELS),
    "model": (64,),
}


@dataclass(frozen=True)
class Reference:
    """Speech of the target for the decoder's attention: its content [C, K] and its log-mel [N_MELS, 2K]."""

    content: np.ndarray
    mel: np.ndarray

    def first(self, frames: int) -> Reference:
        """The first so many frames of the content."""
        return Reference(self.content[:, :frames], self.mel[:, : 2 * frames])

    @classmethod
    def none(cls, channels: int) -> Reference:
        """What stands for no speech at all, as in training."""
        return cls(
            np.zeros((channels, 2), np.float32), np.full((features.N_MELS, 4), features.LOG_MEL_MIDDLE, np.float32)
        )


@dataclass(frozen=True)
class Correction:
    """What brings the decoder's log-mel nearer to the target's: see ``vconv.inference.correction``.

    A frame of speech x [N_MELS] gets shift + matrix @ (x - center) more.
    """

    center: np.ndarray  # [N_MELS] mean of the target's speech as the decoder makes it
    shift: np.ndarray  # [N_MELS] nepers
    matrix: np.ndarray  # [N_MELS, N_MELS]

    @property
    def columns(self) -> np.ndarray:
        """All of it: [N_MELS, 2 + N_MELS]"""
        return np.column_stack([self.center, self.shift, self.matrix])

    @classmethod
    def of(cls, columns: np.ndarray) -> Correction:
        """From what ``columns`` gives."""
        return cls(columns[:, 0], columns[:, 1], columns[:, 2:])


@dataclass(frozen=True)
class Voice:
    """A speaker, as far as known: all but the embedding may be None.

    A conversion then keeps the source's melody, and sounds less like the target.
    """

    embedding: np.ndarray  # [E], of unit length
    log_f0: float | None  # median, in octaves above ``features.F0_REFERENCE``
    reference: Reference | None = None  # speech for the decoder's attention
    log_f0_spread: float | None = None  # standard deviation, in octaves
    adapter: np.ndarray | None = None  # [L, S], what `vconv finetune` adds to the decoder
    model: bytes | None = None  # whose decoder that is (``Converter.model``), if known
    correction: Correction | None = None  # of the decoder's average spectrum

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write it to a .npz file that ``load`` and ``vconv convert --target`` take.

        Raises:
            VconvError: it holds NaN or infinity, as a network that diverged in training gives.
            InputError: the file cannot be written, or without ``overwrite`` exists.
        """
        self.check(f"{path}: not written, as the voice", VconvError)
        save_arrays(
            path,
            overwrite,
            embedding=self.embedding.astype(np.float32),
            log_f0=_number(self.log_f0),
            log_f0_spread=_number(self.log_f0_spread),
            reference_content=rounded(self.reference and self.reference.content),
            reference_mel=rounded(self.reference and self.reference.mel),
            adapter=rounded(self.adapter),
            correction=rounded(self.correction and self.correction.columns),
            model=np.frombuffer(self.model or b"", np.uint8),
        )

    def check(self, name: str, error: type[VconvError] = InputError) -> None:
        """Raise ``error``, of whose message ``name`` is the beginning, if the voice has a number that is no voice's."""
        numbers = [value for value in (self.log_f0, self.log_f0_spread) if value is not None]
        reference = self.reference
        arrays = {"embedding": self.embedding, "register": np.array(numbers), "adapter": self.adapter}
        if reference is not None:
            arrays |= {"reference content": reference.content, "reference mel": reference.mel}
        if self.correction is not None:
            parts = self.correction
            arrays |= {"correction": np.concatenate([np.ravel(x) for x in (parts.center, parts.shift, parts.matrix)])}
        check_finite(name, arrays, error)
        if any(abs(number) > MAX_REGISTER for number in numbers):
            raise error(f"{name}: register is out of range (over {MAX_REGISTER:g} octaves); make it again")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing or holds no voice.
        """
        arrays = load_arrays(path, _LARGEST, "voice", "make one with `vconv embed`")
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                embedding, content, mel, adapter = (
                    arrays[name].astype(np.float32)
                    for name in ("embedding", "reference_content", "reference_mel", "adapter")
                )
            log_f0, spread = (_known(arrays[name]) for name in ("log_f0", "log_f0_spread"))
            # Neither is in older files.
            model = arrays["model"].tobytes() if "model" in arrays else b""
            correction = _correction(arrays.get("correction", np.zeros(0)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: holds no voice; make one with `vconv embed`") from error
        voice = cls(
            embedding,
            log_f0,
            Reference(content, mel) if content.size else None,
            spread,
            adapter if adapter.size else None,
            model or None,
            correction,
        )
        voice.check(str(path))
        return voice


def _number(value: float | None) -> np.float64:
    return np.float64(np.nan if value is None else value)


def _known(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _correction(array: np.ndarray) -> Correction | None:
    """Of an array of ``Correction.columns``, None without an element.

    Raises:
        ValueError: it is none.
    """
    if not array.size:
        return None
    if array.shape != _LARGEST["correction"]:
        raise ValueError(f"a correction of shape {array.shape}")
    return Correction.of(array.astype(np.float32))


def rounded(array: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.float16) if array is None else array.astype(np.float16)


def is_saved_voice(target: object) -> bool:
    return isinstance(target, str | os.PathLike) and Path(target).suffix.lower() == VOICE_SUFFIX


def save_arrays(
    path: str | os.PathLike[str], /, overwrite: bool = True, option: str = "-o", **arrays: np.ndarray
) -> None:
    """Write a .npz file that appears whole or not at all; see ``save_file``."""
    save_file(path, lambda file: np.savez(file, **arrays), overwrite, option)


def save_file(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object], overwrite: bool = True, option: str = "-o"
) -> None:
    """Have ``write`` fill a file, which ``option`` names on the command line, that appears whole or not at all.

    Raises:
        InputError: the folder is missing or not writable, or without ``overwrite`` the file exists in the end.
    """
    with replacing(path, overwrite, option) as temporary, temporary.open("xb") as file:
        write(file)
