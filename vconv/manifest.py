"""A corpus is a manifest: a table of clips, tab separated, one clip a line, with a header. Nothing here needs torch.

    path         the audio file, relative to the manifest's folder or absolute (required)
    speaker      who speaks; clips with the same name are the same voice (required)
    seconds      length
    transcript   what is said, as text
    phones       what is said, as IPA
    group        clips of one group are the same speech in several voices, aligned frame for frame
    language     a language code such as en-us, de or zh
    sex          f or m
    sample_rate  Hz that the recording's band really fills, which a file's own rate may exceed
    split        train (also when empty) or valid

Other columns are ignored. Values hold no tab and no line break, and quotes mean nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, get_args

from vconv import audio
from vconv.errors import InputError, VconvError

MIN_SECONDS = 0.5  # a shorter clip teaches nothing
TRAIN, VALID = "train", "valid"

Layout = Literal["folders", "tsv"]


@dataclass(frozen=True)
class Clip:
    """One line of a manifest. An unknown text is empty, an unknown number None."""

    path: Path
    speaker: str
    seconds: float | None = None
    transcript: str = ""
    phones: str = ""
    group: str = ""
    language: str = ""
    sex: str = ""
    sample_rate: int | None = None
    split: str = TRAIN


COLUMNS = tuple(f.name for f in fields(Clip))
REQUIRED = ("path", "speaker")


@dataclass(frozen=True)
class Skipped:
    """A file that did not become a clip, and why."""

    path: Path
    reason: str


@dataclass
class Prepared:
    """What ``prepare`` found."""

    clips: list[Clip] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def summary(self) -> str:
        """Some lines for people: hours, speakers and what is known of the clips, for each split."""
        lines = [_split_summary(name, [c for c in self.clips if c.split == name]) for name in (TRAIN, VALID)]
        if self.skipped:
            lines.append(f"skipped: {len(self.skipped)} files")
        return "\n".join(lines)


def _split_summary(name: str, clips: Sequence[Clip]) -> str:
    hours = sum(clip.seconds or 0.0 for clip in clips) / 3600
    groups = len({clip.group for clip in clips if clip.group})
    return (
        f"{name}: {len(clips)} clips, {hours:.2f} h, {len({clip.speaker for clip in clips})} speakers, "
        f"{groups} parallel groups, {sum(bool(c.transcript) for c in clips)} with a transcript, "
        f"{sum(bool(c.phones) for c in clips)} with phones"
    )


# ---------------------------------------------------------------- reading and writing


def read_manifest(path: str | os.PathLike[str]) -> list[Clip]:
    """The clips of a manifest, their paths made absolute or relative to the working folder as ``path`` is.

    Raises:
        InputError: the file is missing or no manifest, or a value is wrong; names the line and the column.
    """
    manifest = Path(path)
    return list(_read_clips(manifest, {}))


def write_manifest(path: str | os.PathLike[str], clips: Iterable[Clip]) -> None:
    """Write a manifest, whole or not at all. Clips below its folder get relative paths, others absolute ones.

    Raises:
        InputError: the folder is missing or not writable, or a value cannot stand in a table.
    """
    manifest = Path(path)
    folder = Path(os.path.abspath(manifest.parent))
    lines = ["\t".join(COLUMNS), *(_format_line(clip, folder) for clip in clips)]
    temporary = manifest.with_name(f".{manifest.name}-{secrets.token_hex(6)}")
    try:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        os.replace(temporary, manifest)
    except OSError as error:
        raise InputError(f"{manifest}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _format_line(clip: Clip, folder: Path) -> str:
    place = Path(os.path.abspath(clip.path))  # not resolve(): a link inside the corpus stays the path that it is
    if place.is_relative_to(folder):
        place = place.relative_to(folder)
    values = dataclasses.asdict(clip) | {"path": place.as_posix()}
    cells = [_format_value(values[column]) for column in COLUMNS]
    if any(_BREAKS.search(cell) for cell in cells):
        raise InputError(f"{clip.path}: a value holds a tab or a line break, which a manifest cannot; rename the file")
    return "\t".join(cells)


def _format_value(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


_BREAKS = re.compile(r"[\t\r\n]")


@dataclass(frozen=True)
class _Row:
    """A line of a table, and how messages name it."""

    where: str
    values: Mapping[str, str]


def _read_rows(path: Path) -> tuple[list[str], list[_Row]]:
    """Header and rows of any tab-separated table.

    Raises:
        InputError: it cannot be read, or the lines do not have as many values as the header has names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make a manifest with 'vconv prepare'") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; a manifest is a tab-separated table") from error
    # Not splitlines(): that would also split at the rarer breaks which may stand inside a value.
    lines = text.split("\n")
    header = [name.strip() for name in lines[0].split("\t")]
    if doubles := [name for name, count in Counter(header).items() if count > 1]:
        raise InputError(f"{path}: line 1: the column '{doubles[0]}' occurs twice")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(header):
            raise InputError(f"{path}: line {number}: {len(cells)} values, but the header names {len(header)} columns")
        rows.append(_Row(f"{path}: line {number}", dict(zip(header, (cell.strip() for cell in cells)))))
    return header, rows


