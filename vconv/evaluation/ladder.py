"""Where a model loses: the same clips with one more part of it between recording and result, rung by rung.

1. the recording itself, against another clip of the speaker: what the judges give to perfection
2. through analysis and vocoder; then this copy with one of its faults taken from the recording (see ``oracles``): fine
   magnitudes, phase, or the smooth spectral envelope. What a rung gains over 2 is what that fault costs
3. through all of the model into the speaker's own voice, the clip itself as the target: what the code keeps
4. the same with another clip as the target: what the embedding holds
5. into another speaker's voice: what conversion adds to that
6. through a tokens file, decoded in the voice that is in it: what little over 1 kbit/s holds; for models with codes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import vconv
from vconv import audio
from vconv.data.manifest import Clip
from vconv.errors import InputError
from vconv.evaluation import oracles
from vconv.evaluation.conversion import make_folder
from vconv.evaluation.measure import Report
from vconv.evaluation.pairs import BadRow, Pair, Pairs
from vconv.evaluation.seen import Choice, choose
from vconv.evaluation.text import language_code
from vconv.features import OUTPUT_RATE
from vconv.inference import Converter

RUNGS = (
    "1 recording",
    "2 vocoder",
    "2 vocoder, recording's magnitudes",
    "2 vocoder, recording's phase",
    "2 vocoder, recording's envelope",
    "3 own voice, same clip",
    "4 own voice, other clip",
    "5 other voice",
    "6 tokens, decoded",
)
BITS = "bits_per_second"  # column of the rows: of the tokens file


@dataclass(frozen=True)
class Step:
    """A clip, another of its speaker, and one of another speaker."""

    clip: Clip
    same: Clip
    other: Clip

    @property
    def language(self) -> str:
        """That the clip is in; raises InputError where the manifest has no language code."""
        return language_code(self.clip.language or "en")


def steps(clips: Sequence[Clip], choice: Choice) -> list[Step]:
    """What to measure: each chosen clip, the others of it going round.

    Raises:
        InputError: fewer than two speakers with enough clips.
    """
    # Clips of an aligned group are synthetic as a rule, and share properties that the judges of speakers measure.
    chosen = choose([clip for clip in clips if not clip.group], choice)
    speakers = list(dict.fromkeys(clip.speaker for clip in chosen))
    by_speaker = {name: [clip for clip in chosen if clip.speaker == name] for name in speakers}
    found = []
    for number, name in enumerate(speakers):
        own = by_speaker[name]
        for k, clip in enumerate(own):
            other = by_speaker[speakers[(number + 1 + k % (len(speakers) - 1)) % len(speakers)]]
            found.append(Step(clip, own[(k + 1) % len(own)], other[k % len(other)]))
    return found


def climb(converter: Converter, todo: Sequence[Step], folder: Path, report: Report) -> Pairs:
    """Make every rung's results, into ``folder``: rows to be judged, the rung in the place of the system.

    Raises:
        InputError: the folder cannot be written to.
    """
    make_folder(folder)
    pairs = Pairs()
    for number, step in enumerate(todo):
        try:
            for target, result, rung, extra in _rungs(converter, step, folder / f"{number:04d}"):
                pairs.good.append(
                    Pair(
                        line=len(pairs.good) + 1,
                        source=step.clip.path,
                        target=target,
                        converted=result,
                        transcript=step.clip.transcript,
                        language=step.language,
                        system=rung,
                        extra=extra,
                    )
                )
        except InputError as error:
            pairs.bad.append(BadRow(number + 1, str(error)))
        report(number + 1, len(todo))
    return pairs


def _rungs(converter: Converter, step: Step, stem: Path) -> list[tuple[Path, Path, str, tuple[tuple[str, str], ...]]]:
    """Target, result and name of each rung, and what else there is to say of it."""
    source, same, other = step.clip.path, step.same.path, step.other.path
    rows = [(same, source, RUNGS[0], ())]
    for wave, rung, name in zip(_copies(converter, source), RUNGS[1:5], ("vocoder", "magnitudes", "phase", "envelope")):
        result = stem.with_name(f"{stem.name}_{name}.wav")
        audio.write(result, wave, OUTPUT_RATE)
        rows.append((same, result, rung, ()))
    for target, rung, name in ((source, RUNGS[5], "self"), (same, RUNGS[6], "own"), (other, RUNGS[7], "other")):
        result = stem.with_name(f"{stem.name}_{name}.wav")
        converter.convert_file(source, target, result)
        rows.append((target, result, rung, ()))
    if converter.has_codes:
        tokens, decoded = converter.encode(source), stem.with_name(f"{stem.name}_tokens.wav")
        converter.decode_file(tokens, decoded)
        rows.append((same, decoded, RUNGS[8], ((BITS, f"{tokens.size.bits_per_second:.0f}"),)))
    return rows


def _copies(converter: Converter, source: Path) -> tuple[np.ndarray, ...]:
    """The vocoder's copy of a recording [N] at 24 kHz, and with the recording's magnitudes, phase and envelope."""
    copy = converter.resynthesize(source)
    recording, rate = audio.read(source)
    recording = audio.resample(recording, rate, OUTPUT_RATE)
    recording = np.pad(recording, (0, max(0, len(copy) - len(recording))))[: len(copy)]
    return (
        copy,
        oracles.with_magnitudes(copy, recording),
        oracles.with_magnitudes(recording, copy),
        oracles.with_envelope(copy, recording),
    )


def prepare(model: Path | None, todo: Sequence[Step], folder: Path, threads: int, report: Report) -> Pairs:
    """All rungs of a model.

    Raises:
        InputError: the model or the folder cannot be used.
    """
    return climb(vconv.load(model, threads=threads), todo, folder, report)
