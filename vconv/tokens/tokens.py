"""Speech as discrete tokens: content codes, the melody at a low rate and, once a file, the voice.

A tokens file is a NumPy archive (.npz) with the arrays

    codes      [G, n] u16: G codes for each of the n frames (31.25 a second)
    voiced     [2n] bool: for each frame of F0 (62.5 a second)
    knots      [k] u8: one for every ``KNOT_FRAMES`` frames that a voiced frame leans on:
               F0 in steps of 1 / ``STEPS`` octave above ``F0_MIN``, linear in log F0 between knots
    embedding  [E] i8, up to scale: the embedding has unit length; none has E = 0
    model      [8] u8: identifies the model, since codes differ between models; any fits where it is empty
    samples    of the recording, at 24 kHz
    loudness   in 0.01 dBFS
    bits       that a code takes

Tokens as text are one line, a token for each run of equal frames, with spaces between:

    a12.b301*3 a7.b301 a7.b44*2

A letter names the place in the frame (a for its first code, b for its second), the number is the code,
and ``*3`` says that the frame comes three times in a row. Text holds no melody and no voice.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio, features
from vconv.errors import InputError
from vconv.features import F0_REFERENCE, FRAME_RATE, OUTPUT_HOP, OUTPUT_RATE
from vconv.tokens.melody import Melody, knot_frames
from vconv.untrusted import load_arrays
from vconv.voice import MAX_CHANNELS, Voice, save_file

TOKENS_SUFFIX = ".tokens"
TEXT_SUFFIX = ".txt"
MODEL_BYTES = 8
MAX_BITS = 16  # of a code
MAX_HOURS = 24  # of a recording
MAX_FRAMES = round(MAX_HOURS * 3600 * FRAME_RATE / 2)  # a slip in a count must not take all memory

# Of each array in a file, its type and its largest shape.
_ARRAYS = {
    "codes": (np.uint16, (32, MAX_FRAMES)),
    "voiced": (np.bool_, (2 * MAX_FRAMES,)),
    "knots": (np.uint8, (2 * MAX_FRAMES,)),
    "embedding": (np.int8, (MAX_CHANNELS,)),
    "model": (np.uint8, (MODEL_BYTES,)),
    "samples": (np.int64, ()),
    "loudness": (np.int16, ()),
    "bits": (np.uint8, ()),
}
_HEADER_BITS = 8 * (MODEL_BYTES + 8 + 2 + 1)  # model, samples, loudness and bits
_TOKEN = re.compile(r"([a-z][0-9]{1,9}(?:\.[a-z][0-9]{1,9})*)(?:\*([0-9]{1,9}))?")


@dataclass(frozen=True)
class Tokens:
    """A recording as codes [G, n], melody (of 2n frames), and what there is once.

    From ``Converter.encode`` or ``Tokens.load``. Everything is as coarse as the file has it, so that saving loses
    nothing. Without an embedding, as from text, a voice has to be given to decode it.
    """

    codes: np.ndarray
    melody: Melody
    samples: int  # of the recording, at 24 kHz
    loudness: float = audio.REFERENCE_LOUDNESS_DB  # dBFS, to 0.01
    embedding: np.ndarray | None = None  # [E] int8, up to scale
    model: bytes | None = None  # identity of the model; None fits any
    bits: int = MAX_BITS  # that a code takes
    name: str = "the tokens"  # in messages

    @property
    def seconds(self) -> float:
        return self.samples / OUTPUT_RATE

    @property
    def voice(self) -> Voice:
        """The voice of the recording, as far as the tokens hold it.

        Raises:
            InputError: they do not.
        """
        if self.embedding is None:
            raise InputError(f"{self.name}: holds no voice; give one with --target or --like")
        embedding, f0 = self.embedding.astype(np.float32), self.melody.f0
        return Voice(
            embedding / np.linalg.norm(embedding), features.median_log_f0(f0), None, features.log_f0_spread(f0)
        )

    @property
    def size(self) -> Size:
        """Of what the arrays hold; the archive adds about 2 kB for their names and shapes."""
        once = 0 if self.embedding is None else 8 * len(self.embedding)
        melody = len(self.melody.voiced) + 8 * len(self.melody.knots)
        return Size(self.seconds, self.codes.size * self.bits, melody, once + _HEADER_BITS)

    # ------------------------------------------------------------ file

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write a tokens file, which appears whole or not at all.

        Raises:
            InputError: the folder is missing or not writable, or without ``overwrite`` the file exists.
        """
        arrays = {
            "codes": self.codes.astype(np.uint16),
            "voiced": self.melody.voiced,
            "knots": self.melody.knots,
            "embedding": np.zeros(0, np.int8) if self.embedding is None else self.embedding,
            "model": np.frombuffer(self.model or b"", np.uint8),
            "samples": np.int64(self.samples),
            "loudness": np.int16(round(100 * self.loudness)),
            "bits": np.uint8(self.bits),
        }
        save_file(path, lambda file: np.savez_compressed(file, **arrays), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokens:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing, damaged, or no tokens file.
        """
        arrays = load_arrays(
            path, {name: largest for name, (_, largest) in _ARRAYS.items()}, "tokens", "make it with `vconv encode`"
        )
        if problem := _problem(arrays):
            raise InputError(f"{path}: holds no tokens ({problem}); make it with `vconv encode`")
        embedding = arrays["embedding"]
        return cls(
            arrays["codes"].astype(np.int64),
            Melody(arrays["voiced"], arrays["knots"]),
            int(arrays["samples"]),
            int(arrays["loudness"]) / 100,
            embedding if embedding.any() else None,
            arrays["model"].tobytes() or None,
            int(arrays["bits"]),
            str(path),
        )

    # ------------------------------------------------------------ text

    @property
    def text(self) -> str:
        """The codes as a line of text; see the module's docstring.

        Raises:
            InputError: a frame has more codes than there are letters.
        """
        if len(self.codes) > len(string.ascii_lowercase):
            raise InputError(
                f"{self.name}: {len(self.codes)} codes a frame are too many for text, which has 26 letters"
            )
        tokens = []
        for frame, run in itertools.groupby(map(tuple, self.codes.T.tolist())):
            count = sum(1 for _ in run)
            code = ".".join(f"{letter}{value}" for letter, value in zip(string.ascii_lowercase, frame))
            tokens.append(f"{code}*{count}" if count > 1 else code)
        return " ".join(tokens)

    def save_text(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the line of text into a file, which appears whole or not at all.

        Raises:
            InputError: the folder is missing or not writable, or without ``overwrite`` the file exists.
        """
        line = f"{self.text}\n".encode()
        save_file(path, lambda file: file.write(line), overwrite)

    @classmethod
    def from_text(cls, text: str, like: Tokens | None = None, name: str = "the text") -> Tokens:
        """Tokens from a line of text, with the melody (over their length), loudness and voice of ``like``.

        Without it the melody is flat and voiced throughout, which a voice moves into its register, and there is no
        voice.

        Raises:
            InputError: the text is not of the form in the module's docstring.
        """
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) != 1:
            raise InputError(f"{name}: has {len(lines)} lines of tokens; give a file for each line, one recording's")
        codes = _codes_of_tokens(lines[0].split(), name)
        frames = 2 * codes.shape[1]
        if like is None:
            return cls(codes, Melody.of(np.full(frames, F0_REFERENCE, np.float32)), frames * OUTPUT_HOP, name=name)
        same = codes.shape[1] == like.codes.shape[1]
        return dataclasses.replace(
            like,
            codes=codes,
            bits=max(like.bits, int(codes.max()).bit_length()),
            melody=like.melody.stretched(frames),
            samples=like.samples if same else frames * OUTPUT_HOP,
            name=name,
        )

    @classmethod
    def load_text(cls, path: str | os.PathLike[str], like: Tokens | None = None) -> Tokens:
        """``from_text`` of a file.

        Raises:
            InputError: the file is missing or its text is not of the form in the module's docstring.
        """
        data = _read(Path(path))
        try:
            return cls.from_text(data.decode(), like, str(path))
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is no text; `vconv encode --text` writes text of tokens") from error


