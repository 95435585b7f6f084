#!/usr/bin/env python3
"""The tracker and its teacher on held-out clips, clean and disturbed: ``compare.py corpus.tsv --work pitch.work``.

Prints a table: voiced frames missed, unvoiced frames taken for voiced, frames more than 200 cents off, each against
the teacher's F0 of the clean clip; and CPU seconds for a second of sound.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vconv import audio
from vconv.audio.resampling import fit_length
from vconv.data.augmentation.wave import band_limited, clipped, colored, crowd, mix, reverberant
from vconv.data.manifest import TRAIN, VALID
from vconv.errors import run_script
from vconv.features import F0_MAX, F0_MIN, HOP_LENGTH, SAMPLE_RATE, frame_count, log_mel
from vconv.frontends.pitch import PitchTracker, low_level

sys.path.insert(0, str(Path(__file__).resolve().parent))
from train import Labelled, label

Disturb = Callable[[np.ndarray, Callable[[int], list[np.ndarray]], np.random.Generator], np.ndarray]
CONDITIONS: dict[str, Disturb] = {
    "clean": lambda wave, others, rng: wave,
    "white noise, 15 dB": lambda wave, others, rng: mix(wave, colored(len(wave), 0.0, rng), 15.0),
    "pink noise, 5 dB": lambda wave, others, rng: mix(wave, colored(len(wave), 0.5, rng), 5.0),
    "four talkers, 15 dB": lambda wave, others, rng: mix(wave, crowd(others(4), len(wave), rng), 15.0),
    "four talkers, 5 dB": lambda wave, others, rng: mix(wave, crowd(others(4), len(wave), rng), 5.0),
    "one talker, 10 dB": lambda wave, others, rng: mix(wave, crowd(others(1), len(wave), rng), 10.0),
    "room, 0.5 s": lambda wave, others, rng: reverberant(wave, 0.5, 3.0, rng),
    "telephone": lambda wave, others, rng: band_limited(wave, 300.0, 3400.0),
    "clipped": lambda wave, others, rng: clipped(wave, 0.2),
}


class Teacher(PitchTracker):
    """The same tracker with swift-f0 as its network."""

    def __init__(self) -> None:
        from swift_f0 import SwiftF0

        self._detector = SwiftF0(threads=1)

    def track(self, wave: np.ndarray) -> np.ndarray:
        padded = fit_length(wave, frame_count(len(wave)) * HOP_LENGTH)
        found = self._detector.detect(padded, SAMPLE_RATE, F0_MIN, F0_MAX)
        return np.stack([found.pitch_hz, found.confidence, low_level(log_mel(wave))]).astype(np.float32)


def measure(tracker: PitchTracker, corpus: Labelled, clips: Sequence[int], disturb: Disturb) -> tuple[float, ...]:
    talkers = [index for index, clip in enumerate(corpus.clips) if clip[4] == TRAIN]
    missed, false, off, counts, busy, seconds = 0, 0, [], np.zeros(2, int), 0.0, 0.0
    for number, index in enumerate(clips):
        rng = np.random.default_rng(number)
        others = lambda count, rng=rng: [corpus.crop(one, 0, 300) for one in rng.choice(talkers, count)]  # noqa: E731
        _, samples, first, frames, _ = corpus.clips[index]
        wave = disturb(fit_length(corpus.crop(index, 0, frames), samples), others, rng)
        wave = audio.normalize(wave, SAMPLE_RATE).astype(np.float32)
        begun = time.process_time()
        found = tracker(wave)
        busy, seconds = busy + time.process_time() - begun, seconds + samples / SAMPLE_RATE
        wanted = corpus.f0[first : first + frames]
        both = (found > 0) & (wanted > 0)
        missed, false = missed + ((found == 0) & (wanted > 0)).sum(), false + ((found > 0) & (wanted == 0)).sum()
        counts += [(wanted > 0).sum(), (wanted == 0).sum()]
        off.append(np.abs(np.log2(found[both] / wanted[both])) * 1200 > 200)
    return missed / counts[0], false / counts[1], float(np.concatenate(off).mean()), busy / seconds


def compare(arguments: argparse.Namespace) -> None:
    corpus = label(arguments.manifest, arguments.work)
    clips = [index for index, clip in enumerate(corpus.clips) if clip[4] == VALID and clip[3] > 100][: arguments.clips]
    trackers = {"pitch.onnx": PitchTracker(), "swift-f0": Teacher()}
    print("| | network | missed | false | over 200 cents | CPU s a second |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for condition, disturb in CONDITIONS.items():
        for name, tracker in trackers.items():
            missed, false, off, cost = measure(tracker, corpus, clips, disturb)
            print(f"| {condition} | {name} | {missed:.1%} | {false:.1%} | {off:.2%} | {cost:.4f} |", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="of vconv prepare")
    parser.add_argument("--work", type=Path, required=True, help="folder with the labelled recordings of train.py")
    parser.add_argument("--clips", type=int, default=80)
    arguments = parser.parse_args(words)
    return run_script("compare", lambda: compare(arguments))


if __name__ == "__main__":
    sys.exit(main())
