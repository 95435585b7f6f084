"""Published corpora as they lie on a disk, held-out speakers, preparing at scale, and damaged files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY, Cli
from vconv import files, processes
from vconv.data.manifest import Clip, Note, Skipped, prepare, read_held_out, read_manifest
from vconv.data.manifest.preparing import CHUNK
from vconv.errors import AudioWarning, InputError, VconvError

RATE = 16000


def make_clip(path: Path, seconds: float = 0.6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def prepared(output: Path, *arguments: object, **options: object) -> tuple[dict[str, Clip], list[Skipped], list[str]]:
    """Clips by name, what was skipped, and the notes."""
    told = []
    prepare(*arguments, output, tell=told.append, jobs=1, **options)
    clips = {clip.path.name: clip for clip in read_manifest(output)}
    return clips, [t for t in told if isinstance(t, Skipped)], [t.text for t in told if isinstance(t, Note)]


# ---------------------------------------------------------------- VCTK


def make_vctk_092(root: Path) -> Path:
    """Two whole speakers, p280 without mic2 and p315 without mic2 and transcripts."""
    waves = root / "wav48_silence_trimmed"
    for speaker in ("p225", "p226", "p280", "p315"):
        for number in ("001", "002"):
            for mic in ("mic1", "mic2") if speaker < "p280" else ("mic1",):
                make_clip(waves / speaker / f"{speaker}_{number}_{mic}.flac")
            if speaker != "p315":
                write(root / "txt" / speaker / f"{speaker}_{number}.txt", f"Sentence {number}.\n")
    write(
        root / "speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
        "p225  23  F    English    Southern  England\np226  22  M    English    Surrey\n"
        "p280  25  F    Unknown    France  (mic2 files unavailable)\n"
        "p315  18  M    American   New England  (mic2 files unavailable)\n",
    )
    write(waves / "log.txt", "not audio")
    return root


def test_vctk_of_version_092(tmp_path: Path) -> None:
    clips, skipped, notes = prepared(tmp_path / "m.tsv", make_vctk_092(tmp_path / "vctk"), layout="vctk")
    assert sorted(clips) == [f"p{s}_{n}_mic1.flac" for s in (225, 226, 280, 315) for n in ("001", "002")]
    first = clips["p225_001_mic1.flac"]
    assert (first.speaker, first.sex, first.language, first.transcript) == (
        "p225",
        "f",
        "en (English)",
        "Sentence 001.",
    )
    assert (clips["p315_001_mic1.flac"].sex, clips["p315_001_mic1.flac"].transcript) == ("m", "")
    accents = {clip.speaker: clip.text("accent") for clip in clips.values()}
    assert accents == {"p225": "English", "p226": "English", "p280": "", "p315": "American"}
    assert not skipped
    assert notes == ["p315: no transcript: 2 of 2 clips"]


def test_vctk_takes_the_other_microphone_where_one_is_missing(tmp_path: Path) -> None:
    root = make_vctk_092(tmp_path / "vctk")
    clips, _, notes = prepared(tmp_path / "m.tsv", root, layout="vctk", microphone="mic2")
    assert {name for name in clips if name.endswith("mic1.flac")} == {
        f"p{s}_{n}_mic1.flac" for s in (280, 315) for n in ("001", "002")
    }
    assert len(clips) == 8
    assert notes == [
        "p280: no mic2, mic1 was taken: 2 of 2 clips",
        "p315: no mic2, mic1 was taken: 2 of 2 clips",
        "p315: no transcript: 2 of 2 clips",
    ]


def test_vctk_of_version_080(tmp_path: Path) -> None:
    root = tmp_path / "VCTK-Corpus"
    for name in ("p225_001", "p225_002", "p226_001"):
        make_clip(root / "wav48" / name[:4] / f"{name}.wav")
        write(root / "txt" / name[:4] / f"{name}.txt", f"Words of {name}")
    make_clip(root / "wav48" / "p225" / "mixdown.wav")
    write(root / "speaker-info.txt", "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n")
    clips, skipped, notes = prepared(tmp_path / "m.tsv", root, layout="vctk")
    assert sorted(clips) == ["p225_001.wav", "p225_002.wav", "p226_001.wav"]
    assert (clips["p225_002.wav"].sex, clips["p225_002.wav"].transcript) == ("f", "Words of p225_002")
    assert (clips["p226_001.wav"].sex, clips["p226_001.wav"].language) == ("", "en")  # not in the table
    assert [(s.path.name, "not named as VCTK's" in s.reason) for s in skipped] == [("mixdown.wav", True)]
    assert not notes


def test_vctk_without_texts_and_table(tmp_path: Path) -> None:
    root = tmp_path / "vctk"
    make_clip(root / "wav48" / "p225" / "p225_001.wav")
    clips, _, notes = prepared(tmp_path / "m.tsv", root, layout="vctk")
    assert clips["p225_001.wav"].transcript == ""
    assert len(notes) == 2 and "speaker-info.txt" in notes[0] and "no transcripts" in notes[1]
    with pytest.raises(InputError, match="neither wav48_silence_trimmed nor wav48 in it"):
        prepare(root / "wav48", tmp_path / "n.tsv", layout="vctk")
    with pytest.raises(InputError, match="unknown microphone 'mic3'"):
        prepare(root, tmp_path / "n.tsv", layout="vctk", microphone="mic3")


def test_held_out_speakers_are_in_no_other_split(tmp_path: Path) -> None:
    root = make_vctk_092(tmp_path / "vctk")
    write(tmp_path / "held.tsv", "speaker\tsplit\np226\tvalid\np280\ttest\np999\ttest\n")
    held_out = read_held_out(tmp_path / "held.tsv")
    clips, _, notes = prepared(tmp_path / "m.tsv", root, layout="vctk", held_out=held_out)
    splits = {(clip.speaker, clip.split) for clip in clips.values()}
    assert splits == {("p225", "train"), ("p226", "valid"), ("p280", "test"), ("p315", "train")}
    assert "to be held out, but not in this corpus: p999" in notes
    write(tmp_path / "held.tsv", "speaker\tsplit\np226\tdev\n")
    with pytest.raises(InputError, match="line 2: column 'split': 'dev' is no split"):
        read_held_out(tmp_path / "held.tsv")


def test_the_recipe_holds_out_as_many_women_as_men() -> None:
    lines = (REPOSITORY / "recipes" / "vctk" / "held_out.tsv").read_text().splitlines()[1:]
    rows = [tuple(line.split("\t")) for line in lines]
    assert len({speaker for speaker, _, _ in rows}) == len(rows)
    for split in ("valid", "test"):
        sexes = [sex for _, own, sex in rows if own == split]
        assert sexes.count("f") == sexes.count("m") >= 3


def test_prepare_by_layout_on_the_command_line(vconv_cli: Cli, tmp_path: Path) -> None:
    root = make_vctk_092(tmp_path / "vctk")
    write(tmp_path / "held.tsv", "speaker\tsplit\np226\tvalid\np280\ttest\n")
    output = tmp_path / "m.tsv"
    done = vconv_cli("prepare", "vctk", root, "-o", output, "--mic", "mic2", "--held-out", tmp_path / "held.tsv")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "note: p280: no mic2, mic1 was taken: 2 of 2 clips" in lines
    assert any(line.startswith("train: 4 clips, 0.00 h, 2 speakers (1 f, 1 m)") for line in lines)
    assert any(line.startswith("test: 2 clips") for line in lines)
    assert vconv_cli("prepare", root, "--layout", "vctk", "-o", tmp_path / "n.tsv", "--mic", "mic2").code == 0
    assert len(read_manifest(tmp_path / "n.tsv")) == len(read_manifest(output)) == 8


# ---------------------------------------------------------------- LibriTTS and LibriSpeech


def test_libritts(tmp_path: Path) -> None:
    root = tmp_path / "LibriTTS"
    for subset, speaker in (("train-clean-100", "103"), ("dev-clean", "84"), ("test-other", "367")):
        clip = make_clip(root / subset / speaker / "1241" / f"{speaker}_1241_000000_000001.wav")
        write(clip.with_suffix(".normalized.txt"), f"Reader {speaker}.")
        write(clip.with_suffix(".original.txt"), "Not this one.")
    write(root / "speakers.tsv", "READER\tGENDER\tSUBSET\tNAME\n103\tF\ttrain-clean-100\tKaren\n84\tM\tdev-clean\tX\n")
    clips, skipped, _ = prepared(tmp_path / "m.tsv", root, layout="libritts")
    assert [(c.speaker, c.sex, c.split, c.transcript) for c in clips.values()] == [
        ("84", "m", "valid", "Reader 84."),
        ("367", "", "test", "Reader 367."),
        ("103", "f", "train", "Reader 103."),
    ]
    assert not skipped


def test_librispeech(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    for speaker in ("19", "26"):
        chapter = root / "train-clean-100" / speaker / "198"
        for number in range(2):
            make_clip(chapter / f"{speaker}-198-000{number}.flac")
        write(chapter / f"{speaker}-198.trans.txt", f"{speaker}-198-0000 GOOD DAY\n{speaker}-198-0001 GOOD NIGHT\n")
    write(
        root / "SPEAKERS.TXT",
        ";ID  |SEX| SUBSET\n19   | F | train-clean-100  | 25.19 | Kara\n26   | M | train | 1 | D\n",
    )
    clips, _, _ = prepared(tmp_path / "m.tsv", root, layout="libritts", valid_percent=50)
    assert {(c.speaker, c.sex) for c in clips.values()} == {("19", "f"), ("26", "m")}
    assert clips["26-198-0001.flac"].transcript == "GOOD NIGHT"
    # Only a training subset is there: validation speakers are chosen among its own.
    assert {c.split for c in clips.values()} == {"train", "valid"}
    with pytest.raises(InputError, match="no folder such as train-clean-100"):
        prepare(root / "train-clean-100", tmp_path / "n.tsv", layout="libritts")


# ---------------------------------------------------------------- scale and processes


def make_links(folder: Path, clips: Sequence[Path], count: int) -> Path:
    """``count`` links to a few clips, in folders of 100."""
    for number in range(count):
        place = folder / f"speaker{number // 100:04d}" / f"{number:06d}{clips[number % len(clips)].suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(clips[number % len(clips)])
    return folder


def test_several_processes_give_the_same_manifest(tmp_path: Path) -> None:
    corpus = make_links(tmp_path / "corpus", [make_clip(tmp_path / "clip.wav")], 3 * CHUNK)
    (corpus / "speaker0000" / "bad.wav").write_text("no audio")
    told = []
    prepare(corpus, tmp_path / "one.tsv", jobs=1, tell=told.append)
    prepare(corpus, tmp_path / "two.tsv", jobs=2, tell=told.append)
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
    assert len(read_manifest(tmp_path / "one.tsv")) == 3 * CHUNK
    assert [t.path.name for t in told] == ["bad.wav", "bad.wav"]


def test_memory_does_not_grow_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the files in folders of the same size; what Python holds at the peak stays the same."""
    from vconv.data.manifest import preparing

    def measured(clip: Clip, language: str, min_seconds: float) -> Clip:
        return Clip(clip.path, clip.speaker, 1.0, sample_rate=RATE)

    monkeypatch.setattr(preparing, "_measure", measured)
    clip, peaks = make_clip(tmp_path / "clip.wav"), []

    def peak(corpus: Path) -> int:
        tracemalloc.start()
        prepare(corpus, tmp_path / "corpus.tsv", jobs=1)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    for count in (300, 3000):
        corpus = make_links(tmp_path / str(count), [clip], count)
        peaks.append(min(peak(corpus) for _ in range(3)))  # other threads' memory is seen, too
    assert len((tmp_path / "corpus.tsv").read_text().splitlines()) == 3001
    assert peaks[1] < 1.5 * peaks[0]


