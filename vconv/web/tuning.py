"""Tunes a voice as `vconv finetune` does, with the progress of a job. Needs the train extra."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vconv.inference.converter import Converter
from vconv.inference.targets import speech_of
from vconv.voice import Voice
from vconv.voices.population import people_of
from vconv.web.jobs import Job


def tune(folder: Path, converter: Converter, clips: list[Path], threads: int, job: Job) -> Voice:
    """A voice with an adapter trained on its clips.

    Raises:
        InputError: a clip cannot be used, or there is too little speech.
        Cancelled: the job is to stop.
    """
    from vconv.training import finetune as tuning

    network = tuning.load_model(folder, threads)
    voice = converter.voice([*clips])
    speech = [converter.speech_features(clip) for clip in clips]
    perceptual = tuning.load_perceptual(folder, network.config, [speech_of(clip) for clip in clips])
    config = tuning.FinetuneConfig()
    job.total = config.steps

    def count(finished: int, total: int | None = None) -> None:
        job.advance(finished - job.done)

    tuned = tuning.finetune(network, speech, voice.embedding, config, count, people_of(folder), perceptual)
    return dataclasses.replace(voice, adapter=tuned.adapter, model=converter.model)