def _read_clips(path: Path, columns: Mapping[str, str]) -> Iterator[Clip]:
    """Clips of a table; ``columns`` says which of its columns stands for which of ours, where the names differ."""
    header, rows = _read_rows(path)
    names = {ours: columns[ours] if columns.get(ours) in header else ours for ours in COLUMNS}
    for ours in REQUIRED:
        if names[ours] not in header:
            raise InputError(f"{path}: line 1: no column '{names[ours]}'; a manifest has at least path and speaker")
    for row in rows:
        yield _make_clip(row, names, path.parent)


def _make_clip(row: _Row, names: Mapping[str, str], folder: Path) -> Clip:
    cells = {ours: row.values.get(theirs, "") for ours, theirs in names.items()}
    for ours in REQUIRED:
        if not cells[ours]:
            raise InputError(f"{row.where}: column '{names[ours]}': is empty")
    if cells["split"] not in ("", TRAIN, VALID):
        raise InputError(f"{row.where}: column '{names['split']}': '{cells['split']}' is neither train nor valid")
    texts = {key: cells[key] for key in ("speaker", "transcript", "phones", "group", "language", "sex")}
    return Clip(
        path=folder / cells["path"],
        seconds=_number(row, names["seconds"], cells["seconds"]),
        sample_rate=_rate(row, names["sample_rate"], cells["sample_rate"]),
        split=cells["split"] or TRAIN,
        **texts,
    )


