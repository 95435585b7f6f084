"""From a corpus on a disk to its manifest, in two passes, neither of which holds the clips in memory.

The first decodes every file, in parallel processes, and writes what can be used to a hidden file; the second
decides over splits and writes the manifest, which takes its name when it is complete. What is remembered
grows with the speakers and the aligned groups, not with the files. A run that was killed is repeated.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from vconv import audio
from vconv.data.manifest import phones
from vconv.data.manifest.layouts import Finding, Layout, Microphone, Note, Skipped, open_source
from vconv.data.manifest.table import (
    SPLITS,
    TEST,
    TRAIN,
    VALID,
    Clip,
    check_split,
    fits_a_line,
    open_table,
    scan_manifest,
    write_clips,
    write_manifest,
)
from vconv.errors import InputError
from vconv.files import name_digest, remove_leftovers, temporary_beside
from vconv.processes import map_in_order

MIN_SECONDS = 0.5  # shorter clips are of no use in training
CHUNK = 32  # files that a process is given at a time


@dataclass
class Part:
    """What one split holds."""

    clips: int = 0
    seconds: float = 0.0
    transcripts: int = 0
    phones: int = 0
    speakers: dict[str, str] = field(default_factory=dict)  # with their sex
    groups: set[str] = field(default_factory=set)

    def add(self, clip: Clip) -> None:
        self.clips += 1
        self.seconds += clip.seconds or 0.0
        self.transcripts += bool(clip.transcript)
        self.phones += bool(clip.phones)
        self.speakers[clip.speaker] = clip.sex
        if clip.group:
            self.groups.add(clip.group)

    def summary(self) -> str:
        sexes = Counter(self.speakers.values())
        known = f" ({sexes['f']} f, {sexes['m']} m)" if sexes["f"] or sexes["m"] else ""
        return (
            f"{self.clips} clips, {self.seconds / 3600:.2f} h, {len(self.speakers)} speakers{known}, "
            f"{len(self.groups)} aligned groups, {self.transcripts} with a transcript, {self.phones} with phones"
        )


@dataclass
class Prepared:
    """What ``prepare`` wrote, by split, how many files it left out, and how many folders cannot be read."""

    parts: dict[str, Part] = field(default_factory=lambda: {name: Part() for name in SPLITS})
    skipped: int = 0
    unreadable: int = 0

    def summary(self) -> str:
        """Some lines for people: hours, speakers and what is known of the clips, for each split."""
        lines = [f"{name}: {part.summary()}" for name, part in self.parts.items() if part.clips or name != TEST]
        if self.skipped:
            lines.append(f"skipped: {self.skipped} files")
        if self.unreadable:
            lines.append(f"not looked into: {self.unreadable} folders that cannot be read")
        return "\n".join(lines)


def prepare(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    layout: Layout = "folders",
    columns: Mapping[str, str] | None = None,
    microphone: Microphone = "mic1",
    language: str = "",
    phonemize: bool = False,
    valid_percent: float = 2.0,
    held_out: Mapping[str, str] | None = None,
    min_seconds: float = MIN_SECONDS,
    jobs: int | None = None,
    tell: Callable[[Skipped | Note], None] = lambda remark: None,
    report: Callable[[int], None] = lambda done: None,
) -> Prepared:
    """Look at every file of a corpus and write its manifest.

    Every file is decoded once: what is unreadable, silent or too short is left out and reported with the
    reason, and so is a clip of an aligned group that is not as long as the others of its group.

    Args:
        sources: with the layout "folders", folders of speaker folders, whose clips may have a transcript
            beside them, a ``.txt`` file of the same stem; with "tsv", tables with a header; with "vctk" and
            "libritts", the folder that these corpora (and LibriSpeech) were unpacked into.
        output: the manifest to write.
        columns: for "tsv", {our column: the table's column} where the names differ.
        microphone: for "vctk" of version 0.92, which recording is taken where there are both.
        language: of the clips whose language the source does not tell.
        phonemize: make phones from the transcripts of clips without phones, with the espeak-ng program.
        valid_percent: share of the speakers, and of the aligned groups, kept out of training. The choice
            depends on their names alone. A split that the source has itself overrides it.
        held_out: {speaker: split} of those that are not for training, which overrides both.
        min_seconds: clips shorter than this are left out.
        jobs: processes that decode; None for one a core.
        tell: called with every file left out and everything found to be lacking.
        report: called with the files done so far.

    Raises:
        InputError: a source is missing or not what the layout says, no clip could be used, espeak-ng is
            missing, or the output cannot be written.
        VconvError: a worker process died.
    """
    if not 0 <= valid_percent < 100:
        raise InputError(f"a validation share of {valid_percent} % is impossible; use 0 to 99")
    output = Path(output)
    if output.is_dir():
        raise InputError(f"{output}: is a folder; name the manifest with -o")
    if not output.parent.is_dir():
        raise InputError(f"{output}: the folder {output.parent} does not exist; create it first")
    if phonemize:
        phones.espeak_program()  # seen before the work
    paths = [Path(s) for s in ([sources] if isinstance(sources, (str, os.PathLike)) else sources)]
    source = open_source(layout, paths, columns or {}, microphone)
    result, seen = Prepared(), _Seen(paths[0])

    def remark(finding: Skipped | Note) -> None:
        result.skipped += isinstance(finding, Skipped) and not finding.folder
        result.unreadable += isinstance(finding, Skipped) and finding.folder
        tell(finding)

    remove_leftovers(output)
    with _scratch(output) as scratch:
        findings = _inspect(source.findings, language, min_seconds, jobs or os.cpu_count() or 1, report)
        with _writing(scratch) as file:
            write_clips(file, seen.clips(findings, remark), scratch.parent, source.extra)
        if absent := sorted((held_out or {}).keys() - seen.speakers):
            remark(Note(f"to be held out, but not in this corpus: {', '.join(absent)}"))
        clips = seen.aligned(scan_manifest(scratch), remark)
        clips = _into_splits(clips, held_out, source.has_split, seen, valid_percent)
        if phonemize:
            clips = phones.fill(clips)
        write_manifest(output, _counted(clips, result), source.extra)
    return result


def read_held_out(path: str | os.PathLike[str]) -> dict[str, str]:
    """{speaker: split} of a table with these two columns.

    Raises:
        InputError: it cannot be read, lacks a column, or names another split.
    """
    table = open_table(Path(path))
    for column in ("speaker", "split"):
        if column not in table.header:
            raise InputError(f"{path}: line 1: no column '{column}'; held-out speakers have speaker and split")
    return {row.values["speaker"]: check_split(row, "split", row.values["split"]) for row in table.rows()}


@contextlib.contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A file's name beside the output; what lies there in the end is removed."""
    scratch = temporary_beside(output)
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[TextIO]:
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written in ({error.strerror})") from error


# ---------------------------------------------------------------- the first pass: looking at the files


def _inspect(
    findings: Iterator[Finding], language: str, min_seconds: float, jobs: int, report: Callable[[int], None]
) -> Iterator[Finding]:
    """The findings, in order, with each clip decoded: its length and rate, or why it cannot be used."""
    look = partial(_look_at, language=language, min_seconds=min_seconds)
    chunks = iter(lambda: list(islice(findings, CHUNK)), [])
    here = map(look, islice(chunks, 1))  # a corpus of a few files is not worth starting processes for
    done = 0
    for finding in chain.from_iterable(chain(here, map_in_order(look, chunks, jobs))):
        yield finding
        if not isinstance(finding, Note):
            done += 1
            report(done)


def _look_at(findings: list[Finding], language: str, min_seconds: float) -> list[Finding]:
    return [_measure(f, language, min_seconds) if isinstance(f, Clip) else f for f in findings]


def _measure(clip: Clip, language: str, min_seconds: float) -> Clip | Skipped:
    if not fits_a_line(clip):
        return Skipped(clip.path, "its name or a text of it holds a tab or a line break, which a manifest cannot")
    try:
        reader = audio.BlockReader(clip.path)
        meter = audio.LoudnessMeter(reader.rate)
        for block in reader:
            meter.add(block)
    except InputError as error:
        return Skipped(clip.path, str(error).removeprefix(f"{clip.path}: "))
    seconds = reader.source_samples / reader.source_rate
    if seconds < min_seconds:
        return Skipped(clip.path, f"is too short ({seconds:.2f} s)")
    if audio.is_silent(loudness := meter.loudness()):
        return Skipped(clip.path, f"is {reader.why_silent(loudness)}")
    rate = clip.sample_rate or reader.source_rate
    return replace(clip, seconds=round(seconds, 3), sample_rate=rate, language=clip.language or language)


class _Seen:
    """What the first pass remembers for the second."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self.speakers: set[str] = set()
        self.single_speakers: set[str] = set()  # of clips in no aligned group
        self._lengths: dict[str, Counter[float | None]] = {}  # of the clips of a group

    @property
    def groups(self) -> set[str]:
        return set(self._lengths)

    def clips(self, findings: Iterable[Finding], remark: Callable[[Skipped | Note], None]) -> Iterator[Clip]:
        """The clips among the findings; the others are remarked upon.

        Raises:
            InputError: there is no clip.
        """
        first: Skipped | None = None
        for finding in findings:
            if not isinstance(finding, Clip):
                first = first or (finding if isinstance(finding, Skipped) else None)
                remark(finding)
                continue
            self.speakers.add(finding.speaker)
            if finding.group:
                self._lengths.setdefault(finding.group, Counter())[finding.seconds] += 1
            else:
                self.single_speakers.add(finding.speaker)
            yield finding
        if not self.speakers:
            why = f"; the first problem: {first.path}: {first.reason}" if first else ""
            raise InputError(f"{self._source}: no clip could be used{why}")

    def aligned(self, clips: Iterable[Clip], remark: Callable[[Skipped], None]) -> Iterator[Clip]:
        """Without the clips that are longer or shorter than most of their aligned group."""
        usual = {group: counts.most_common(1)[0][0] for group, counts in self._lengths.items()}
        for clip in clips:
            if clip.group and clip.seconds != usual[clip.group]:
                wrong, right = f"{clip.seconds} s long", f"'{clip.group}' {usual[clip.group]} s"
                remark(Skipped(clip.path, f"is {wrong}, but its aligned group {right}"))
            else:
                yield clip


def _counted(clips: Iterable[Clip], result: Prepared) -> Iterator[Clip]:
    for clip in clips:
        result.parts[clip.split].add(clip)
        yield clip


# ---------------------------------------------------------------- the second pass: splits


def _into_splits(
    clips: Iterable[Clip], held_out: Mapping[str, str] | None, has_split: bool, seen: _Seen, valid_percent: float
) -> Iterator[Clip]:
    if held_out is not None:
        return (replace(clip, split=held_out.get(clip.speaker, TRAIN)) for clip in clips)
    if has_split:
        return iter(clips)
    return _keep_out(clips, seen.single_speakers, seen.groups, valid_percent)


def split_clips(clips: Sequence[Clip], valid_percent: float) -> list[Clip]:
    """Put whole speakers, and of aligned clips whole groups, into validation; the same ones every time.

    An aligned clip goes with its group: new sentences are what it validates, and its speakers stay in
    training. Every other clip goes with its speaker. The choice hashes the names, so a corpus that grows
    keeps its split.
    """
    speakers = {clip.speaker for clip in clips if not clip.group}
    return list(_keep_out(clips, speakers, {clip.group for clip in clips if clip.group}, valid_percent))


def _keep_out(clips: Iterable[Clip], speakers: set[str], groups: set[str], percent: float) -> Iterator[Clip]:
    speakers, groups = _chosen(speakers, percent), _chosen(groups, percent)
    for clip in clips:
        kept_out = clip.group in groups if clip.group else clip.speaker in speakers
        yield replace(clip, split=VALID if kept_out else TRAIN)


def _chosen(names: set[str], percent: float) -> set[str]:
    """About ``percent`` of the names; at least one of two or more, never all."""
    if percent <= 0 or len(names) < 2:
        return set()
    ordered = sorted(names, key=_position)
    count = sum(_position(name) < percent / 100 for name in ordered)
    return set(ordered[: min(max(count, 1), len(names) - 1)])


def _position(name: str) -> float:
    """A place in 0 to 1 that depends on the name alone."""
    return int(name_digest(name)[:16], 16) / 2**64