@dataclass(frozen=True)
class Size:
    """What tokens take, in bits: codes, melody, and once a file the voice with all the rest."""

    seconds: float
    tokens: int
    melody: int
    once: int
    files: int = 1

    @classmethod
    def total(cls, sizes: Iterable[Size]) -> Size:
        """Of several files, at least one."""
        return cls(*map(sum, zip(*map(dataclasses.astuple, sizes))))

    @property
    def bits_per_second(self) -> float:
        """Of the whole files."""
        return (self.tokens + self.melody + self.once) / self.seconds

    def __str__(self) -> str:
        tokens, melody = self.tokens / self.seconds, self.melody / self.seconds
        once = f"{self.once / self.files:.0f} bits once a file"
        return f"{self.bits_per_second:.0f} bit/s: tokens {tokens:.0f}, melody {melody:.0f}, and {once} for the voice"


def coarse_embedding(embedding: np.ndarray) -> np.ndarray:
    """[E] as int8, up to scale: the reconstruction has the same error as with all of its bits."""
    return np.round(embedding * (127 / np.abs(embedding).max())).astype(np.int8)


def _codes_of_tokens(tokens: list[str], name: str) -> np.ndarray:
    """[G, n]"""
    frames, counts = [], []
    for token in tokens:
        match = _TOKEN.fullmatch(token)
        codes = match.group(1).split(".") if match else []
        if not codes or [code[0] for code in codes] != list(string.ascii_lowercase[: len(codes)]):
            raise InputError(f"{name}: '{token[:40]}' is no token; one looks like a12.b301*3")
        frames.append([int(code[1:]) for code in codes])
        if max(frames[-1]) >= 1 << MAX_BITS:
            raise InputError(f"{name}: '{token[:40]}' has a code above {(1 << MAX_BITS) - 1}, which no model has")
        counts.append(int(match.group(2) or 1))
        if len(codes) != len(frames[0]):
            raise InputError(f"{name}: '{token[:40]}' has {len(codes)} codes, '{tokens[0][:40]}' has {len(frames[0])}")
    if not 0 < sum(counts) <= MAX_FRAMES:
        raise InputError(f"{name}: {sum(counts)} frames of tokens; give 1 to {MAX_FRAMES}")
    return np.repeat(np.array(frames, np.int64), counts, axis=0).T


def _problem(arrays: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the arrays of a tokens file, if anything is."""
    for name, (kind, largest) in _ARRAYS.items():
        if name not in arrays:
            return f"no {name}"
        if arrays[name].dtype != kind or arrays[name].ndim != len(largest):
            return f"{name} is {arrays[name].dtype} {arrays[name].shape}"
    codes, voiced, bits = arrays["codes"], arrays["voiced"], int(arrays["bits"])
    if not codes.size or not 1 <= bits <= MAX_BITS or codes.max() >> bits:
        return "codes out of range"
    if voiced.shape != (2 * codes.shape[1],) or len(arrays["knots"]) != len(knot_frames(voiced)):
        return "codes and melody unlike in length"
    if not 0 < arrays["samples"] <= (2 * codes.shape[1] + 1) * OUTPUT_HOP:
        return "codes and samples unlike in length"
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
