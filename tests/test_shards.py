"""Shards of a manifest: whole, resumable, streamed in bounded memory, divided exactly, and safe to read."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Cli
from tests.synthetic import RATE, make_corpus, speak
from vconv import audio
from vconv.benchmarks.shards import read, repeat
from vconv.data.manifest import prepare, read_manifest
from vconv.data.shards import INDEX, Consumer, Sample, open_index, read_samples, shards_of, stream, write_shards
from vconv.data.shards.format import Shard, ShardIndex, index_json
from vconv.data.store import read_sound
from vconv.errors import InputError
from vconv.features import FRAME_RATE
from vconv.files import digest

SHORT = 0.1  # minutes of a shard


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six parallel groups of four clips, one of which is for validation, and a clip in none."""
    table = make_corpus(tmp_path_factory.mktemp("corpus"))
    audio.write(table.with_name("alone.wav"), np.pad(speak("aiu", 150, 1.0), RATE), RATE)
    with table.open("a") as file:
        file.write(f"alone.wav\tlow\taiu\t\t{RATE}\ttrain\tnorth\n")
    prepare(table, table.with_name("corpus.tsv"), layout="tsv", jobs=1)
    return table.with_name("corpus.tsv")


@pytest.fixture(scope="module")
def shards(manifest: Path) -> Path:
    write_shards(manifest, manifest.with_name("shards"), minutes=SHORT)
    return manifest.with_name("shards")


def samples(folder: Path) -> list[Sample]:
    return [sample for shard in open_index(folder).shards for sample in read_samples(folder / shard.file)]


def keys(some: list[Sample]) -> list[str]:
    return [sample.key for sample in some]


def test_a_sample_is_a_clip_of_the_manifest(manifest: Path, shards: Path) -> None:
    clips, found = read_manifest(manifest), samples(shards)
    assert sorted(keys(found)) == [f"{number:09d}" for number in range(len(clips))]
    for sample in found[::5]:
        clip, own = clips[int(sample.key)], sample.clip()
        for column in ("speaker", "phones", "group", "sample_rate", "split", "accent"):
            assert own.text(column) == clip.text(column)
        sound = read_sound(str(clip.path), trim=not clip.group)
        np.testing.assert_array_equal(sample.steps(), sound.steps())
        np.testing.assert_array_equal(sample.f0(), sound.f0())
        assert own.seconds == pytest.approx(sound.frames / FRAME_RATE, abs=1e-3)


def test_groups_stay_together_and_splits_apart(shards: Path) -> None:
    index = open_index(shards)
    assert len(index.shards) > 3 and index.clips == 25
    of_group: dict[str, set[str]] = {}
    for sample in samples(shards):
        of_group.setdefault(sample.clip().group, set()).add(sample.shard)
        assert sample.shard.startswith(sample.clip().split)
    assert all(len(places) == 1 for places in of_group.values())
    for shard in index.shards:
        assert shard.sha256 == digest(shards / shard.file)
        assert shard.clips == len(list(read_samples(shards / shard.file)))


