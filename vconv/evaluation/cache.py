"""What was measured on which file contents by which judge, kept between runs as a line of JSON each."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vconv.errors import InputError
from vconv.files import digest


def default_place() -> Path:
    """In the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vconv" / "evaluation.jsonl"


@functools.cache
def folder_digest(folder: Path, suffixes: tuple[str, ...]) -> str:
    """Of the names and contents of the files of these suffixes in a folder and those below, as a model's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in suffixes)
    lines = (f"{path.relative_to(folder).as_posix()} {digest(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Cache:
    """Values by key. One process writes, each value at once, so an interrupted run has lost nothing.

    ``place`` None keeps values in memory only. Lines that do not parse, as one cut short by a full disk, are
    skipped. Of two lines with one key the later holds.

    Raises:
        InputError: the place cannot be read or written.
    """

    def __init__(self, place: Path | None) -> None:
        self._place = place
        self._values: dict[str, Any] = {}
        if place is None:
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a+", encoding="utf-8") as file:
                file.seek(0)
                text = file.read()
                if text and not text.endswith("\n"):
                    file.write("\n")  # or the next value would join the line that was cut short
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{place}: cannot be used as a cache ({error}); choose another with --cache") from error
        for line in text.splitlines():
            self._take(line)

    def _take(self, line: str) -> None:
        try:
            key, value = json.loads(line)
            self._values[key] = value
        except (ValueError, TypeError):
            return

    def get(self, key: str) -> Any | None:
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value
        if self._place is not None:
            with self._place.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, value], separators=(",", ":")) + "\n")
