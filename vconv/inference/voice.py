"""A target voice: who to sound like, and in which register."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio, features
from vconv.errors import InputError
from vconv.inference.engine import Engine

VOICE_SUFFIX = ".npz"
CLIP_SECONDS = 120.0  # of one target clip; a voice is known long before, and memory stays bounded


@dataclass(frozen=True)
class Voice:
    """Embedding [E] of unit length, median F0 as octaves above ``features.F0_REFERENCE``, average log-mel [N_MELS].

    The last two are None where only an embedding is known; a conversion then keeps the source's register
    and the spectrum that the decoder gives it.
    """

    embedding: np.ndarray
    log_f0: float | None
    spectrum: np.ndarray | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a .npz file that ``load`` and ``vconv convert --target`` take."""
        log_f0 = np.nan if self.log_f0 is None else self.log_f0
        spectrum = np.zeros(0) if self.spectrum is None else self.spectrum
        save_arrays(
            path,
            embedding=self.embedding.astype(np.float32),
            log_f0=np.float64(log_f0),
            spectrum=spectrum.astype(np.float32),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Voice:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing or holds no voice.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                embedding, log_f0, spectrum = arrays["embedding"], float(arrays["log_f0"]), arrays["spectrum"]
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; check the path") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: holds no voice; make one with `vconv embed`") from error
        return cls(embedding, None if np.isnan(log_f0) else log_f0, spectrum if len(spectrum) else None)


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
    """One voice from clips of it: embeddings averaged by their length, the median F0 of all voiced frames.

    Raises:
        InputError: a clip cannot be read, is silent, too short, or without voiced speech.
    """
    embeddings, spectra, frames, f0 = [], [], [], []
    for clip in clips:
        mel, clip_f0 = _features(clip, tracker)
        embeddings.append(engine.speaker(mel))
        spectra.append(features.average_spectrum(mel))
        frames.append(mel.shape[1])
        f0.append(clip_f0)
    if not frames:
        raise InputError("no target given; name at least one clip of the voice to sound like")
    embedding, spectrum = (np.average(values, axis=0, weights=frames) for values in (embeddings, spectra))
    return Voice(embedding / np.linalg.norm(embedding), features.median_log_f0(np.concatenate(f0)), spectrum)


def _features(clip: audio.Source, tracker: features.PitchTracker) -> tuple[np.ndarray, np.ndarray]:
    """Mel [N_MELS, T], T even, and F0 [T'] of a clip without the silence around it."""
    name = audio.source_name(clip)
    wave = audio.trim_silence(audio.join(_beginning(clip)), features.SAMPLE_RATE)
    if not len(wave):
        raise InputError(f"{name}: only silence; give a recording of the target's speech")
    check_length(name, len(wave), features.SAMPLE_RATE, "of speech")
    wave = audio.normalize(wave, features.SAMPLE_RATE)
    f0 = tracker(wave)
    if not f0.any():
        raise InputError(f"{name}: no voiced speech found; give a clear recording of the target speaking")
    mel = features.log_mel(wave)
    return mel[:, : mel.shape[1] // 2 * 2], f0


def _beginning(clip: audio.Source) -> Iterator[np.ndarray]:
    """The first CLIP_SECONDS of a clip, in 16 kHz blocks."""
    left = round(CLIP_SECONDS * features.SAMPLE_RATE)
    for block in audio.BlockReader(clip, features.SAMPLE_RATE):
        yield block[:left]
        left -= len(block)
        if left <= 0:
            return


def check_length(name: str, samples: int, rate: int, what: str) -> None:
    """Raise InputError if there is less than ``audio.MIN_SECONDS`` of it."""
    if samples < audio.MIN_SECONDS * rate:
        raise InputError(f"{name}: {samples / rate:.2f} s {what} is too short; give at least {audio.MIN_SECONDS} s")


def save_arrays(path: str | os.PathLike[str], **arrays: np.ndarray) -> None:
    """Write a .npz file that appears whole or not at all.

    Raises:
        InputError: the folder is missing or not writable.
    """
    path = Path(path)
    temporary = path.parent / f".vconv-{secrets.token_hex(6)}{VOICE_SUFFIX}"
    try:
        with temporary.open("xb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place with -o") from error
    finally:
        temporary.unlink(missing_ok=True)
