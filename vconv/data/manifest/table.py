"""The manifest's table: reading and writing it line by line, so that a list of millions of clips fits in memory."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

from vconv.errors import InputError
from vconv.files import replacing

TRAIN, VALID, TEST = "train", "valid", "test"
SPLITS = (TRAIN, VALID, TEST)


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
    extra: tuple[tuple[str, str], ...] = ()  # other columns that the table has, with their values; no empty ones

    def text(self, column: str) -> str:
        """What a column of any name says of the clip, empty where that is unknown."""
        if column in COLUMNS:
            return _format_value(getattr(self, column))
        return dict(self.extra).get(column, "")


COLUMNS = tuple(f.name for f in fields(Clip) if f.name != "extra")
REQUIRED = ("path", "speaker")
_BREAKS = re.compile(r"[\t\r\n]")


def unseen(clips: Iterable[Clip], split: str) -> list[Clip]:
    """The clips of a split whose speakers have none in training: an aligned group is kept out without its speakers."""
    clips = list(clips)
    trained = {clip.speaker for clip in clips if clip.split == TRAIN}
    return [clip for clip in clips if clip.split == split and clip.speaker not in trained]


# ---------------------------------------------------------------- any tab-separated table


@dataclass(frozen=True)
class Row:
    """A line of a table, and how messages name it."""

    where: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A tab-separated table with a header; ``rows`` reads it from the beginning."""

    path: Path
    header: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """Raises InputError for a line without as many values as the header has names."""
        for number, line in enumerate(_lines(self.path), 1):
            if number == 1 or not line.strip():
                continue
            where, cells = f"{self.path}: line {number}", line.split("\t")
            if len(cells) != len(self.header):
                raise InputError(f"{where}: {len(cells)} values, but the header names {len(self.header)} columns")
            yield Row(where, dict(zip(self.header, (cell.strip() for cell in cells))))


def open_table(path: Path) -> Table:
    """A table of whatever columns.

    Raises:
        InputError: it cannot be read, or names a column twice.
    """
    header = tuple(name.strip() for name in next(_lines(path), "").split("\t"))
    if any(map(_is_no_text, header)):
        raise InputError(f"{path}: is not UTF-8 text; a manifest is a tab-separated table")
    if doubles := [name for name, count in Counter(header).items() if count > 1]:
        raise InputError(f"{path}: line 1: the column '{doubles[0]}' occurs twice")
    return Table(path, header)


def _lines(path: Path) -> Iterator[str]:
    try:
        # Split at "\n" alone: the rarer breaks, at which splitlines() splits too, may stand inside a value.
        # Names of files may be no UTF-8, and stand in a manifest as they are; `_make_clip` allows nothing else.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make a manifest with 'vconv prepare'") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


# ---------------------------------------------------------------- reading clips


def read_manifest(path: str | os.PathLike[str]) -> list[Clip]:
    """The clips of a manifest, their paths made absolute or relative to the working folder as ``path`` is.

    Raises:
        InputError: the file is missing or no manifest, or a value is wrong; names the line and the column.
    """
    return list(scan_manifest(path))


