"""Whether files are as they were written: their SHA-256 against a record, remembered while size and time stay the same.

Hashing the included model takes about 0.1 s, much of a start-up, and so happens at the first use after a change.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from vconv.errors import InputError
from vconv.files import digest, write_text
from vconv.untrusted import read_json

SLOW_SECONDS = 0.03  # hashing that takes longer is remembered
_RACY_SECONDS = 2.0  # a file that was changed so recently may change again without another time
_REMEMBERED = 1000  # files at most

_Memory = dict[str, list]  # path -> size, time of change in ns, digest


def check_digests(folder: Path, expected: Mapping[str, str]) -> None:
    """Compare files of a folder with their recorded digests.

    Args:
        expected: SHA-256 in hexadecimal by file name.

    Raises:
        InputError: a file is missing, unreadable, or not as recorded.
    """
    memory, found, seconds = _recall(), {}, 0.0
    for name, wanted in expected.items():
        path = folder / name
        state = _state(path)
        place = os.path.abspath(path)
        known = memory.get(place)
        if known == [*state, wanted]:
            continue
        begun = time.perf_counter()
        own = digest(path)
        seconds += time.perf_counter() - begun
        if own != wanted:
            raise InputError(
                f"{path}: is damaged or was changed, as config.json records another digest; "
                "export or download the model again"
            )
        if time.time() - state[1] / 1e9 > _RACY_SECONDS:
            found[place] = [*state, wanted]
    if found and seconds > SLOW_SECONDS:
        _remember(memory | found)


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: is missing or unreadable; export or download the model again") from error
    return found.st_size, found.st_mtime_ns


def _place() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vconv" / "verified.json"


def _recall() -> _Memory:
    """What is remembered: nothing where there is no such file, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # RuntimeError: nobody's home
        memory = read_json(_place())
        return memory if isinstance(memory, dict) else {}
    return {}


def _remember(memory: _Memory) -> None:
    latest = dict(list(memory.items())[-_REMEMBERED:])
    with contextlib.suppress(OSError, InputError, RuntimeError):  # a folder that cannot be written to costs time alone
        write_text(_place(), json.dumps(latest))
