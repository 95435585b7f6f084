"""Whether a recording is speech like the training data, by how well the model rebuilds a few seconds of it.

The networks were trained on speech only. For anything else the code and the embedding are unusual, and the
decoder cannot rebuild it from them; how far, a logistic regression that `vconv speakers fit` calibrates on speech,
music and noise turns into a score between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.errors import VconvError
from vconv.features import HOP_LENGTH, SAMPLE_RATE
from vconv.inference.analysis import Analysis, Rebuilt
from vconv.inference.converter import Converter
from vconv.inference.targets import check_length
from vconv.voices.population import Density, Population

WINDOW_FRAMES = 250  # 4 s, the loudest of the clip, are looked at ...
SEARCHED_SECONDS = 60.0  # ... within so much of its beginning
UNUSUAL = 0.05  # below this score a clip is taken for something else, and a conversion warns
SPEECH = 0.5  # from this score on it is taken for speech
MEASURES = ("error", "unexplained", "density", "surprise")


@dataclass(frozen=True)
class Verdict:
    """``score`` between 0 and 1: how much a clip is like speech. A silent one has 0."""

    score: float
    silent: bool = False

    @property
    def text(self) -> str:
        """In a word or a few."""
        if self.silent:
            return "silence"
        if self.score < UNUSUAL:
            return "unlike the speech that the model was trained on"
        return "speech" if self.score >= SPEECH else "unusual"


class Checker:
    """Scores clips; made once for many.

    Args:
        converter: the model.
        population: fitted for this model; see ``population_of``.
    """

    def __init__(self, converter: Converter, population: Population) -> None:
        self._converter = converter
        self._population = population

    def clip(self, source: audio.Source) -> Verdict:
        """Score of a recording.

        Raises:
            InputError: it cannot be read, or is shorter than ``audio.MIN_SECONDS``.
        """
        return self._judge(read_beginning(source), None)

    def analysed(self, analysis: Analysis) -> Verdict:
        """The same of a source that is being converted, whose F0 is known already."""
        return self._judge(analysis.wave.read(0, round(SEARCHED_SECONDS * SAMPLE_RATE)), analysis.f0)

    def all_in(self, place: Path) -> Iterator[tuple[Path, Verdict | VconvError]]:
        """Of a recording, or of each in a folder; what cannot be read has an error in place of the verdict."""
        try:
            clips = audio.find_audio(place) if place.is_dir() else [place]
        except VconvError as error:
            yield place, error
            return
        for clip in clips:
            try:
                yield clip, self.clip(clip)
            except VconvError as error:
                yield clip, error

    def _judge(self, wave: np.ndarray, f0: np.ndarray | None) -> Verdict:
        start = loudest(wave)
        wave = stretch(wave, start)
        if audio.is_silent(audio.loudness(wave, SAMPLE_RATE)):
            return Verdict(0.0, silent=True)
        known = None if f0 is None else f0[start : start + WINDOW_FRAMES]
        rebuilt = self._converter.rebuild(audio.normalize(wave, SAMPLE_RATE), known)
        measures = measure(rebuilt, self._population.clips, self._population.code_bits)
        return Verdict(self._population.check.score(measures))


def read_beginning(source: audio.Source) -> np.ndarray:
    """The first ``SEARCHED_SECONDS`` of a source at 16 kHz, without a constant in it: [N].

    Raises:
        InputError: it cannot be read, or is shorter than ``audio.MIN_SECONDS``.
    """
    reader, blocks, left = audio.BlockReader(source, SAMPLE_RATE), [], round(SEARCHED_SECONDS * SAMPLE_RATE)
    for block in reader:
        blocks.append(block[:left])
        left -= len(block)
        if left <= 0:
            break
    wave = audio.join(blocks)
    check_length(reader.name, len(wave), SAMPLE_RATE, "of audio")
    if audio.loudness(wave, SAMPLE_RATE) == -np.inf:  # a constant: what resampling leaves at its ends is no sound
        return np.zeros_like(wave)
    return audio.without_offset(wave)


def loudest(wave: np.ndarray) -> int:
    """Frame where the loudest ``WINDOW_FRAMES`` of a 16 kHz wave [N] begin."""
    frames = len(wave) // HOP_LENGTH
    if frames <= WINDOW_FRAMES:
        return 0
    power = np.square(wave[: frames * HOP_LENGTH], dtype=np.float64).reshape(frames, HOP_LENGTH).mean(axis=1)
    sums = np.concatenate([[0.0], np.cumsum(np.sqrt(power))])  # not of powers: one bang is not loud for 4 s
    return int(np.argmax(sums[WINDOW_FRAMES:] - sums[:-WINDOW_FRAMES]))


def stretch(wave: np.ndarray, start: int) -> np.ndarray:
    """The ``WINDOW_FRAMES`` of a 16 kHz wave from a frame on, as far as there are so many."""
    return wave[start * HOP_LENGTH : (start + WINDOW_FRAMES) * HOP_LENGTH]


# ---------------------------------------------------------------- what is measured


def measure(rebuilt: Rebuilt, clips: Density, code_bits: np.ndarray | None) -> np.ndarray:
    """The ``MEASURES`` of a stretch of sound, [M].

    error: mean absolute error of the rebuilt log-mel, nepers; unexplained: the same as a share of how much the mel
    moves around its mean; density: of the embedding among clips of speech, nepers a dimension; surprise: bits of a
    code, by how often speech has it, [G, K]. Voicing, melody and the rhythm of syllables would add nothing to these,
    and speak against whispering.
    """
    error = float(np.abs(rebuilt.again - rebuilt.mel).mean())
    moves = float(np.abs(rebuilt.mel - rebuilt.mel.mean(axis=1, keepdims=True)).mean())
    density = float(clips.log_density(rebuilt.embedding.astype(np.float64)))
    return np.array([error, error / max(moves, 1e-3), density, _surprise(rebuilt.codes, code_bits)])


def _surprise(codes: np.ndarray | None, code_bits: np.ndarray | None) -> float:
    if codes is None or code_bits is None or len(codes) != len(code_bits):
        return 0.0
    last = code_bits.shape[1] - 1  # stands for codes that speech never had
    return float(np.mean([bits[np.minimum(row, last)] for bits, row in zip(code_bits, codes)]))