def test_tasks_are_taken_little_by_little() -> None:
    taken = []

    def tasks() -> object:
        for number in range(100):
            taken.append(number)
            yield number

    results = processes.map_in_order(str, tasks(), 2)
    assert next(results) == "0"
    assert len(taken) <= 2 * processes.IN_FLIGHT + 1
    assert list(results) == [str(number) for number in range(1, 100)]


def warn(task: str) -> None:
    warnings.warn(f"{task}: is cut off", AudioWarning, stacklevel=2)


def test_warnings_about_recordings_come_from_workers_too() -> None:
    with pytest.warns(AudioWarning, match="a: is cut off"):
        assert list(processes.map_in_order(warn, ["a"], 2)) == [None]


def test_a_worker_that_dies_is_told() -> None:
    with pytest.raises(VconvError, match="a worker process died"):
        list(processes.map_in_order(os._exit, [1, 1, 1], 2))


def test_what_killed_runs_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    corpus = make_links(tmp_path / "corpus", [make_clip(tmp_path / "clip.wav")], 2)
    old, running = (tmp_path / f".corpus-{digit * 12}.tsv" for digit in "ab")
    for path in (old, running):
        path.write_text("path\tspeaker\n")
    long_ago = time.time() - 2 * files.STALE_SECONDS
    os.utime(old, (long_ago, long_ago))
    prepare(corpus, tmp_path / "corpus.tsv", jobs=1)
    assert not old.exists() and running.exists()


