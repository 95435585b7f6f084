"""What is to be judged: rows of a table, or the clips of two folders. A bad row is listed, the others stay."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from vconv import audio
from vconv.errors import InputError
from vconv.evaluation.text import language_code

REQUIRED = ("source", "target")
FILES = ("source", "target", "converted", "reference")
COLUMNS = (*FILES, "transcript", "language", "system")
SYSTEM = "vconv"  # whose conversions those of a table without the column `system` are


@dataclass(frozen=True)
class Pair:
    """One conversion: what was said, whose voice it takes on, and the result.

    ``converted`` is None where it is still to be made. ``reference`` is the target speaker's own reading of
    the same words. ``extra`` holds the table's other columns, which are carried along.
    """

    line: int  # of the table, or the running number from 1 where there is none
    source: Path
    target: Path
    converted: Path | None = None
    reference: Path | None = None
    transcript: str = ""
    language: str = "en"  # that is spoken, a code of two or three letters
    system: str = SYSTEM
    extra: tuple[tuple[str, str], ...] = ()

    def files(self) -> list[Path]:
        return [path for path in (self.source, self.target, self.converted, self.reference) if path is not None]


@dataclass(frozen=True)
class BadRow:
    """A row that could not be judged, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass
class Pairs:
    """The rows that can be judged, and those that cannot. ``seconds`` are the clips' lengths, once they were read."""

    good: list[Pair] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    seconds: dict[Path, float] = field(default_factory=dict)


def read_pairs(table: str | os.PathLike[str], language: str = "en") -> Pairs:
    """Rows of a CSV file; its paths are relative to its folder, or absolute.

    ``language`` holds for rows that name none.

    Raises:
        InputError: the table is missing, is no CSV, or lacks a column that it needs.
    """
    path = Path(table)
    rows = _read_rows(path)
    header = [name.strip() for name in rows[0][1]] if rows else []
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(f"{path}: line 1: no column '{missing[0]}'; the columns are {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: line 1: a column occurs twice")
    pairs = Pairs()
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            pairs.bad.append(BadRow(line, f"{len(cells)} values, but the header names {len(header)} columns"))
            continue
        try:
            pairs.good.append(_make_pair(line, dict(zip(header, map(str.strip, cells))), path.parent, language))
        except InputError as error:
            pairs.bad.append(BadRow(line, str(error)))
    if not pairs.good and not pairs.bad:
        raise InputError(f"{path}: has no rows; give at least one pair of a source and a target")
    return pairs


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every row that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no CSV table in UTF-8; its columns are {', '.join(COLUMNS)}") from error


def _make_pair(line: int, cells: dict[str, str], folder: Path, language: str) -> Pair:
    for name in REQUIRED:
        if not cells[name]:
            raise InputError(f"column '{name}' is empty")
    files = {name: folder / cells[name] if cells.get(name) else None for name in FILES}
    return Pair(
        line=line,
        transcript=cells.get("transcript", ""),
        language=language_code(cells.get("language") or language),
        system=cells.get("system") or SYSTEM,
        extra=tuple((name, value) for name, value in cells.items() if name not in COLUMNS),
        **files,
    )


def pair_folders(sources: str | os.PathLike[str], targets: str | os.PathLike[str], language: str = "en") -> Pairs:
    """Each source with one target, in the order of their names, going round until every clip was used.

    Every source with every target would cost the product of the two; a table can ask for that.

    Raises:
        InputError: a folder is missing or holds no audio.
    """
    said, voices = audio.find_audio(sources), audio.find_audio(targets)
    count = max(len(said), len(voices))
    return Pairs([Pair(n + 1, said[n % len(said)], voices[n % len(voices)], language=language) for n in range(count)])


def drop_unusable(pairs: Pairs) -> Pairs:
    """Without the rows one of whose files is missing, no audio, too short or silent. Reads each file once."""
    problems: dict[Path, str] = {}
    checked = Pairs(bad=list(pairs.bad), seconds=dict(pairs.seconds))
    for pair in pairs.good:
        for path in pair.files():
            if path not in checked.seconds and path not in problems:
                try:
                    checked.seconds[path] = _usable_seconds(path)
                except InputError as error:
                    problems[path] = str(error)
        found = [problems[path] for path in pair.files() if path in problems]
        if found:
            checked.bad.append(BadRow(pair.line, found[0]))
        else:
            checked.good.append(pair)
    checked.bad.sort(key=lambda row: row.line)
    return checked


def with_converted(pair: Pair, converted: Path) -> Pair:
    return replace(pair, converted=converted)


def _usable_seconds(path: Path) -> float:
    """Length of a clip that can be judged.

    Raises:
        InputError: it is missing, no audio, too short or silent.
    """
    reader = audio.BlockReader(path)
    meter = audio.LoudnessMeter(reader.rate)
    for block in reader:
        meter.add(block)
    seconds = reader.source_samples / reader.source_rate
    if seconds < audio.MIN_SECONDS:
        raise InputError(f"{path}: {seconds:.2f} s is too short to judge; give at least {audio.MIN_SECONDS} s")
    if audio.is_silent(loudness := meter.loudness()):
        raise InputError(f"{path}: {reader.why_silent(loudness)}")
    return seconds
