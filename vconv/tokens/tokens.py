"""Speech as discrete tokens: content codes, the melody at a low rate and, once a file, the voice.

A tokens file is little-endian and holds, one after the other:

    header     4s magic "vcun", u8 version, 8s model, u64 samples at 24 kHz, u32 code frames n,
               i16 loudness in 0.01 dBFS, u16 codes a frame G, u8 bits a code, u16 embedding entries E
    embedding  i8 [E], up to scale: the embedding has unit length
    codes      G codes for each of the n frames (31.25 a second), each in that many bits, highest first
    voiced     one bit for each of the 2n frames of F0 (62.5 a second)
    knots      u8 for each knot, one every ``KNOT_FRAMES`` frames, that a voiced frame leans on:
               F0 in steps of 1 / ``STEPS`` octave above ``F0_MIN``, linear in log F0 between knots
    checksum   u32 CRC-32 of all before

Each stretch of bits begins on a byte. "model" identifies the model, since codes differ between models.

Units as text are one line, a token for each run of equal frames, with spaces between:

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
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio, features
from vconv.errors import InputError
from vconv.features import F0_REFERENCE, FRAME_RATE, OUTPUT_HOP, OUTPUT_RATE
from vconv.tokens.melody import Melody, knot_frames
from vconv.voice import Voice, save_file

TOKENS_SUFFIX = ".tokens"
TEXT_SUFFIX = ".txt"
VERSION = 1
MODEL_BYTES = 8
MAX_BITS = 16  # of a code
LONGEST_TEXT = 24 * 3600 * round(FRAME_RATE / 2)  # frames; a slip in a count must not take all memory

_MAGIC = b"vcun"
_HEADER = struct.Struct(f"<4sB{MODEL_BYTES}sQIhHBH")
_CHECKSUM = struct.Struct("<I")
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
        """The voice of the recording, as far as the tokens know it.

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
        tokens, melody = len(self._packed_codes()), len(self._packed_melody())
        return Size(self.seconds, 8 * tokens, 8 * melody, 8 * (len(self.pack()) - tokens - melody))

    # ------------------------------------------------------------ file

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a tokens file, which appears whole or not at all.

        Raises:
            InputError: the folder is missing or not writable.
        """
        data = self.pack()
        save_file(path, lambda file: file.write(data))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokens:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing, damaged, or no tokens file that this vconv reads.
        """
        return cls.unpack(_read(Path(path)), str(path))

    def pack(self) -> bytes:
        """The bytes of a tokens file; see the module's docstring."""
        embedding = np.zeros(0, np.int8) if self.embedding is None else self.embedding
        header = _HEADER.pack(
            _MAGIC,
            VERSION,
            self.model or bytes(MODEL_BYTES),
            self.samples,
            self.codes.shape[1],
            round(100 * self.loudness),
            len(self.codes),
            self.bits,
            len(embedding),
        )
        data = header + embedding.tobytes() + self._packed_codes() + self._packed_melody()
        return data + _CHECKSUM.pack(zlib.crc32(data))

    @classmethod
    def unpack(cls, data: bytes, name: str = "the tokens") -> Tokens:
        """What ``pack`` made; ``name`` is for messages.

        Raises:
            InputError: it is no tokens file, of another version, or damaged.
        """
        if not data.startswith(_MAGIC) or len(data) < _HEADER.size + _CHECKSUM.size:
            raise InputError(f"{name}: is no tokens file; make one with `vconv encode`")
        if data[len(_MAGIC)] != VERSION:
            raise InputError(f"{name}: has tokens format {data[len(_MAGIC)]}, this vconv reads {VERSION}; encode again")
        body = data[: -_CHECKSUM.size]
        if _CHECKSUM.unpack(data[-_CHECKSUM.size :]) != (zlib.crc32(body),):
            raise _damaged(name)
        _, _, model, samples, frames, loudness, rows, bits, entries = _HEADER.unpack_from(body)
        code_bytes, voiced_bytes = -(-frames * rows * bits // 8), -(-2 * frames // 8)
        start = _HEADER.size + entries
        rest = start + code_bytes + voiced_bytes
        if rest > len(body) or not 1 <= bits <= MAX_BITS or not 0 < samples <= (2 * frames + 1) * OUTPUT_HOP:
            raise _damaged(name)
        embedding = np.frombuffer(body, np.int8, entries, _HEADER.size)
        codes = _unpack_bits(body[start : start + code_bytes], bits, frames * rows).reshape(frames, rows).T
        voiced = np.unpackbits(np.frombuffer(body, np.uint8, voiced_bytes, rest - voiced_bytes), count=2 * frames) > 0
        melody = Melody(voiced, np.frombuffer(body, np.uint8, -1, rest))
        if len(melody.knots) != len(knot_frames(voiced)):
            raise _damaged(name)
        known = model if any(model) else None
        return cls(codes, melody, samples, loudness / 100, embedding if embedding.any() else None, known, bits, name)

    def _packed_codes(self) -> bytes:
        return _pack_bits(self.codes.T.ravel(), self.bits)

    def _packed_melody(self) -> bytes:
        return np.packbits(self.melody.voiced).tobytes() + self.melody.knots.tobytes()

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

    def save_text(self, path: str | os.PathLike[str]) -> None:
        """Write the line of text into a file, which appears whole or not at all.

        Raises:
            InputError: the folder is missing or not writable.
        """
        line = f"{self.text}\n".encode()
        save_file(path, lambda file: file.write(line))

    @classmethod
    def from_text(cls, text: str, like: Tokens | None = None, name: str = "the text") -> Tokens:
        """Units from a line of text, with the melody (over their length), loudness and voice of ``like``.

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
            raise InputError(f"{name}: '{token[:40]}' is no unit; one looks like a12.b301*3")
        frames.append([int(code[1:]) for code in codes])
        if max(frames[-1]) >= 1 << MAX_BITS:
            raise InputError(f"{name}: '{token[:40]}' has a code above {(1 << MAX_BITS) - 1}, which no model has")
        counts.append(int(match.group(2) or 1))
        if len(codes) != len(frames[0]):
            raise InputError(f"{name}: '{token[:40]}' has {len(codes)} codes, '{tokens[0][:40]}' has {len(frames[0])}")
    if not 0 < sum(counts) <= LONGEST_TEXT:
        raise InputError(f"{name}: {sum(counts)} frames of tokens; give 1 to {LONGEST_TEXT}")
    return np.repeat(np.array(frames, np.int64), counts, axis=0).T


def _pack_bits(values: np.ndarray, bits: int) -> bytes:
    """Integers [N] in so many bits each, the highest first."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((values[:, None] >> places & 1).astype(np.uint8)).tobytes()


def _unpack_bits(data: bytes, bits: int, count: int) -> np.ndarray:
    """[count] int64"""
    flags = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    return flags @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _damaged(name: str) -> InputError:
    return InputError(f"{name}: is damaged or cut off; make it again with `vconv encode`")
