"""The target voice that a request names: uploads, a voice of the library, or a mixture of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vconv.files import readable
from vconv.inference.converter import Converter
from vconv.voice import Voice
from vconv.voices.mixing import target_voice
from vconv.web.inputs import Refusal, is_number, items
from vconv.web.library import Library
from vconv.web.uploads import Uploads

MOST = 32  # clips of one voice, or voices in a mixture


@dataclass(frozen=True)
class Target:
    """Files, each with a weight in a mixture; as for `vconv convert --target`.

    Args:
        parts: paths and weights; None, for all of them, where they are clips of one voice.
        names: what the client calls each path.
        label: of the whole.
    """

    parts: list[tuple[Path, float | None]]
    names: dict[str, str]
    label: str

    @property
    def arguments(self) -> list[str | Path]:
        """What the command line takes."""
        return [path if weight is None else f"{path}:{weight:g}" for path, weight in self.parts]

    @property
    def shown(self) -> list[str]:
        """The arguments with the names that the client knows."""
        return [
            self.names.get(str(path), readable(str(path))) + ("" if weight is None else f":{weight:g}")
            for path, weight in self.parts
        ]

    def voice(self, converter: Converter) -> Voice:
        """Its voice.

        Raises:
            InputError: a file cannot be used.
        """
        return target_voice(converter, self.arguments)


def read_target(value: Any, uploads: Uploads, library: Library) -> Target:
    """From the JSON of a request: {"uploads": [id]}, {"voice": name} or {"mix": [{"voice" or "upload", "weight"}]}.

    Raises:
        Refusal: it is none of these, or names what is not there.
    """
    if not isinstance(value, dict) or len(value) != 1:
        raise Refusal(400, "choose a target: clips, a voice or a mixture")
    if "voice" in value:
        path = _voice(value, library)
        return Target([(path, None)], {}, path.stem)
    if "uploads" in value:
        recordings = [uploads.get(key) for key in items(value, "uploads", MOST)]
        names = {str(recording.path): recording.name for recording in recordings}
        return Target([(recording.path, None) for recording in recordings], names, Path(recordings[0].name).stem)
    return _read_mix(items(value, "mix", MOST), uploads, library)


def _read_mix(entries: list[Any], uploads: Uploads, library: Library) -> Target:
    parts, names = [], {}
    for entry in entries:
        weight = entry.get("weight") if isinstance(entry, dict) else None
        if not is_number(weight) or not 0 < weight <= 1000:
            raise Refusal(400, "each voice of a mixture needs a weight above 0")
        if "voice" in entry:
            path = _voice(entry, library)
        else:
            recording = uploads.get(entry.get("upload"))
            path = recording.path
            names[str(path)] = recording.name
        parts.append((path, float(f"{weight:g}")))
    label = "+".join(Path(names.get(str(path), path)).stem for path, _ in parts)
    return Target(parts, names, label[:80])


def _voice(value: dict[str, Any], library: Library) -> Path:
    name = value["voice"]
    if not isinstance(name, str):
        raise Refusal(400, "'voice' must be text")
    return library.path(name)
