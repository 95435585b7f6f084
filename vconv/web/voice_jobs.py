"""Jobs that make voices for the library, or let one speak."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vconv.voice import Voice
from vconv.voices import sampling as speakers
from vconv.web.converting import convert, read_conversion, write_result
from vconv.web.inputs import Refusal, flag, number, text
from vconv.web.jobs import Job, Work
from vconv.web.library import Library
from vconv.web.models import Loaded, Models
from vconv.web.targets import Target, read_target
from vconv.web.tuning import tune
from vconv.web.uploads import Uploads

SAMPLE = Path(__file__).parent / "static" / "sample.flac"  # what a voice says when no recording is chosen
MAX_SEED = 2**32 - 1
MAX_STEP = 5.0  # standard deviations; the page's sliders end at 3


@dataclasses.dataclass(frozen=True)
class Task:
    """Work that was read from a request.

    Args:
        total: seconds of audio to work through; 0 if unknown.
        names: what messages call each path.
    """

    title: str
    work: Work
    total: float = 0.0
    names: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Workshop:
    """What jobs are made of."""

    uploads: Uploads
    library: Library
    models: Models

    def read(self, kind: str, body: dict[str, Any]) -> Task:
        """The task that a request asks for.

        Raises:
            Refusal: there is no such kind, or a field is wrong.
        """
        kinds: dict[str, Callable[[dict[str, Any], str], Task]] = {
            "convert": self._convert,
            "embed": self._embed,
            "new": self._new,
            "move": self._move,
            "tune": self._tune,
            "preview": self._preview,
        }
        if kind not in kinds:
            raise Refusal(400, "there is no such kind of job")
        return kinds[kind](body, self.models.check(text(body, "model", "")))

    # ------------------------------------------------------------ kinds of jobs

    def _convert(self, body: dict[str, Any], model: str) -> Task:
        conversion = read_conversion(body, self.uploads, self.library, self.models)
        command = conversion.command(self.models.option(model))

        def work(job: Job) -> dict[str, Any]:
            return convert(job, conversion, self._open(job, model), command)

        return Task(conversion.source.name, work, conversion.source.seconds, conversion.names)

    def _embed(self, body: dict[str, Any], model: str) -> Task:
        """A voice from clips, or from a mixture."""
        target = self._target(body)
        return self._voice_task(body, model, lambda job, loaded: target.voice(loaded.converter), target)

    def _new(self, body: dict[str, Any], model: str) -> Task:
        """A voice that nobody has."""
        seed = _seed(body)
        return self._voice_task(body, model, lambda job, loaded: speakers.invent(loaded.known_voices(), seed).voice)

    def _move(self, body: dict[str, Any], model: str) -> Task:
        """A voice some way along the directions in which voices differ."""
        target, steps = self._target(body), _steps(body)
        return self._voice_task(body, model, lambda job, loaded: _moved(target, steps, loaded), target)

    def _tune(self, body: dict[str, Any], model: str) -> Task:
        """A voice whose adapter is trained on a minute or more of speech."""
        if not can_tune():
            raise Refusal(409, "tuning needs the train extra; install it with: pip install 'vconv[train]'")
        target = self._target(body)
        if any(weight is not None for _, weight in target.parts):
            raise Refusal(400, "tune on recordings of one speaker, not on a mixture")

        def make(job: Job, loaded: Loaded) -> Voice:
            job.enter("tuning")
            clips = [path for path, _ in target.parts]
            return tune(loaded.converter, clips, self.models.threads, job)

        return self._voice_task(body, model, make, target)

    def _preview(self, body: dict[str, Any], model: str) -> Task:
        """A target, moved or drawn where the request says so, reads the source or a sample sentence."""
        drawn = flag(body, "new")
        target, steps = None if drawn else self._target(body), _steps(body)
        seed = _seed(body) if drawn else 0
        chosen = self.uploads.get(body["source"]) if body.get("source") else None
        source = chosen.path if chosen else SAMPLE
        pitch = number(body, "pitch", 0.0)

        def work(job: Job) -> dict[str, Any]:
            loaded = self._open(job, model)
            if target is None:
                voice = speakers.invent(loaded.known_voices(), seed).voice
            elif any(steps.values()):
                voice = _moved(target, steps, loaded)
            else:
                voice = target.voice(loaded.converter)
            job.enter("converting")
            return write_result(job, loaded.converter.stream(source, voice, pitch=pitch, progress=job.advance))

        names = (target.names if target else {}) | ({str(chosen.path): chosen.name} if chosen else {})
        return Task("preview", work, chosen.seconds if chosen else 0.0, names)

    # ------------------------------------------------------------ helpers

    def _target(self, body: dict[str, Any]) -> Target:
        return read_target(body.get("target"), self.uploads, self.library)

    def _open(self, job: Job, model: str) -> Loaded:
        job.enter("loading the model")
        return self.models.open(model)

    def _voice_task(
        self, body: dict[str, Any], model: str, make: Callable[[Job, Loaded], Voice], target: Target | None = None
    ) -> Task:
        name = text(body, "name")
        self.library.check_free(name)  # refused before the work

        def work(job: Job) -> dict[str, Any]:
            loaded = self._open(job, model)
            job.enter("making the voice")
            voice = make(job, loaded)
            job.check()
            return {"voice": self.library.save(voice, name)}

        return Task(name, work, names=target.names if target else {})


def can_tune() -> bool:
    """Whether the train extra is installed."""
    return all(find_spec(package) for package in ("torch", "safetensors"))


def _seed(body: dict[str, Any]) -> int:
    seed = number(body, "seed")
    if not 0 <= seed <= MAX_SEED or seed != int(seed):
        raise Refusal(400, f"a seed is a whole number from 0 to {MAX_SEED}")
    return int(seed)


def _steps(body: dict[str, Any]) -> dict[str, float]:
    """Steps by direction: "higher", "brighter" or the number of an axis."""
    steps = body.get("steps", {})
    if not isinstance(steps, dict) or len(steps) > 32:
        raise Refusal(400, "'steps' must be an object")
    found = {key: number(steps, key) for key in steps}
    for key, step in found.items():
        if not (key in ("higher", "brighter") or (key.isascii() and key.isdigit() and len(key) < 4)):
            raise Refusal(400, "there is no such direction")
        if abs(step) > MAX_STEP:
            raise Refusal(400, f"a step of {step:g} is out of range; use {-MAX_STEP:g} to {MAX_STEP:g}")
    return found


def _moved(target: Target, steps: dict[str, float], loaded: Loaded) -> Voice:
    axes = {int(key): step for key, step in steps.items() if key.isdigit() and step}
    higher, brighter = steps.get("higher", 0.0), steps.get("brighter", 0.0)
    voice = target.voice(loaded.converter)
    return speakers.move(voice, loaded.known_voices(), higher=higher, brighter=brighter, axes=axes)
