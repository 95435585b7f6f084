#!/usr/bin/env python3
"""Pairs to measure conversion in many languages: OUT/pairs.csv for ``vconv evaluate``, and the clips it names.

Sources are sentences of sentences.tsv, which no training corpus here has, spoken by Kokoro-82M: the timbre is a mixture
of three published voices, the prosody that of a voice of the language. Recordings with transcripts join them from a
manifest. Targets are clips of a folder or, without one, mixtures of three voices too, speaking English.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "parallel_tts"))

import numpy as np
import soundfile
from make_pairs import write_table
from phonemes import check_packages
from synthesis import NATIVE, RATE, Kokoro, Speaker, make_speakers, natives, read_voices

from vconv import audio
from vconv.data.corpus import base_language
from vconv.data.manifest import Clip, open_table, read_manifest
from vconv.errors import InputError, run_script
from vconv.files import replacing

SENTENCES = Path(__file__).with_name("sentences.tsv")
LANGUAGES = ("en", *NATIVE)
COLUMNS = ("source", "target", "transcript", "language", "speech")
ENGLISH = "en-us"
TARGETS = 4  # voices, where no folder gives clips
RECORDED_SECONDS = (1.5, 12.0)
PAUSE_SECONDS = 0.3  # between the sentences of a target


@dataclass(frozen=True)
class Utterance:
    """What is spoken, by whom, and where the clip goes."""

    place: Path
    texts: tuple[str, ...]
    language: str  # that the phonemizer knows
    timbre: Speaker
    prosody: Speaker


# ---------------------------------------------------------------- what is to be spoken


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Sentences by language.

    Raises:
        InputError: the table cannot be read.
    """
    found: dict[str, list[str]] = {}
    for row in open_table(path).rows():
        found.setdefault(row.values["language"], []).append(row.values["text"])
    return found


def held_out_speakers(names: Sequence[str], count: int, seed: int) -> list[Speaker]:
    """Mixtures of three published voices of one sex in turn, female first, which recipes/parallel_tts never makes."""
    rng = random.Random(f"held out {seed}")
    speakers = []
    for number in range(count):
        sex = "fm"[number % 2]
        chosen = rng.sample(sorted(name for name in names if name[1] == sex), 3)
        parts = [rng.uniform(0.5, 1.0) for _ in chosen]
        weights = {name: round(part / sum(parts), 3) for name, part in zip(chosen, parts)}
        speakers.append(Speaker(f"held{number:02d}{sex}", sex, weights))
    return speakers


def plan_sources(
    sentences: dict[str, list[str]], names: Sequence[str], count: int, seed: int, folder: Path
) -> list[Utterance]:
    """``count`` sentences of each language. The same sentence of another language has another speaker."""
    published = make_speakers(names, 0, seed)
    planned = []
    for place, (language, texts) in enumerate(sentences.items()):
        speakers = held_out_speakers(names, len(sentences) * count, seed)[place * count :]
        own = [s for s in published if s.name[0] in "ab"] if language == "en" else natives(published, language)
        for number, (text, timbre) in enumerate(zip(texts[:count], speakers)):
            prosody = next((s for s in own[number % len(own) :] + own if s.sex == timbre.sex), own[0])
            spoken = ENGLISH if language == "en" else language
            planned.append(Utterance(folder / f"{language}_{number:02d}.flac", (text,), spoken, timbre, prosody))
    return planned


def plan_targets(sentences: Sequence[str], names: Sequence[str], seed: int, folder: Path) -> list[Utterance]:
    """Speakers that speak no source, with the last English sentences."""
    speakers = held_out_speakers(names, TARGETS, seed + 1)
    return [
        Utterance(folder / f"{s.name}.flac", (sentences[-2 * n - 1], sentences[-2 * n - 2]), ENGLISH, s, s)
        for n, s in enumerate(speakers)
    ]


# ---------------------------------------------------------------- speech and tables


def speak(model: Kokoro, utterance: Utterance) -> None:
    """Write the clip, whole or not at all."""
    pause = np.zeros(round(PAUSE_SECONDS * RATE), np.float32)
    parts: list[np.ndarray] = []
    for text in utterance.texts:
        phones = model.phones(text, utterance.language)
        parts += [model.speak(phones, utterance.timbre, utterance.prosody, 1.0), pause]
    utterance.place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(utterance.place) as part:
        soundfile.write(part, np.concatenate(parts[:-1]), RATE, format="FLAC")


