"""Conversion jobs: the result as the command line makes it, with measurements and pictures."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from vconv import audio
from vconv.errors import InputError, VconvError
from vconv.features import OUTPUT_RATE
from vconv.inference.analysis import Analysis
from vconv.inference.register import MAX_PITCH
from vconv.voice import Voice
from vconv.web import pictures
from vconv.web.inputs import Refusal, file_name, flag, number, text
from vconv.web.jobs import Job
from vconv.web.library import Library
from vconv.web.models import Loaded, Models
from vconv.web.targets import Target, read_target
from vconv.web.uploads import Envelope, Recording, Uploads

RESULT = "result.wav"  # 32-bit floats, so that each format is encoded from the samples themselves
PICTURES = "pictures.json"
FORMATS = ("wav", "flac", "mp3")


@dataclass(frozen=True)
class Conversion:
    """What to convert, and how."""

    source: Recording
    target: Target
    pitch: float  # semitones
    keep_pitch: bool
    model: str
    draw: bool  # make pictures

    @property
    def label(self) -> str:
        """Stem of the result's file name, as `vconv convert` names it."""
        return file_name(f"{Path(self.source.name).stem}_as_{self.target.label}")

    @property
    def names(self) -> dict[str, str]:
        """What messages call each path."""
        return {**self.target.names, str(self.source.path): self.source.name}

    def command(self, options: list[str]) -> str:
        """The command line that makes the same."""
        words = ["vconv", "convert", _argument(self.source.name)]
        for shown in self.target.shown:
            words += ["--target", _argument(shown)]
        if self.pitch:
            words += ["--pitch", f"{self.pitch:g}"] if self.pitch > 0 else [f"--pitch={self.pitch:g}"]
        words += ["--keep-pitch"] if self.keep_pitch else []
        return shlex.join([*words, *options, "-o", _argument(f"{self.label}.wav")])


def read_conversion(body: dict[str, Any], uploads: Uploads, library: Library, models: Models) -> Conversion:
    """From the JSON of a request.

    Raises:
        Refusal: a field is wrong, or names what is not there.
    """
    pitch = number(body, "pitch", 0.0)
    if abs(pitch) > MAX_PITCH:
        raise Refusal(400, f"a pitch shift of {pitch:g} semitones is out of range; use {-MAX_PITCH:g} to {MAX_PITCH:g}")
    return Conversion(
        uploads.get(body.get("source")),
        read_target(body.get("target"), uploads, library),
        pitch,
        flag(body, "keep_pitch"),
        models.check(text(body, "model", "")),
        flag(body, "draw", True),
    )


def convert(job: Job, conversion: Conversion, loaded: Loaded, command: str) -> dict[str, Any]:
    """Do it; the result for the page. Samples and pictures are files in the job's folder."""
    source, converter = conversion.source, loaded.converter
    found: dict[str, Any] = {}

    def inspect(analysis: Analysis) -> None:
        job.enter("converting")
        if loaded.checker:
            verdict = loaded.checker.analysed(analysis)
            found["check"] = {"score": verdict.score, "text": verdict.text}
        if conversion.draw:
            found["source"] = pictures.of_analysis(analysis)

    job.enter("analysing")
    voice = conversion.target.voice(converter)
    options = {"pitch": conversion.pitch, "keep_pitch": conversion.keep_pitch}
    blocks = converter.stream(source.path, voice, **options, progress=job.advance, inspect=inspect)
    facts = write_result(job, blocks)
    job.enter("measuring")
    result = job.folder / RESULT
    if conversion.draw:
        drawn = {"source": found["source"], "result": pictures.of_file(result, facts["loudness"], loaded.tracker)}
        drawn |= _target_picture(conversion.target, loaded.tracker, job.check)
        (job.folder / PICTURES).write_text(json.dumps(drawn), encoding="utf-8")
    else:
        facts["peaks"] = []  # are drawn with the pictures, and are most of what a job holds in memory
    return {
        **facts,
        "name": conversion.label,
        "command": command,
        "check": found.get("check"),
        "similarity": similarity(loaded, result, voice, source.path),
        "pictures": conversion.draw,
    }


def write_result(job: Job, blocks: Iterator[np.ndarray]) -> dict[str, Any]:
    """Write the samples of a result [n] into the job's folder; its length, loudness and waveform."""
    meter, envelope, samples, peak = audio.LoudnessMeter(OUTPUT_RATE), Envelope(OUTPUT_RATE), 0, 0.0
    with soundfile.SoundFile(job.folder / RESULT, "w", OUTPUT_RATE, 1, "FLOAT", format="WAV") as file:
        for block in blocks:
            file.write(block)
            meter.add(block)
            envelope.add(block)
            samples += len(block)
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
    return {
        "seconds": samples / OUTPUT_RATE,
        "loudness": max(meter.loudness(), -120.0),
        "peak": peak,
        "peaks": [round(float(value), 3) for value in envelope.peaks()],
    }


def similarity(loaded: Loaded, result: Path, target: Voice, source: Path) -> dict[str, float] | None:
    """Cosine similarity of the result's speaker embedding to those of target and source.

    With a population they are the scores of `vconv speakers verify`, and its threshold is given, too. None where the
    result has no voiced speech.
    """
    with contextlib.suppress(VconvError):
        embeddings = np.stack([loaded.converter.embed(result), target.embedding, loaded.converter.embed(source)])
        if loaded.population:
            embeddings = loaded.population.scoring.project(embeddings)
        scores = embeddings[1:] @ embeddings[0]
        found = {"target": float(scores[0]), "source": float(scores[1])}
        return found | ({"threshold": loaded.population.verification.threshold} if loaded.population else {})
    return None


def encode(source: Path, output: Path) -> Path:
    """A result's samples in the format of a suffix, as ``Converter.convert_file`` writes them."""
    with audio.AudioWriter(output, OUTPUT_RATE) as writer:
        for block in audio.BlockReader(source):
            writer.write(block)
    return output


def listening_copy(source: Path, output: Path, seconds: float = pictures.SECONDS) -> Path:
    """A 16-bit mono WAV of the first ``seconds`` for the player, made once."""
    if not output.exists():
        reader = audio.BlockReader(source)
        left = round(seconds * reader.rate)
        with audio.AudioWriter(output, reader.rate) as writer:
            for block in reader:
                writer.write(block[:left])
                left -= len(block)
                if left <= 0:
                    break
    return output


def _target_picture(target: Target, track: pictures.Track, check: Callable[[], None]) -> dict[str, Any]:
    """Of the first clip; a saved voice has none."""
    check()
    path = target.parts[0][0]
    if str(path) not in target.names:
        return {}
    with contextlib.suppress(InputError):
        meter = audio.LoudnessMeter(audio.BlockReader(path).rate)
        for block in audio.BlockReader(path):
            meter.add(block)
        return {"target": pictures.of_file(path, meter.loudness(), track)}
    return {}


def _argument(name: str) -> str:
    """A file name that is not taken for an option."""
    return f"./{name}" if name.startswith("-") else name
