"""A target voice: who to sound like, and in which register."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vconv import audio, features
from vconv.errors import InputError, VconvError
from vconv.files import replacing
from vconv.inference.engine import Engine, Reference
from vconv.recognizer import Recognize, encoder_input, no_recognizer
from vconv.untrusted import check_finite, load_arrays

VOICE_SUFFIX = ".npz"
REFERENCE_FRAMES = 3750  # one minute of speech for the decoder to listen to; more only takes time
MAX_CHANNELS = 1024  # of an embedding or a code
# The largest shape of each array in a file; `mix` rounds the reference frames of each part up.
_LARGEST = {
    "embedding": (MAX_CHANNELS,),
    "log_f0": (),
    "log_f0_spread": (),
    "reference_content": (MAX_CHANNELS, REFERENCE_FRAMES),
    "reference_mel": (features.N_MELS, 2 * REFERENCE_FRAMES),
    "style": (256, 1 << 16),
    "model": (64,),
}
CLIP_SECONDS = 120.0  # of one target clip; a voice is known long before, and memory stays bounded


@dataclass(frozen=True)
class Voice:
    """A speaker, as far as known: all but the embedding may be None.

    A conversion then keeps the source's melody, and sounds less like the target.
    """

    embedding: np.ndarray  # [E], of unit length
    log_f0: float | None  # median, in octaves above ``features.F0_REFERENCE``
    reference: Reference | None = None  # speech for the decoder to listen to
    log_f0_spread: float | None = None  # standard deviation, in octaves
    style: np.ndarray | None = None  # [L, S], what `vconv finetune` adds to the decoder
    model: bytes | None = None  # whose decoder that is (``Converter.model``), if known

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a .npz file that ``load`` and ``vconv convert --target`` take.

        Raises:
            VconvError: it holds NaN or infinity, as a network that diverged in training gives.
            InputError: the file cannot be written.
        """
        self.check(f"{path}: not written, as the voice", VconvError)
        save_arrays(
            path,
            embedding=self.embedding.astype(np.float32),
            log_f0=_number(self.log_f0),
            log_f0_spread=_number(self.log_f0_spread),
            reference_content=_half(self.reference and self.reference.content),
            reference_mel=_half(self.reference and self.reference.mel),
            style=_half(self.style),
            model=np.frombuffer(self.model or b"", np.uint8),
        )

    def check(self, name: str, error: type[VconvError] = InputError) -> None:
        """Raise ``error``, of whose message ``name`` is the beginning, if the voice holds NaN or infinity."""
        numbers = [value for value in (self.log_f0, self.log_f0_spread) if value is not None]
        reference = self.reference
        arrays = {"embedding": self.embedding, "register": np.array(numbers), "style": self.style}
        if reference is not None:
            arrays |= {"reference content": reference.content, "reference mel": reference.mel}
        check_finite(name, arrays, error)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing or holds no voice.
        """
        arrays = load_arrays(path, _LARGEST, "voice", "make one with `vconv embed`")
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                embedding, content, mel, style = (
                    arrays[name].astype(np.float32)
                    for name in ("embedding", "reference_content", "reference_mel", "style")
                )
            log_f0, spread = (_known(arrays[name]) for name in ("log_f0", "log_f0_spread"))
            model = arrays["model"].tobytes() if "model" in arrays else b""  # not in older files
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: holds no voice; make one with `vconv embed`") from error
        voice = cls(
            embedding,
            log_f0,
            Reference(content, mel) if content.size else None,
            spread,
            style if style.size else None,
            model or None,
        )
        voice.check(str(path))
        return voice


def _number(value: float | None) -> np.float64:
    return np.float64(np.nan if value is None else value)


def _known(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _half(array: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.float16) if array is None else array.astype(np.float16)


def is_saved_voice(target: object) -> bool:
    return isinstance(target, str | os.PathLike) and Path(target).suffix.lower() == VOICE_SUFFIX


def clips_in(target: audio.Source) -> list[audio.Source]:
    """The clips a target stands for: itself, or the audio files in the folder.

    Raises:
        InputError: a folder without audio, or what is no clip among several targets.
    """
    if isinstance(target, tuple):
        return [target]
    if not isinstance(target, str | os.PathLike) or is_saved_voice(target):
        what = target if is_saved_voice(target) else type(target).__name__
        raise InputError(f"{what}: only clips and folders can be averaged; give a finished voice alone")
    return [*audio.find_audio(target)] if Path(target).is_dir() else [target]


def make_voice(clips: Iterable[audio.Source], engine: Engine, tracker: features.PitchTracker) -> Voice:
    """One voice from clips of it: embeddings averaged by their length, the register of all voiced frames,
    and the first ``REFERENCE_FRAMES`` of the speech, rounded to half precision as a saved voice is.

    Raises:
        InputError: a clip cannot be read, is silent, too short, or without voiced speech.
    """
    embeddings, frames, f0, contents, mels = [], [], [], [], []
    missing = REFERENCE_FRAMES
    for clip in clips:
        wave = speech_of(clip)
        mel, clip_f0, phonetic = _features(clip, wave, tracker, engine.recognize if missing else no_recognizer)
        embeddings.append(engine.speaker(wave, mel))
        frames.append(mel.shape[1])
        f0.append(clip_f0)
        if missing:
            heard = mel[:, :missing]
            contents.append(engine.content(heard, phonetic[:, : heard.shape[1] // 2])[0])
            mels.append(heard)
            missing -= heard.shape[1]
    if not frames:
        raise InputError("no target given; name at least one clip of the voice to sound like")
    embedding = np.average(embeddings, axis=0, weights=frames)
    reference = Reference(*(_half(np.concatenate(x, axis=1)).astype(np.float32) for x in (contents, mels)))
    unit = embedding / np.linalg.norm(embedding)
    melody = np.concatenate(f0)
    voice = Voice(unit, features.median_log_f0(melody), reference, features.log_f0_spread(melody))
    voice.check(f"{audio.source_name(clip)}: the voice that the networks make of it", VconvError)
    return voice


def speech_features(
    clip: audio.Source, tracker: features.PitchTracker, recognize: Recognize
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a clip without the silence around it: mel [N_MELS, T], T even, F0 [T'], a recognizer's features [R, T / 2]."""
    return _features(clip, speech_of(clip), tracker, recognize)


