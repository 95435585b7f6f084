"""How corpora lie on a disk: each layout walks its folders and yields every recording that it finds.

Nothing is decoded here, and nothing kept but the names of one folder at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from vconv import audio
from vconv.data.manifest.table import COLUMNS, TEST, TRAIN, VALID, Clip, extra_columns, open_table, scan_manifest
from vconv.errors import InputError
from vconv.files import readable

Layout = Literal["folders", "tsv", "vctk", "libritts"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
Microphone = Literal["mic1", "mic2"]
MICROPHONES: tuple[str, ...] = get_args(Microphone)


@dataclass(frozen=True)
class Skipped:
    """A file that did not become a clip, or a folder that was not looked into, and why."""

    path: Path
    reason: str
    folder: bool = False


@dataclass(frozen=True)
class Note:
    """Something that the corpus lacks, though its clips can be used."""

    text: str


Finding = Clip | Skipped | Note


@dataclass(frozen=True)
class Source:
    """What a layout found.

    ``has_split``: it says itself what is for training, validation and tests. ``extra``: the clips' other columns.
    """

    findings: Iterator[Finding]
    has_split: bool = False
    extra: tuple[str, ...] = ()


def open_source(layout: str, paths: Sequence[Path], columns: Mapping[str, str], microphone: str) -> Source:
    """The recordings of a corpus.

    Raises:
        InputError: unknown layout, or a source that is missing or not what the layout says.
    """
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout '{layout}'; use {', '.join(LAYOUTS)}")
    if layout == "tsv":
        return _tables(paths, columns)
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder")
    if layout == "vctk":
        return Source(chain.from_iterable(_vctk(path, microphone) for path in paths), extra=("accent",))
    if layout == "libritts":
        return _libritts(paths)
    return Source(chain.from_iterable(map(_folders, paths)))


def _audio_in(folder: Path, unreadable: list[Skipped]) -> Iterator[Path]:
    """Audio files under a folder; the folders in it that cannot be read are added to ``unreadable``."""

    def tell(error: InputError) -> None:
        path, _, reason = str(error).rpartition(": this ")
        unreadable.append(Skipped(Path(path), f"this {reason}", folder=True))

    for place, names in audio.walk_audio(folder, unreadable=tell):
        yield from (place / name for name in names)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error


def _readable_subfolders(folder: Path, unreadable: list[Skipped]) -> list[Path]:
    """The same; a folder that cannot be read is added to ``unreadable`` and has none."""
    try:
        return _subfolders(folder)
    except InputError as error:
        unreadable.append(Skipped(folder, str(error).removeprefix(f"{folder}: "), folder=True))
        return []


def _read_text(path: Path) -> str:
    """A text file as one line; empty where there is none.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    return " ".join(path.read_text(encoding="utf-8-sig").split()) if path.is_file() else ""


_UNREADABLE_TEXT = "its transcript is not readable UTF-8 text"


# ---------------------------------------------------------------- folders of speaker folders


def _folders(root: Path) -> Iterator[Finding]:
    empty, unreadable = True, []
    for path in _audio_in(root, unreadable):
        empty = False
        inside = path.relative_to(root)
        if len(inside.parts) < 2:
            yield Skipped(path, "lies in no speaker's folder")
            continue
        try:
            transcript = _read_text(path.with_suffix(".txt"))
        except (OSError, UnicodeDecodeError):
            yield Skipped(path, _UNREADABLE_TEXT)
        else:
            yield Clip(path, readable(" ".join(inside.parts[0].split())), transcript=transcript)
    yield from unreadable
    if empty and not unreadable:
        raise audio.no_audio_in(root)


# ---------------------------------------------------------------- tables


def _tables(paths: Sequence[Path], columns: Mapping[str, str]) -> Source:
    """Several tables; the split is theirs if any has a column of it."""
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(f"unknown column '{ours}'; a manifest has {', '.join(COLUMNS)}")
    tables = [open_table(path) for path in paths]
    headers = {name for table in tables for name in table.header}
    for theirs in columns.values():
        if theirs not in headers:
            raise InputError(f"{paths[0]}: line 1: no column '{theirs}'")
    clips = chain.from_iterable(scan_manifest(path, columns) for path in paths)
    extra = dict.fromkeys(name for table in tables for name in extra_columns(table, columns))
    return Source(clips, columns.get("split", "split") in headers, tuple(extra))


# ---------------------------------------------------------------- VCTK

_VCTK_WAVES = ("wav48_silence_trimmed", "wav48")  # of versions 0.92 and 0.80
_VCTK_NAME = re.compile(r"([a-z]\d+_\d+)(?:_(mic\d))?")


def _vctk(root: Path, microphone: str) -> Iterator[Finding]:
    """VCTK 0.92, with two microphones, or 0.80, with one. ``root`` holds the recordings, ``txt`` and speaker-info.txt.

    Where an utterance lacks the microphone that was asked for, the other one is taken.
    """
    waves = next((root / name for name in _VCTK_WAVES if (root / name).is_dir()), None)
    if waves is None:
        raise InputError(f"{root}: neither {' nor '.join(_VCTK_WAVES)} in it; give the folder that holds VCTK's")
    if microphone not in MICROPHONES:
        raise InputError(f"unknown microphone '{microphone}'; use {' or '.join(MICROPHONES)}")
    people = _vctk_people(root / "speaker-info.txt")
    if not people:
        yield Note(f"{root / 'speaker-info.txt'} is missing or empty: no sex, no accent")
    if not (root / "txt").is_dir():
        yield Note(f"{root / 'txt'} is missing: no transcripts")
    for folder in _subfolders(waves):
        yield from _vctk_speaker(root, folder, microphone, *people.get(folder.name, ("", "en", "")))


