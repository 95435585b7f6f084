"""Tunes a voice as `vconv finetune` does, with the progress of a job. Needs the train extra."""

from __future__ import annotations

from pathlib import Path

from vconv import api
from vconv.inference.converter import Converter
from vconv.voice import Voice
from vconv.web.jobs import Job


def tune(converter: Converter, clips: list[Path], threads: int, job: Job) -> Voice:
    """A voice with an adapter trained on its clips.

    Raises:
        InputError: a clip cannot be used, or there is too little speech.
        Cancelled: the job is to stop.
    """

    def count(finished: int, total: int) -> None:
        job.total = total
        job.advance(finished - job.done)

    voice, _ = api.finetune(clips, model=converter, threads=threads, report=count)
    return voice
