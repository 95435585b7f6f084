"""The job of a conversion: one file after another to one voice."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from vconv.batch.jobs import Job, Made
from vconv.errors import InputError
from vconv.inference.converter import Target
from vconv.inference.loading import load
from vconv.inference.output import Progress
from vconv.model_folder import default_model
from vconv.voices.check import UNUSUAL, Checker, Verdict
from vconv.voices.mixing import target_voice
from vconv.voices.population import population_of


class Conversion:
    """Converts one file after another to one voice, which is made here, once.

    With ``check``, and where the model has a population of voices, it remarks on sources that are no speech.
    Sent to another process it takes the voice along and leaves the networks behind, which are loaded there.

    Raises:
        InputError: the model or the target cannot be used.
    """

    def __init__(
        self,
        model: Path | None,
        device: str,
        threads: int | None,
        target: list[Target],
        pitch: float = 0.0,
        keep_pitch: bool = False,
        check: bool = False,
        overwrite: bool = True,
    ) -> None:
        self._load = (model, device, threads)
        self._converter = load(*self._load)
        self._voice = target_voice(self._converter, target)
        self._check = check
        self._checker: Checker | None = None
        self._pitch, self._keep_pitch, self._overwrite = pitch, keep_pitch, overwrite

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_converter": None, "_checker": None}

    def elsewhere(self, device: str, threads: int | None) -> Conversion:
        """The same, for processes that have another device."""
        other = copy.copy(self)
        other._load = (self._load[0], device, threads)
        return other

    def __call__(self, job: Job, progress: Progress = lambda _: None) -> float | Made:
        if self._converter is None:
            self._converter = load(*self._load)
        verdicts: list[Verdict] = []
        checker = self._ready_checker() if self._check else None
        seconds = self._converter.convert_file(
            job.source,
            self._voice,
            job.output,
            pitch=self._pitch,
            keep_pitch=self._keep_pitch,
            progress=progress,
            overwrite=self._overwrite,
            inspect=(lambda analysis: verdicts.append(checker.analysed(analysis))) if checker else None,
        )
        verdict = verdicts[0] if verdicts else None
        # Of a source that was converted only the beginning can be silent.
        if verdict is None or verdict.silent or verdict.score >= UNUSUAL:
            return seconds
        return Made(seconds, f"{job.source}: is {verdict.text} (score {verdict.score:.2f}); converted all the same")

    def _ready_checker(self) -> Checker | None:
        """Made when it is first needed; None for a model without a population that fits."""
        if self._checker is None:
            try:
                self._checker = Checker(self._converter, population_of(self._load[0] or default_model()))
            except InputError:
                self._check = False
        return self._checker