def _vctk_people(table: Path) -> dict[str, tuple[str, str, str]]:
    """Sex, language with the accent in brackets, and accent of each speaker.

    The table is aligned by spaces: ID AGE GENDER ACCENTS REGION. Version 0.80 writes 225 for p225.
    """
    people = {}
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines() if table.is_file() else ():
        cells = line.split()
        if len(cells) >= 3 and cells[2].lower() in ("f", "m"):
            name = f"p{cells[0]}" if cells[0].isdigit() else cells[0]
            language = f"en ({cells[3]})" if len(cells) > 3 else "en"
            accent = cells[3] if len(cells) > 3 and cells[3] != "Unknown" else ""
            people[name] = cells[2].lower(), language, accent
    return people


def _vctk_speaker(root: Path, folder: Path, microphone: str, sex: str, language: str, accent: str) -> Iterator[Finding]:
    extra = (("accent", accent),) if accent else ()
    utterances: dict[str, dict[str, Path]] = {}
    unreadable: list[Skipped] = []
    for path in _audio_in(folder, unreadable):
        name = _VCTK_NAME.fullmatch(path.stem)
        if name is None:
            yield Skipped(path, f"is not named as VCTK's recordings are, as {folder.name}_001")
        else:
            utterances.setdefault(name[1], {})[name[2] or ""] = path
    yield from unreadable
    lacks: Counter[str] = Counter()
    for utterance, takes in utterances.items():
        taken = next(name for name in (microphone, "", *MICROPHONES, *takes) if name in takes)
        if taken not in (microphone, ""):
            lacks[f"no {microphone}, {taken} was taken"] += 1
        try:
            transcript = _read_text(root / "txt" / folder.name / f"{utterance}.txt")
        except (OSError, UnicodeDecodeError):
            yield Skipped(takes[taken], _UNREADABLE_TEXT)
            continue
        lacks["no transcript"] += not transcript and (root / "txt").is_dir()
        yield Clip(takes[taken], folder.name, transcript=transcript, language=language, sex=sex, extra=extra)
    for what, count in lacks.items():
        if count:
            yield Note(f"{folder.name}: {what}: {count} of {len(utterances)} clips")


# ---------------------------------------------------------------- LibriTTS and LibriSpeech

_LIBRI_SUBSET = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
_LIBRI_SPLITS = {"train": TRAIN, "dev": VALID, "test": TEST}
_LIBRI_PEOPLE = ("speakers.tsv", "SPEAKERS.txt", "SPEAKERS.TXT")


def _libritts(roots: Sequence[Path]) -> Source:
    """Subsets SUBSET/SPEAKER/CHAPTER/ of either corpus; with dev or test ones there, the published split."""
    subsets = []
    for root in roots:
        found = [path for path in _subfolders(root) if _LIBRI_SUBSET.fullmatch(path.name)]
        if not found:
            raise InputError(f"{root}: no folder such as train-clean-100 in it; give the folder that holds them")
        subsets += found
    has_split = any(_libri_split(subset) != TRAIN for subset in subsets)
    return Source(chain.from_iterable(map(_libri_subset, subsets)), has_split)


def _libri_split(subset: Path) -> str:
    return _LIBRI_SPLITS[subset.name.partition("-")[0]]


def _libri_subset(subset: Path) -> Iterator[Finding]:
    people = _libri_people(subset.parent)
    unreadable: list[Skipped] = []
    for speaker in _subfolders(subset):
        for chapter in _readable_subfolders(speaker, unreadable):
            try:
                lines = _libri_lines(chapter)
            except (OSError, UnicodeDecodeError):
                yield Skipped(chapter, _UNREADABLE_TEXT)
                continue
            for path in _audio_in(chapter, unreadable):
                try:
                    transcript = lines.get(path.stem) or _read_text(path.with_suffix(".normalized.txt"))
                except (OSError, UnicodeDecodeError):
                    yield Skipped(path, _UNREADABLE_TEXT)
                    continue
                sex = people.get(speaker.name, "")
                split = _libri_split(subset)
                yield Clip(path, speaker.name, transcript=transcript, language="en", sex=sex, split=split)
    yield from unreadable


def _libri_people(root: Path) -> dict[str, str]:
    """Sex of each reader, of a table with columns ID, SEX, ..., between bars (LibriSpeech) or tabs (LibriTTS)."""
    table = next((root / name for name in _LIBRI_PEOPLE if (root / name).is_file()), None)
    lines = table.read_text(encoding="utf-8", errors="replace").splitlines() if table else []
    cells = [re.split(r"\s*[|\t]\s*", line.strip()) for line in lines if not line.startswith(";")]
    return {row[0]: row[1].lower() for row in cells if len(row) > 1 and row[1].lower() in ("f", "m")}


def _libri_lines(chapter: Path) -> dict[str, str]:
    """Transcripts by name of a LibriSpeech chapter, which has them in one file; LibriTTS has a file for each clip."""
    table = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    return {name: text.strip() for name, _, text in (line.partition(" ") for line in lines)}