def scan_manifest(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> Iterator[Clip]:
    """As ``read_manifest``, one clip after the other. ``columns`` maps our columns to the table's other names."""
    table = open_table(Path(path))
    columns = columns or {}
    names = {ours: columns[ours] if columns.get(ours) in table.header else ours for ours in COLUMNS}
    extra = extra_columns(table, columns)
    for ours in REQUIRED:
        if names[ours] not in table.header:
            raise InputError(f"{path}: line 1: no column '{names[ours]}'; a manifest has at least path and speaker")
    for row in table.rows():
        yield _make_clip(row, names, extra, table.path.parent)


def extra_columns(table: Table, columns: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of a table that are none of ours, and that ``columns`` does not make ours."""
    known = {"", *COLUMNS, *columns.values()}
    return tuple(name for name in table.header if name not in known)


def _make_clip(row: Row, names: Mapping[str, str], extra: Sequence[str], folder: Path) -> Clip:
    cells = {ours: row.values.get(theirs, "") for ours, theirs in names.items()}
    for ours in REQUIRED:
        if not cells[ours]:
            raise InputError(f"{row.where}: column '{names[ours]}': is empty")
    if "\0" in cells["path"]:
        raise InputError(f"{row.where}: column '{names['path']}': holds a NUL character, which no file name does")
    for name, text in row.values.items():
        if name != names["path"] and _is_no_text(text):
            raise InputError(f"{row.where}: column '{name}': is not UTF-8 text")
    texts = {key: cells[key] for key in ("speaker", "transcript", "phones", "group", "language", "sex")}
    return Clip(
        path=folder / cells["path"],
        seconds=_number(row, names["seconds"], cells["seconds"]),
        sample_rate=_rate(row, names["sample_rate"], cells["sample_rate"]),
        split=check_split(row, names["split"], cells["split"]),
        extra=tuple((name, text) for name in extra if (text := row.values[name])),
        **texts,
    )


def line_places(path: Path) -> Iterator[int]:
    """Where the line of each clip begins in the manifest, in bytes, in the order of ``scan_manifest``."""
    with path.open("rb") as file:
        place = len(file.readline())
        for line in file:
            if line.decode("utf-8", "surrogateescape").strip():
                yield place
            place += len(line)


def clips_at(path: Path, places: Iterable[int]) -> Iterator[Clip]:
    """The clips whose lines begin at these places of a manifest; see ``line_places``."""
    table = open_table(path)
    names, extra = {ours: ours for ours in COLUMNS}, extra_columns(table, {})
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            cells = file.readline().decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
            row = Row(f"{path}: byte {place}", dict(zip(table.header, (cell.strip() for cell in cells))))
            yield _make_clip(row, names, extra, path.parent)


def clip_of(where: str, values: Mapping[str, str]) -> Clip:
    """The clip of some columns' values; ``where`` begins a message. Raises InputError if one is wrong."""
    names = {ours: ours for ours in COLUMNS}
    return _make_clip(Row(where, values), names, [name for name in values if name not in COLUMNS], Path())


def _is_no_text(value: str) -> bool:
    """Whether a value was read from bytes that are not UTF-8."""
    return any("\udc80" <= character <= "\udcff" for character in value)


def check_split(row: Row, column: str, text: str) -> str:
    """The name of a split; an empty one is the training part.

    Raises:
        InputError: it is another.
    """
    if text not in ("", *SPLITS):
        raise InputError(f"{row.where}: column '{column}': '{text}' is no split; use {', '.join(SPLITS)}")
    return text or TRAIN


def _number(row: Row, column: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{row.where}: column '{column}': '{text}' is not a positive number")
    return value


def _rate(row: Row, column: str, text: str) -> int | None:
    value = _number(row, column, text)
    return None if value is None else round(value)


# ---------------------------------------------------------------- writing


def write_manifest(path: str | os.PathLike[str], clips: Iterable[Clip], extra: Sequence[str] = ()) -> None:
    """Write a manifest, whole or not at all. Clips below its folder get relative paths, others absolute ones.

    Of the clips' other columns, those named in ``extra`` are written.

    Raises:
        InputError: the folder is missing or not writable, or a value cannot stand in a table.
    """
    manifest = Path(path)
    with (
        replacing(manifest) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        write_clips(file, clips, manifest.parent, extra)


def write_clips(file: TextIO, clips: Iterable[Clip], folder: Path, extra: Sequence[str] = ()) -> None:
    """Header and lines of a manifest that lies in ``folder``."""
    folder, columns = Path(os.path.abspath(folder)), (*COLUMNS, *extra)
    file.write("\t".join(columns) + "\n")
    for clip in clips:
        if not fits_a_line(clip):
            raise InputError(f"{clip.path}: a value holds a tab or a line break, which a manifest cannot")
        file.write("\t".join(_cells(clip, folder, columns)) + "\n")


def fits_a_line(clip: Clip) -> bool:
    """Whether no value of the clip holds a tab or a line break."""
    return not any(_BREAKS.search(clip.text(column)) for column in (*COLUMNS, *dict(clip.extra)))


def _cells(clip: Clip, folder: Path, columns: Sequence[str]) -> list[str]:
    place = Path(os.path.abspath(clip.path))  # not resolve(): a link inside the corpus stays the path that it is
    if place.is_relative_to(folder):
        place = place.relative_to(folder)
    return [place.as_posix(), *(clip.text(column) for column in columns if column != "path")]


def _format_value(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