def test_a_run_that_was_killed_goes_on(manifest: Path, shards: Path, tmp_path: Path) -> None:
    """What is finished is not made again, what is not is; the bytes are the same."""
    killed = tmp_path / "shards"
    seen = []

    def kill(done: int) -> None:
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(manifest, killed, minutes=SHORT, report=kill)
    with pytest.raises(InputError, match="no finished shards"):
        open_index(killed)
    tars = sorted(killed.glob("*.tar"))
    assert len(tars) == 2
    for path in tars:
        os.utime(path, (1, 1))
    write_shards(manifest, killed, minutes=SHORT)
    assert [path.stat().st_mtime for path in tars] == [1, 1]
    assert open_index(killed) == open_index(shards)
    names = sorted(path.name for path in shards.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names == sorted([INDEX, *(s for s in names if "tar" in s)])
    # A finished folder is left as it is; a damaged shard is made again.
    os.utime(tars[1], (1, 1))
    tars[0].write_bytes(b"half")
    with pytest.raises(InputError, match=f"not as {INDEX} records it"):
        open_index(killed)
    write_shards(manifest, killed, minutes=SHORT)
    assert open_index(killed) == open_index(shards) and tars[1].stat().st_mtime == 1


def test_another_manifest_is_refused(manifest: Path, shards: Path) -> None:
    with pytest.raises(InputError, match="shards of another manifest or other settings"):
        write_shards(manifest, shards, minutes=2 * SHORT)


def test_the_command_writes_manifest_and_shards(tmp_path: Path, vconv_cli: Cli) -> None:
    for speaker, f0 in (("low", 110), ("high", 220)):
        (tmp_path / "corpus" / speaker).mkdir(parents=True)
        audio.write(tmp_path / "corpus" / speaker / "1.wav", speak("aiueo", f0, 1.0), RATE)
    command = ("prepare", tmp_path / "corpus", "-o", tmp_path / "corpus.tsv", "--jobs", 1, "--valid-percent", 0)
    done = vconv_cli(*command, "--shards", tmp_path / "shards")
    assert done.code == 0 and "2 clips" in done.out.splitlines()[-1]
    assert {sample.clip().speaker for sample in samples(tmp_path / "shards")} == {"low", "high"}
    # Files that have gone bad since are left out with the reason.
    (tmp_path / "corpus" / "low" / "1.wav").write_text("no audio")
    index = write_shards(tmp_path / "corpus.tsv", tmp_path / "other")
    assert index.clips == 1 and "1.wav" in index.shards[0].left_out[0]


# ---------------------------------------------------------------- streams


def tiny(folder: Path, counts: list[int], size: int = 20) -> Path:
    """Shards of so many samples each, of a few bytes."""
    folder.mkdir()
    shards = []
    for number, count in enumerate(counts):
        path = folder / f"train-{number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for k in range(count):
                for suffix in ("flac", "json"):
                    info = tarfile.TarInfo(f"{number:03d}-{k:06d}.{suffix}")
                    info.size = size
                    tar.addfile(info, io.BytesIO(bytes(size)))
                tar.members.clear()
        shards.append(Shard(path.name, "train", count, 1.0, path.stat().st_size, ""))
    (folder / INDEX).write_text(index_json(ShardIndex(1, "", tuple(shards))))
    return folder


def test_consumers_divide_an_epoch_exactly(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "shards", [7, 3, 9, 5, 6, 4, 8])
    everything = sorted(keys(list(stream(folder, epochs=1))))
    assert len(everything) == 42 == len(set(everything))
    consumers = [Consumer(rank, 2, worker, 3) for rank in range(2) for worker in range(3)]
    for seed in (0, 1):
        parts = [keys(list(stream(folder, seed=seed, epochs=1, consumer=c))) for c in consumers]
        assert sorted(key for part in parts for key in part) == everything
        # Which shards, and no others: what `shards_of` says.
        for consumer, part in zip(consumers, parts):
            own = {shard.file.split("-")[1][3:6] for shard in shards_of(folder, "train", seed, 0, consumer)}
            assert {key[:3] for key in part} == own
            assert part == keys(list(stream(folder, seed=seed, epochs=1, consumer=consumer)))  # again the same
        counts = [sum(len(shards_of(folder, "train", seed, 0, c)) for c in consumers if c.rank == r) for r in (0, 1)]
        assert abs(counts[0] - counts[1]) <= 1
    orders = [keys(list(stream(folder, seed=seed, epochs=1))) for seed in (0, 1)]
    assert orders[0] != orders[1]
    # Epochs follow one another, each in an order of its own.
    two = keys(list(stream(folder, epochs=2)))
    assert two[:42] == orders[0] and sorted(two[42:]) == everything and two[42:] != orders[0]
    with pytest.raises(InputError, match="7 shards of 'train' for 8 readers"):
        next(stream(folder, consumer=Consumer(0, 8)))


def test_the_buffer_mixes_and_is_bounded(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "shards", [200], size=1000)
    plain = keys(list(stream(folder, epochs=1, buffer=1)))
    assert plain == sorted(plain)
    mixed = keys(list(stream(folder, epochs=1, buffer=50)))
    assert sorted(mixed) == plain
    places = np.array([plain.index(key) for key in mixed])
    assert np.abs(places - np.arange(200)).mean() > 10
    assert (places - np.arange(200)).max() <= 50  # none comes earlier than the buffer reaches
    by_bytes = keys(list(stream(folder, epochs=1, buffer=50, buffer_bytes=4000)))
    assert sorted(by_bytes) == plain and max(plain.index(k) - n for n, k in enumerate(by_bytes)) <= 2


def peak_of_a_stream(folder: Path) -> tuple[int, int]:
    """Samples, and bytes that their stream took at most."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in stream(folder, epochs=1, buffer=100))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("total", [5000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_clips(tmp_path: Path, total: int) -> None:
    small = peak_of_a_stream(tiny(tmp_path / "small", [total // 20] * 2))
    large = peak_of_a_stream(tiny(tmp_path / "large", [total // 2] * 2))
    assert (small[0], large[0]) == (total // 10, total)
    assert large[1] < 1.2 * small[1] + 50_000  # 100 samples in the buffer, whatever their number


def test_the_benchmark_streams_a_shard_under_many_names(shards: Path, tmp_path: Path) -> None:
    repeat(shards, 3, tmp_path / "three")
    clips, run = read(tmp_path / "three")
    assert clips == 3 * open_index(shards).shards[0].clips and run.memory > 0


# ---------------------------------------------------------------- tars of strangers


def hostile(path: Path, name: str = "000.flac", content: bytes = b"", **fields: object) -> Path:
    with tarfile.open(path, "w", format=fields.pop("format", tarfile.USTAR_FORMAT)) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "../up.flac"}, "no name of a sample's file"),
        ({"name": "/etc/passwd"}, "no name of a sample's file"),
        ({"name": "folder/000.flac"}, "no name of a sample's file"),
        ({"name": "\n\x1b[31m.flac"}, "no name of a sample's file"),
        ({"name": "nosuffix"}, "no name of a sample's file"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "no plain file"),
        ({"type": tarfile.LNKTYPE, "linkname": "other"}, "no plain file"),
        ({"type": tarfile.DIRTYPE}, "no plain file"),
        ({"type": tarfile.FIFOTYPE}, "no plain file"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "no plain file"),
        ({"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": 10_000 * "x"}}, "no plain file"),
        ({"format": tarfile.GNU_FORMAT, "name": 300 * "x" + ".flac"}, "no plain file"),
    ],
)
def test_hostile_members_are_refused_in_one_line(tmp_path: Path, fields: dict, message: str) -> None:
    path = hostile(tmp_path / "train-000000.tar", **fields)
    with pytest.raises(InputError, match=message) as refused:
        list(read_samples(path))
    assert "\n" not in str(refused.value) and "\x1b" not in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize("size", [1 << 40, (1 << 33) - 1, 1 << 27, -512])
def test_sizes_that_lie_are_refused(tmp_path: Path, size: int) -> None:
    info = tarfile.TarInfo("000.flac")
    info.size = size
    path = tmp_path / "train-000000.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(InputError, match=r"at most 64 MiB are read|cut off|damaged"):
        list(read_samples(path))


def test_damaged_tars_are_refused(shards: Path, tmp_path: Path) -> None:
    whole = next(shards.glob("train*.tar")).read_bytes()
    for damaged in (b"", whole[:1000], whole[:-11_000], b"x" + whole[1:], bytes(100), 3 * whole[:1024]):
        path = tmp_path / "train-000000.tar"
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"train-000000\.tar"):
            list(read_samples(path))
    path.write_bytes(b"".join(hostile(tmp_path / "one.tar", f"000.{k}").read_bytes()[:512] for k in range(20)))
    with pytest.raises(InputError, match="more than 16 files"):
        list(read_samples(path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no file .flac"),
        ({"flac": b"no audio"}, "cannot be decoded"),
        ({"f0.npy": b"\x93NUMPY"}, "no array of F0"),
        ({"json": b"[1]"}, "no JSON object"),
        ({"json": b'{"seconds": 3}'}, "'speaker'"),
        ({"json": 100_000 * b"["}, "no JSON object"),
    ],
)
def test_damaged_files_of_a_sample_are_told(files: dict[str, bytes], message: str) -> None:
    sample = Sample("train-000000.tar", "000", files)
    with pytest.raises(InputError, match=message):
        {"json": sample.clip, "f0.npy": sample.f0}.get(next(iter(files), ""), sample.steps)()


@pytest.mark.parametrize("file", ["../x.tar", ".hidden.tar", "/x.tar", "gone.tar"])
def test_an_index_names_files_of_its_folder_alone(tmp_path: Path, file: str) -> None:
    (tmp_path / "x.tar").write_bytes(b"")
    folder = tiny(tmp_path / "shards", [1])
    (folder / INDEX).write_text(index_json(ShardIndex(1, "", (Shard(file, "train", 1, 1.0, 0, ""),))))
    with pytest.raises(InputError, match=r"no name of a shard|is missing"):
        open_index(folder)
