"""The process that uses mutated files, one after the other; what it begins and what came of it goes to the runner."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import soundfile

from tests.fuzz.kind import Garbled, Kind, check_sound
from vconv import cli
from vconv.errors import VconvError

COMMAND_SHARE = 0.01  # of the files that go through the command line, too


def generator(seed: int, kind: str, number: int) -> np.random.Generator:
    """Of one mutation; no other one's numbers depend on it."""
    return np.random.default_rng([seed, zlib.crc32(kind.encode()), number])


def work(name: str, seed: int, first: int, step: int, folder: Path, command: bool | None = None) -> None:
    """Mutations ``first``, ``first + step``, ... until the process is ended; of step 0 the first alone.

    Args:
        command: whether the command line is used; None leaves it to chance.
    """
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(folder / "printed.txt", os.O_CREAT | os.O_TRUNC | os.O_RDWR), 1)  # also what native code prints
    os.dup2(1, 2)
    warnings.simplefilter("ignore")
    work_folder = Path(tempfile.mkdtemp(dir=folder))
    kind: Kind = getattr(importlib.import_module(f"tests.fuzz.{name}"), name.capitalize())(work_folder)
    number = first
    while True:
        rng = generator(seed, name, number)
        _tell(events, event="begin", number=number, path="")
        try:
            path = kind.make(rng)
        except Exception:  # a fault of the mutation's own, which is to be mended as well
            _tell(events, event="end", number=number, path="", reason=traceback.format_exc())
            break
        _tell(events, event="begin", number=number, path=str(path))
        reason = _reason(kind, path, rng, folder, rng.random() < COMMAND_SHARE if command is None else command)
        _tell(events, event="end", number=number, path=str(path), reason=reason)
        if not step:
            break
        number += step
    shutil.rmtree(work_folder)


def _reason(kind: Kind, path: Path, rng: np.random.Generator, folder: Path, command: bool) -> str:
    """What was wrong with a file's use; nothing, in an empty text."""
    try:
        with contextlib.suppress(VconvError):
            kind.use(path, rng)
        if command:
            _run(kind, path, folder)
    except Garbled as error:
        return str(error)
    except Exception:  # any other is what is looked for
        return traceback.format_exc()
    return ""


def _run(kind: Kind, path: Path, folder: Path) -> None:
    """The command that reads such files. Raises Garbled where it does not end as it should."""
    output = folder / "result.wav"
    output.unlink(missing_ok=True)
    shutil.rmtree(output.with_suffix(""), ignore_errors=True)
    arguments = kind.command(path, output)
    if not arguments:
        return
    with _printed(folder / "printed.txt") as lines:
        code = cli.run(arguments)
    text = "".join(lines)
    if code not in (0, 1, 2) or "Traceback" in text or "a fault in vconv" in text:
        raise Garbled(f"vconv {' '.join(arguments)}: exit code {code}\n{text}")
    if code and output.exists():
        raise Garbled(f"vconv {' '.join(arguments)}: exit code {code}, and yet there is an output\n{text}")
    if output.exists():
        check_sound(soundfile.read(output)[0])


@contextlib.contextmanager
def _printed(file: Path) -> Iterator[list[str]]:
    """What is printed within the block, to the file that stdout and stderr go to."""
    sys.stdout.flush()
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
    lines: list[str] = []
    yield lines
    sys.stdout.flush()
    sys.stderr.flush()
    lines.append(file.read_text(errors="replace"))


def _tell(events: TextIO, **fields: object) -> None:
    events.write(json.dumps(fields) + "\n")


if __name__ == "__main__":
    name, seed, first, step, folder, command = sys.argv[1:]
    work(name, int(seed), int(first), int(step), Path(folder), {"yes": True, "no": False}.get(command))