def _number(row: _Row, column: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{row.where}: column '{column}': '{text}' is not a positive number")
    return value


def _rate(row: _Row, column: str, text: str) -> int | None:
    value = _number(row, column, text)
    return None if value is None else round(value)


# ---------------------------------------------------------------- preparing a corpus


def prepare(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    layout: Layout = "folders",
    columns: Mapping[str, str] | None = None,
    language: str = "",
    phonemize: bool = False,
    valid_percent: float = 2.0,
    min_seconds: float = MIN_SECONDS,
    jobs: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Look at every file of a corpus and write its manifest.

    Every file is decoded once: what is unreadable, silent or too short is left out and listed with the
    reason, and so is a clip of a parallel group that is not as long as the others of its group.

    Args:
        sources: with the layout "folders", folders of speaker folders, whose clips may have a transcript
            beside them, a ``.txt`` file of the same stem; with "tsv", tables with a header.
        output: the manifest to write.
        columns: for "tsv", {our column: the table's column} where the names differ.
        language: of the clips whose language the source does not tell.
        phonemize: make phones from the transcripts of clips without phones, with the espeak-ng program.
        valid_percent: share of the speakers, and of the parallel groups, kept out of training. The choice
            depends on their names alone. A ``split`` column of a table overrides it.
        min_seconds: clips shorter than this are left out.
        jobs: files decoded at the same time; None for one a core.
        report: called with the files done and the files there are.

    Raises:
        InputError: a source is missing or not what the layout says, no clip could be used, espeak-ng is
            missing, or the output cannot be written.
    """
    if layout not in get_args(Layout):
        raise InputError(f"unknown layout '{layout}'; use {' or '.join(get_args(Layout))}")
    if not 0 <= valid_percent < 100:
        raise InputError(f"a validation share of {valid_percent} % is impossible; use 0 to 99")
    output = Path(output)
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist; create it first")
    if phonemize:
        _espeak_program()  # seen before the work
    paths = [Path(s) for s in ([sources] if isinstance(sources, (str, os.PathLike)) else sources)]
    result = Prepared()
    if layout == "folders":
        found = [clip for path in paths for clip in _clips_of_folders(path, result.skipped)]
        has_split = False
    else:
        found, has_split = _clips_of_tables(paths, columns or {})
    found = [replace(clip, language=clip.language or language) for clip in found]
    result.clips = _inspect(found, min_seconds, jobs, report, result.skipped)
    result.clips = _drop_misaligned(result.clips, result.skipped)
    if not result.clips:
        first = result.skipped[0] if result.skipped else None
        why = f"; the first problem: {first.path}: {first.reason}" if first else ""
        raise InputError(f"{paths[0]}: no clip could be used{why}")
    if not has_split:
        result.clips = split_clips(result.clips, valid_percent)
    if phonemize:
        result.clips = _phonemize_clips(result.clips)
    write_manifest(output, result.clips)
    return result


def _clips_of_folders(root: Path, skipped: list[Skipped]) -> list[Clip]:
    clips = []
    for path in audio.find_audio(root):
        inside = path.relative_to(root)
        if len(inside.parts) < 2:
            skipped.append(Skipped(path, "lies in no speaker's folder"))
            continue
        try:
            clips.append(Clip(path, " ".join(inside.parts[0].split()), transcript=_transcript_beside(path)))
        except (OSError, UnicodeDecodeError):
            skipped.append(Skipped(path, "its transcript is not readable UTF-8 text"))
    return clips


def _transcript_beside(path: Path) -> str:
    text = path.with_suffix(".txt")
    return " ".join(text.read_text(encoding="utf-8-sig").split()) if text.is_file() else ""


def _clips_of_tables(paths: Sequence[Path], columns: Mapping[str, str]) -> tuple[list[Clip], bool]:
    """The clips of several tables, and whether any of them decides the split itself."""
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(f"unknown column '{ours}'; a manifest has {', '.join(COLUMNS)}")
    headers = {name for path in paths for name in _read_rows(path)[0]}
    for theirs in columns.values():
        if theirs not in headers:
            raise InputError(f"{paths[0]}: line 1: no column '{theirs}'")
    clips = [clip for path in paths for clip in _read_clips(path, columns)]
    return clips, columns.get("split", "split") in headers


def _inspect(
    clips: Sequence[Clip],
    min_seconds: float,
    jobs: int | None,
    report: Callable[[int, int], None],
    skipped: list[Skipped],
) -> list[Clip]:
    """The clips that can be used, with their lengths; the others go to ``skipped``."""
    good = []
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:  # threads: decoding lets go of the GIL
        for done, (clip, outcome) in enumerate(zip(clips, pool.map(lambda c: _measure(c, min_seconds), clips)), 1):
            if isinstance(outcome, Clip):
                good.append(outcome)
            else:
                skipped.append(Skipped(clip.path, outcome))
            report(done, len(clips))
    return good


def _measure(clip: Clip, min_seconds: float) -> Clip | str:
    """The clip with its length in seconds and a sample rate, or why it cannot be used."""
    try:
        reader = audio.BlockReader(clip.path)
        meter = audio.LoudnessMeter(reader.rate)
        for block in reader:
            meter.add(block)
    except InputError as error:
        return str(error).removeprefix(f"{clip.path}: ")
    seconds = reader.source_samples / reader.source_rate
    if seconds < min_seconds:
        return f"is too short ({seconds:.2f} s)"
    if audio.is_silent(meter.loudness()):
        return "is only silence"
    return replace(clip, seconds=round(seconds, 3), sample_rate=clip.sample_rate or reader.source_rate)


def _drop_misaligned(clips: Sequence[Clip], skipped: list[Skipped]) -> list[Clip]:
    """Without the clips that are longer or shorter than most of their parallel group."""
    lengths: dict[str, Counter[float | None]] = {}
    for clip in clips:
        lengths.setdefault(clip.group, Counter())[clip.seconds] += 1
    usual = {group: counts.most_common(1)[0][0] for group, counts in lengths.items() if group}
    kept = []
    for clip in clips:
        if clip.group and clip.seconds != usual[clip.group]:
            reason = f"is {clip.seconds} s long, but its parallel group '{clip.group}' {usual[clip.group]} s"
            skipped.append(Skipped(clip.path, reason))
        else:
            kept.append(clip)
    return kept


# ---------------------------------------------------------------- the validation split


def split_clips(clips: Sequence[Clip], valid_percent: float) -> list[Clip]:
    """Put whole speakers, and of aligned clips whole groups, into validation; the same ones every time.

    An aligned clip goes with its group: new sentences are what it validates, and its speakers stay in
    training. Every other clip goes with its speaker. The choice hashes the names, so a corpus that grows
    keeps its split.
    """
    speakers = _chosen({clip.speaker for clip in clips if not clip.group}, valid_percent)
    groups = _chosen({clip.group for clip in clips if clip.group}, valid_percent)
    return [
        replace(clip, split=VALID if (clip.group in groups if clip.group else clip.speaker in speakers) else TRAIN)
        for clip in clips
    ]


def _chosen(names: set[str], percent: float) -> set[str]:
    """About ``percent`` of the names; at least one of two or more, never all."""
    if percent <= 0 or len(names) < 2:
        return set()
    ordered = sorted(names, key=_position)
    count = sum(_position(name) < percent / 100 for name in ordered)
    return set(ordered[: min(max(count, 1), len(names) - 1)])


def _position(name: str) -> float:
    """A place in 0 to 1 that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


# ---------------------------------------------------------------- phones

# Where espeak-ng's name of a voice is not the language code itself.
ESPEAK_VOICES = {"en": "en-us", "fr": "fr-fr", "no": "nb", "pt": "pt-br", "zh": "cmn", "zh-cn": "cmn", "zh-tw": "cmn"}
_DIVIDER = "xyzzy"  # no language has this word, so what espeak-ng makes of it divides one line's output from the next
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")  # espeak-ng marks words that it reads in another language


def _phonemize_clips(clips: Sequence[Clip]) -> list[Clip]:
    """With phones where there is a transcript and were none; one espeak-ng process a language."""
    missing: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        if clip.transcript and not clip.phones:
            if not clip.language:
                raise InputError(f"{clip.path}: its language is not known, so it has no phones; pass --language")
            missing.setdefault(clip.language, []).append(index)
    result = list(clips)
    for language, indices in missing.items():
        for index, phones in zip(indices, phonemize([clips[i].transcript for i in indices], language)):
            result[index] = replace(clips[index], phones=phones)
    return result


def phonemize(texts: Sequence[str], language: str) -> list[str]:
    """IPA of each text, without punctuation, by one run of the espeak-ng program.

    Args:
        language: a code such as en, en-gb, de or zh; what follows its first word is ignored.

    Raises:
        InputError: espeak-ng is not installed or does not speak the language.
        VconvError: espeak-ng failed.
    """
    code = language.lower().replace("_", "-").split()[0]
    command = [_espeak_program(), "-q", "--ipa", "-b", "1", "-v", ESPEAK_VOICES.get(code, code)]
    lines = [_DIVIDER]
    for text in texts:
        lines += [_readable(text), _DIVIDER]
    run = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, encoding="utf-8", check=False)
    if "voice does not exist" in run.stderr:
        raise InputError(
            f"language '{language}': espeak-ng does not speak it; 'espeak-ng --voices' lists those it does"
        )
    if run.returncode:
        raise VconvError(f"espeak-ng failed: {' '.join(run.stderr.split())}")
    return _divide(run.stdout.splitlines(), len(texts))


def _espeak_program() -> str:
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError(
            "phones need the program espeak-ng; install it (apt install espeak-ng, brew install espeak-ng)"
        )
    return program


def _readable(text: str) -> str:
    """One line, in which words in capitals are words and not abbreviations to spell."""
    line = " ".join(text.split())
    return line.lower() if line.isupper() else line


def _divide(lines: Sequence[str], count: int) -> list[str]:
    """The output for each of ``count`` texts, which espeak-ng writes as one line a clause."""
    divider = lines[0] if lines else ""
    texts: list[list[str]] = []
    for line in lines:
        if line == divider:
            texts.append([])
        else:
            texts[-1].append(_LANGUAGE_SWITCH.sub("", line).strip())
    if len(texts) != count + 1:
        raise VconvError(f"espeak-ng answered {len(texts) - 1} texts of {count}; run it by hand on the transcripts")
    return [" ".join(" ".join(parts).split()) for parts in texts[:-1]]