def test_the_benchmark_prints_a_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vconv.benchmarks.prepare", make_clip(tmp_path / "clip.wav"), "--count", "20"]
    printed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("| ")]
    assert [int(row[0]) for row in rows[1:] if row[0].strip().isdigit()] == [2, 20]
    assert all(float(row[1]) > 0 for row in rows[2:])


# ---------------------------------------------------------------- damaged files


def damage(good: Path, folder: Path) -> dict[str, Path]:
    """A clip damaged or made unusual in every way that a corpus knows."""
    wave, rate = soundfile.read(good)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        name: folder / f"{name}.wav" for name in ("truncated", "beheaded", "empty", "text", "silent", "two", "low")
    }
    data = good.read_bytes()
    paths["truncated"].write_bytes(data[: len(data) // 100])
    paths["beheaded"].write_bytes(data[100:])
    paths["empty"].touch()
    paths["text"].write_text("not audio at all\n" * 100)
    soundfile.write(paths["silent"], np.zeros(rate), rate)
    soundfile.write(paths["two"], np.stack([wave, 0.5 * wave], 1), rate)
    soundfile.write(paths["low"], wave[:: rate // 8000], 8000)
    flac = folder / "flac"
    soundfile.write(flac.with_suffix(".flac"), wave, rate)
    paths["cut"] = folder / "cut.flac"
    paths["cut"].write_bytes(flac.with_suffix(".flac").read_bytes()[:2000])
    flac.with_suffix(".flac").unlink()
    paths["suffix"] = folder / "suffix.mp3"
    shutil.copy(good, paths["suffix"])
    return paths


UNUSABLE = {"truncated", "beheaded", "empty", "text", "silent", "cut"}


def test_a_corpus_with_damaged_files_trains_on_the_rest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from tests.synthetic import make_corpus
    from tests.test_training import CONVERSION
    from vconv.training import checkpoint, run

    synthetic = make_corpus(tmp_path / "made", sentences=12)
    corpus = tmp_path / "corpus"
    for clip in read_manifest(synthetic):
        (corpus / clip.speaker).mkdir(parents=True, exist_ok=True)
        clip.path.rename(corpus / clip.speaker / clip.path.name)
    bad = damage(corpus / "low" / "0_low.wav", corpus / "low" / "damaged")
    told = []
    result = prepare(corpus, tmp_path / "corpus.tsv", valid_percent=10, jobs=1, tell=told.append)
    names = {clip.path for clip in read_manifest(tmp_path / "corpus.tsv")}
    assert {t.path for t in told} == {bad[name] for name in UNUSABLE}
    assert {path for name, path in bad.items() if name not in UNUSABLE} <= names
    assert len(names) == 12 * 4 + len(bad) - len(UNUSABLE)
    assert result.skipped == len(UNUSABLE) and len(bad) / len(names) > 0.05
    # One more is damaged after it was prepared: training leaves it out and says so.
    bad["two"].write_bytes(b"")
    config = tmp_path / "config.yaml"
    config.write_text(CONVERSION)
    settings = [f"corpus.manifest={tmp_path / 'corpus.tsv'}", f"output={tmp_path / 'run'}", "optimizer.steps=3"]
    state = checkpoint.load(run(config, [*settings, "batch.phone_items=0"]))
    assert state["step"] == 3
    assert all(np.isfinite(value.numpy()).all() for value in state["ema"].values() if value.is_floating_point())
    printed = capfd.readouterr()
    assert f"{bad['two']}: is an empty file" in printed.out + printed.err
