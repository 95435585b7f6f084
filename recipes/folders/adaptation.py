#!/usr/bin/env python3
"""What adapting gains for speakers with half a minute of speech, on other clips of theirs.

    python recipes/folders/adaptation.py split corpus.tsv out/
    python recipes/folders/adaptation.py convert out/ one_shot=pretrained/base adapted=my-model
    vconv evaluate out/pairs.csv -o out/results

`split` takes the speakers of the manifest's validation part, whom no training has seen: most of their clips go to
out/recordings/SPEAKER, to adapt to, the others to out/test.tsv. `convert` converts other speakers' test clips, with the
clips of a speaker's folder as targets, by each model. It prints two measures that are no judges: the cosines of CAM++
embeddings to a test clip of the target, and of ASR features to the source. That test clip is the target in
out/pairs.csv, so neither the training nor the conversion has had what SIM compares with.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

import vconv
from vconv import audio
from vconv.data.manifest import VALID, Clip, read_manifest
from vconv.features import OUTPUT_RATE, SAMPLE_RATE
from vconv.files import write_text
from vconv.model_folder import find_shipped

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from make_pairs import write_table

TEST_SECONDS = 8.0  # of each speaker at least
ADAPTED_SECONDS = 45.0  # of each speaker at most
SOURCES = 5  # converted to each speaker
SHORTEST = 2.0  # s, of a source or of a test clip that stands for its speaker
COLUMNS = ("source", "target", "converted", "transcript", "system", "speaker")
TEST_COLUMNS = ("path", "speaker", "seconds", "transcript", "adapted")


# ---------------------------------------------------------------- split


def divide(clips: Sequence[Clip], rng: random.Random) -> tuple[list[Clip], list[Clip]]:
    """Clips of a speaker to adapt to, and others for the test; without the former where there is too little."""
    order = rng.sample(list(clips), len(clips))
    test: list[Clip] = []
    while order and (sum(c.seconds for c in test) < TEST_SECONDS or sum(c.seconds for c in order) > ADAPTED_SECONDS):
        test.append(order.pop())
    return order, test


def split(manifest: Path, output: Path, count: int) -> None:
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in read_manifest(manifest):
        if clip.split == VALID and not clip.group:
            by_speaker[clip.speaker].append(clip)
    ordered = sorted(by_speaker, key=lambda speaker: -sum(clip.seconds for clip in by_speaker[speaker]))
    shutil.rmtree(output / "recordings", ignore_errors=True)
    rows = []
    for rank, speaker in enumerate(ordered):
        train, test = divide(by_speaker[speaker], random.Random(speaker)) if rank < count else ([], by_speaker[speaker])
        folder = output / "recordings" / speaker.replace("/", "_")
        for clip in train:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / clip.path.name).symlink_to(os.path.abspath(clip.path))
            if clip.transcript:
                write_text(folder / f"{clip.path.stem}.txt", clip.transcript)
        rows += [(os.path.abspath(c.path), folder.name, c.seconds, c.transcript, int(bool(train))) for c in test]
        print(f"{folder.name}: {sum(c.seconds for c in train):.0f} s to adapt to, {sum(c.seconds for c in test):.0f} s")
    write_table(output / "test.tsv", TEST_COLUMNS, rows)


# ---------------------------------------------------------------- convert


def pairs(output: Path) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Test clips of other speakers, and of the target. Spelled letters and commands (AN4) are no sources."""
    with (output / "test.tsv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if float(row["seconds"]) >= SHORTEST]
    found = []
    for speaker in sorted({row["speaker"] for row in rows if row["adapted"] == "1"}):
        rng = random.Random(speaker)
        own = [row for row in rows if row["speaker"] == speaker]
        others = [row for row in rows if row["speaker"] != speaker and not row["speaker"].startswith("an4")]
        by_source = defaultdict(list)
        for row in others:
            by_source[row["speaker"]].append(row)
        for k, name in enumerate(rng.sample(sorted(by_source), SOURCES)):
            found.append((rng.choice(by_source[name]), own[k % len(own)]))
    return found


class Measures:
    """Cosines of CAM++ embeddings to the target and of ASR features to the source."""

    def __init__(self) -> None:
        from vconv.frontends.asr_encoder import AsrEncoder
        from vconv.frontends.speaker_encoder import FolderSpeakerEncoder

        folder = Path(find_shipped("pretrained/base"))
        self._speaker = FolderSpeakerEncoder(folder, 192, 1)
        self._asr = AsrEncoder(folder / "asr_encoder.onnx")

    def __call__(self, converted: np.ndarray, source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
        made, wanted = self._asr(converted), self._asr(source)
        frames = min(made.shape[1], wanted.shape[1])
        middle = wanted.mean(axis=1, keepdims=True)
        made, wanted = made[:, :frames] - middle, wanted[:, :frames] - middle
        lengths = np.linalg.norm(made, axis=0) * np.linalg.norm(wanted, axis=0)
        content = float(((made * wanted).sum(axis=0) / lengths).mean())
        return float(self._speaker(converted) @ self._speaker(target)), content


def wave_of(path: str | Path) -> np.ndarray:
    wave, rate = audio.read(path)
    return audio.resample(wave, rate, SAMPLE_RATE)


def convert(output: Path, models: dict[str, str], one_clip: bool, tuned: Path | None) -> None:
    measures, todo = Measures(), pairs(output)
    table = output / "pairs.csv"
    kept = []
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            kept = [[row[name] for name in COLUMNS] for row in csv.DictReader(file) if row["system"] not in models]
    for name, place in models.items():
        converter = vconv.load(Path(find_shipped(place)), threads=1)
        folder = output / "converted" / name
        folder.mkdir(parents=True, exist_ok=True)
        voices, found = {}, []
        for number, (source, target) in enumerate(todo):
            speaker = target["speaker"]
            if speaker not in voices:
                clips = [str(tuned / f"{speaker}.npz")] if tuned else clips_of(output, speaker, one_clip)
                voices[speaker] = converter.voice(clips)
            path = folder / f"{number:03d}.wav"
            wave = converter.convert(source["path"], voices[speaker])
            soundfile.write(path, wave, OUTPUT_RATE)
            made = audio.resample(wave, OUTPUT_RATE, SAMPLE_RATE)
            found.append(measures(made, wave_of(source["path"]), wave_of(target["path"])))
            kept.append([source["path"], target["path"], str(path.absolute()), source["transcript"], name, speaker])
        speaker_cosine, content_cosine = np.mean(found, axis=0)
        print(f"{name}: CAM++ cosine {speaker_cosine:.4f}, ASR features' cosine {content_cosine:.4f}", flush=True)
    write_table(table, COLUMNS, kept)


def clips_of(output: Path, speaker: str, one: bool) -> list[str]:
    """The clips of a speaker's folder, or the longest of at most 10 s."""
    paths = sorted(path for path in (output / "recordings" / speaker).iterdir() if path.suffix != ".txt")
    if not one:
        return [str(path) for path in paths]
    seconds = {path: soundfile.info(path).duration for path in paths}
    return [str(max(paths, key=lambda path: (seconds[path] <= 10) * seconds[path]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split")
    splitting.add_argument("manifest", type=Path)
    splitting.add_argument("output", type=Path)
    splitting.add_argument("--speakers", type=int, default=10, help="those with the most speech")
    converting = commands.add_parser("convert")
    converting.add_argument("output", type=Path)
    converting.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    converting.add_argument("--one-clip", action="store_true", help="as the target, in place of all in the folder")
    converting.add_argument("--voices", type=Path, help="folder with SPEAKER.npz of `vconv finetune`, in their place")
    arguments = parser.parse_args()
    if arguments.command == "split":
        split(arguments.manifest, arguments.output, arguments.speakers)
    else:
        convert(
            arguments.output,
            dict(text.split("=", 1) for text in arguments.models),
            arguments.one_clip,
            arguments.voices,
        )


if __name__ == "__main__":
    main()