def speech_of(clip: audio.Source) -> np.ndarray:
    """A clip without the silence around it, at the reference loudness: [N] at 16 kHz"""
    name = audio.source_name(clip)
    reader = audio.BlockReader(clip, features.SAMPLE_RATE)
    whole = audio.without_offset(audio.join(_beginning(reader)))
    wave = audio.trim_silence(whole, features.SAMPLE_RATE)
    if not len(wave):
        raise InputError(f"{name}: {reader.why_silent(audio.loudness(whole, features.SAMPLE_RATE))}")
    check_length(name, len(wave), features.SAMPLE_RATE, "of speech")
    return audio.normalize(wave, features.SAMPLE_RATE)


def _features(
    clip: audio.Source, wave: np.ndarray, tracker: features.PitchTracker, recognize: Recognize
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    f0 = tracker(wave)
    if not f0.any():
        name = audio.source_name(clip)
        raise InputError(f"{name}: no voiced speech found; give a clear recording of the target speaking")
    mel, phonetic = encoder_input(wave, recognize)
    return mel, f0, phonetic


def _beginning(reader: audio.BlockReader) -> Iterator[np.ndarray]:
    """The first CLIP_SECONDS of a clip, in 16 kHz blocks."""
    left = round(CLIP_SECONDS * features.SAMPLE_RATE)
    for block in reader:
        yield block[:left]
        left -= len(block)
        if left <= 0:
            return


def check_length(name: str, samples: int, rate: int, what: str) -> None:
    """Raise InputError if there is less than ``audio.MIN_SECONDS`` of it."""
    if samples < audio.MIN_SECONDS * rate:
        seconds = math.floor(1000 * samples / rate) / 1000  # never rounded up to what is asked for
        raise InputError(f"{name}: {seconds:.3f} s {what} is too short; give at least {audio.MIN_SECONDS} s")


def save_arrays(path: str | os.PathLike[str], overwrite: bool = True, **arrays: np.ndarray) -> None:
    """Write a .npz file that appears whole or not at all; see ``save_file``."""
    save_file(path, lambda file: np.savez(file, **arrays), overwrite)


def save_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], overwrite: bool = True) -> None:
    """Have ``write`` fill a file that appears whole or not at all.

    Raises:
        InputError: the folder is missing or not writable, or without ``overwrite`` the file exists in the end.
    """
    with replacing(path, overwrite) as temporary, temporary.open("xb") as file:
        write(file)