def recorded(manifest: Path, split: str, languages: Sequence[str], count: int, seed: int) -> list[Clip]:
    """At most ``count`` clips with transcripts of each language, of as many speakers as there are.

    Raises:
        InputError: the manifest cannot be read or has no such clip.
    """
    low, high = RECORDED_SECONDS
    usable = [
        clip
        for clip in read_manifest(manifest)
        if clip.transcript and base_language(clip.language) in languages and low <= (clip.seconds or low) <= high
        if split in ("all", clip.split)
    ]
    if not usable:
        raise InputError(f"{manifest}: no clip of split '{split}' has a transcript and one of these languages")
    rng = random.Random(f"recorded {seed}")
    chosen = []
    for language in sorted({base_language(clip.language) for clip in usable}):
        clips = [clip for clip in usable if base_language(clip.language) == language]
        chosen += list(_by_turns(clips, rng))[:count]
    return chosen


def _by_turns(clips: Sequence[Clip], rng: random.Random) -> Iterator[Clip]:
    """One clip of every speaker, then a second one, and so on."""
    order = sorted(clips, key=lambda clip: str(clip.path))
    rng.shuffle(order)
    turns: dict[str, int] = {}
    placed = []
    for clip in order:
        turns[clip.speaker] = turns.get(clip.speaker, 0) + 1
        placed.append((turns[clip.speaker], clip))
    placed.sort(key=lambda item: item[0])
    yield from (clip for _, clip in placed)


def pair_rows(sources: Sequence[tuple[Path, str, str, str]], targets: Sequence[Path]) -> list[list[str]]:
    """Lines of the table: sources (path, transcript, language, kind of speech), each with the next target in turn."""
    turns: dict[tuple[str, str], int] = {}
    rows = []
    for path, transcript, language, speech in sources:
        number = turns[language, speech] = turns.get((language, speech), -1) + 1  # languages share their targets
        target = targets[number % len(targets)]
        rows.append([os.path.abspath(path), os.path.abspath(target), transcript, language, speech])
    return rows


# ---------------------------------------------------------------- the command


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the clips and pairs.csv")
    parser.add_argument("--kokoro-js", type=Path, help="archive that 'npm pack kokoro-js' fetched; none: no synthesis")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help=f"some of {','.join(LANGUAGES)} (all)")
    parser.add_argument("--count", type=int, default=12, help="clips of each language, at most (12)")
    parser.add_argument("--targets", type=Path, help="folder of target clips, in place of synthetic ones")
    parser.add_argument("--manifest", type=Path, help="recordings with transcripts that join the sources")
    parser.add_argument("--split", default="test", help="of the manifest: train, valid, test or all (test)")
    parser.add_argument("--seed", type=int, default=0, help="of voices and choices (0)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Make the clips that are missing, and the table.

    Raises:
        InputError: an option, a file or a package is missing.
    """
    languages = options.languages.split(",")
    if unknown := sorted(set(languages) - set(LANGUAGES)):
        raise InputError(f"--languages {unknown[0]}: use some of {','.join(LANGUAGES)}")
    if options.kokoro_js is None and (options.manifest is None or options.targets is None):
        raise InputError("what to measure with? Give --kokoro-js, or both --manifest and --targets")
    sources: list[tuple[Path, str, str, str]] = []
    planned: list[Utterance] = []
    targets = audio.find_audio(options.targets) if options.targets else []
    if options.kokoro_js:
        sentences, names = read_sentences(SENTENCES), sorted(read_voices(options.kokoro_js))
        if not targets:
            planned = plan_targets(sentences["en"], names, options.seed, options.out / "targets")
            targets = [utterance.place for utterance in planned]
        spoken = plan_sources(sentences, names, options.count, options.seed, options.out / "sources")
        for utterance in spoken:
            language = utterance.place.stem.partition("_")[0]
            if language in languages:
                planned.append(utterance)
                sources.append((utterance.place, utterance.texts[0], language, "synthetic"))
        synthesize(planned, options.kokoro_js)
    if options.manifest:
        clips = recorded(options.manifest, options.split, languages, options.count, options.seed)
        sources += [(clip.path, clip.transcript, base_language(clip.language), "recorded") for clip in clips]
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "pairs.csv", COLUMNS, pair_rows(sources, targets))
    print(f"{len(sources)} pairs in {options.out / 'pairs.csv'}")


def synthesize(planned: Sequence[Utterance], archive: Path) -> None:
    """Those that are not there yet."""
    todo = [utterance for utterance in planned if not utterance.place.exists()]
    for language in sorted({utterance.language for utterance in todo}):
        check_packages(language)
    if todo:
        model = load(archive)
        for utterance in todo:
            speak(model, utterance)


def load(archive: Path) -> Kokoro:
    return Kokoro(read_voices(archive))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_script("generate.py", partial(run, parse(arguments)))


if __name__ == "__main__":
    sys.exit(main())
