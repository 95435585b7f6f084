"""A folder of saved voices. Clients name voices, and never files."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

from vconv.errors import InputError, unforeseen
from vconv.features import F0_REFERENCE, FRAME_RATE
from vconv.files import readable
from vconv.voice import VOICE_SUFFIX, Voice
from vconv.web.inputs import Refusal

MAX_VOICE_NAME = 60
_FORBIDDEN = frozenset('/\\:*?"<>|')  # in file names of one system or another
_RESERVED = frozenset(("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))))


def default_folder() -> Path:
    """Where voices are kept unless `--voices` says otherwise: in the user's data folder."""
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "vconv" / "voices"


def check_name(name: str) -> str:
    """A new voice's name, without spaces around it.

    Raises:
        Refusal: no file can have it on every system.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > MAX_VOICE_NAME:
        raise Refusal(400, f"a voice needs a name of 1 to {MAX_VOICE_NAME} characters")
    bad = any(character in _FORBIDDEN or unicodedata.category(character)[0] == "C" for character in name)
    if bad or name.startswith(".") or name.endswith(".") or name.split(".")[0].lower() in _RESERVED:
        raise Refusal(400, 'a voice cannot have this name; leave out / \\ : * ? " < > | and dots at the ends')
    return name


class Library:
    """Voices by name: the stems of the .npz files in a folder.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another with --voices") from error
        self._described: dict[tuple[str, int, int], dict[str, Any]] = {}
        self._naming = threading.Lock()  # held from the choice of a name until the file has it

    def describe(self) -> list[dict[str, Any]]:
        """All voices for the page, by name. A file that is no voice has an ``error``."""
        return [self._describe(path) for path in sorted(self._files().values(), key=lambda path: path.stem.lower())]

    def path(self, name: str) -> Path:
        """The file of a voice.

        Raises:
            Refusal: there is none of this name.
        """
        path = self._files().get(unicodedata.normalize("NFC", name))
        if path is None:
            raise Refusal(404, f"there is no voice '{name[:MAX_VOICE_NAME]}'; reload the page")
        return path

    def check_free(self, name: str) -> str:
        """The name of a new voice, as ``check_name`` gives it.

        Raises:
            Refusal: the name is taken or impossible.
        """
        name = check_name(name)
        if name.lower() in self._taken():
            raise Refusal(409, f"there is a voice '{name}' already; choose another name")
        return name

    def save(self, voice: Voice, name: str) -> str:
        """Write a new voice; returns its name, which is another, such as "Anna (2)", where a voice has it by now."""
        with self._naming:
            taken, name = self._taken(), check_name(name)
            others = (f"{name} ({number})" for number in itertools.count(2))
            free = next(one for one in itertools.chain([name], others) if one.lower() not in taken)
            voice.save(self._place(free), overwrite=False)
        return free

    def rename(self, name: str, new: str) -> None:
        """Give a voice another name."""
        with self._naming:
            self.path(name).rename(self._place(self.check_free(new)))

    def delete(self, name: str) -> None:
        """Delete a voice's file."""
        self.path(name).unlink(missing_ok=True)

    def _place(self, name: str) -> Path:
        return self.folder / f"{name}{VOICE_SUFFIX}"

    def _taken(self) -> set[str]:
        return {name.lower() for name in self._files()}

    def _files(self) -> dict[str, Path]:
        found = (path for path in self.folder.iterdir() if path.suffix.lower() == VOICE_SUFFIX and path.is_file())
        return {_name(path): path for path in found if not path.name.startswith(".")}

    def _describe(self, path: Path) -> dict[str, Any]:
        stat = path.stat()
        key = path.name, stat.st_mtime_ns, stat.st_size
        if key not in self._described:
            self._described[key] = {"name": _name(path)} | _facts(path)
        return self._described[key]


def _name(path: Path) -> str:
    return unicodedata.normalize("NFC", readable(path.stem))


def _facts(path: Path) -> dict[str, Any]:
    try:
        voice = Voice.load(path)
        return {
            "register": None if voice.log_f0 is None else round(F0_REFERENCE * 2**voice.log_f0),  # Hz
            "seconds": 0.0 if voice.reference is None else round(voice.reference.mel.shape[1] / FRAME_RATE, 1),
            "tuned": voice.adapter is not None,
        }
    except Exception as error:  # one file must not hide the others
        told = error if isinstance(error, InputError) else unforeseen(error, str(path))
        return {"error": str(told).replace(str(path), _name(path))}
