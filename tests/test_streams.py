"""The command line with pipes, closed streams, full disks and names from elsewhere; each failure is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Cli, speech
from vconv import audio

REPOSITORY = Path(__file__).parents[1]
MODEL = REPOSITORY / "pretrained" / "base"
FULL = Path("/dev/full")

needs_weights = pytest.mark.skipif(not MODEL.is_dir(), reason="the weights are not in this checkout")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def vconv(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [os.fsencode(word) for word in (sys.executable, "-m", "vconv", *map(str, arguments))]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | options.pop("env", {})
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, "check": False}
    return subprocess.run(command, env=environment, **(settings | options))  # type: ignore[arg-type]


def lines(text: bytes) -> list[str]:
    return text.decode().splitlines()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streams") / "clip.flac"
    audio.write(path, speech(1.5), 16000)
    return path


@pytest.fixture(scope="module")
def voice(clip: Path) -> Path:
    place = clip.with_name("voice.npz")
    done = vconv("embed", clip, "-o", place)
    assert done.returncode == 0, done.stderr
    return place


@needs_weights
def test_standard_streams_give_what_files_give(clip: Path, voice: Path, tmp_path: Path) -> None:
    piped = vconv("convert", "-", "-t", voice, "-o", "-", input=clip.read_bytes())
    assert piped.returncode == 0, piped.stderr
    (tmp_path / "piped.wav").write_bytes(piped.stdout)
    plain = tmp_path / "plain.wav"
    assert vconv("convert", clip, "-t", voice, "-o", plain).returncode == 0
    assert plain.read_bytes() == piped.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-", "-t", "VOICE"), "standard input: has no folder for its result; name an output with -o"),
        (("-", "-", "-t", "VOICE", "-o", "out"), "standard input: is given twice, and can be read once"),
        (("CLIP", "CLIP", "-t", "VOICE", "-o", "-"), "standard output: holds one result"),
    ],
)
@needs_weights
def test_streams_that_cannot_be(clip: Path, voice: Path, arguments: tuple[str, ...], said: str) -> None:
    named = [str({"CLIP": clip, "VOICE": voice}.get(word, word)) for word in arguments]
    done = vconv("convert", *named, input=b"")
    assert done.returncode == 2
    assert len(lines(done.stderr)) == 1 and said in lines(done.stderr)[0]


@needs_weights
def test_an_empty_standard_input_is_told(voice: Path) -> None:
    done = vconv("convert", "-", "-t", voice, "-o", "-", input=b"")
    assert done.returncode == 2 and lines(done.stderr) == [
        "vconv: standard input: is empty; give a recording of speech"
    ]


@needs_weights
def test_standard_input_is_read_whatever_jobs_says(clip: Path, voice: Path, tmp_path: Path) -> None:
    done = vconv("convert", "-", clip, "-t", voice, "-o", tmp_path, "--jobs", "2", input=clip.read_bytes())
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"-_as_voice.wav", "clip_as_voice.wav"}


@needs_weights
def test_a_reader_that_has_gone_is_no_fault(clip: Path, voice: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = vconv("convert", clip, "-t", voice, "-o", "-", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@needs_full
def test_a_full_standard_output_is_told() -> None:
    with FULL.open("wb") as full:
        done = vconv("--help", stdout=full)
    assert done.returncode == 1
    assert lines(done.stderr) == ["vconv: No space left on device; free some space on the disk"]


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_is_no_fault(stream: int) -> None:
    shell = f'"{sys.executable}" -m vconv convert nowhere.wav -t nowhere.npz {stream}>&-'
    done = subprocess.run(
        ["sh", "-c", shell], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr and b"fault" not in done.stderr


@needs_weights
def test_a_temporary_folder_that_is_full_is_told(voice: Path, tmp_path: Path) -> None:
    """A spool moves to disk at 32 MiB; a limit of the size of files stands for a full disk."""
    long = tmp_path / "long.wav"
    audio.write(long, speech(3.0).repeat(200), 16000)
    code = "ulimit -f 20000; trap '' XFSZ; exec \"$@\""
    done = subprocess.run(
        ["bash", "-c", code, "-", sys.executable, "-m", "vconv", "convert", str(long), "-t", str(voice), "-o", "-"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert "set TMPDIR to a folder with space" in lines(done.stderr)[-1]


@needs_weights
def test_names_that_are_not_utf8(clip: Path, voice: Path, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.flac")
    try:
        strange.write_bytes(clip.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    for env in ({}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = vconv("convert", strange, "-t", voice, "--overwrite", env=env)
        assert done.returncode == 0, done.stderr
        assert b"caf" in done.stdout
    assert (tmp_path / os.fsdecode(b"caf\xe9_as_voice.wav")).is_file()


def test_a_manifest_of_such_names(clip: Path, tmp_path: Path) -> None:
    from vconv.data.manifest import read_manifest

    folder = tmp_path / os.fsdecode(b"Jos\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    for name in (b"a\xf1o.flac", b"b.flac"):
        (folder / os.fsdecode(name)).write_bytes(clip.read_bytes())
    manifest = tmp_path / "corpus.tsv"
    done = vconv("prepare", tmp_path, "-o", manifest, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    clips = read_manifest(manifest)
    assert sorted(path.name for path in (found.path for found in clips)) == [os.fsdecode(b"a\xf1o.flac"), "b.flac"]
    assert all(found.path.is_file() and found.speaker == r"Jos\xe9" for found in clips)


@needs_weights
def test_long_names_and_nul_do_not_stop_the_others(clip: Path, voice: Path, tmp_path: Path) -> None:
    long = tmp_path / f"{'n' * 245}.flac"
    long.write_bytes(clip.read_bytes())
    good = tmp_path / "good.flac"
    good.write_bytes(clip.read_bytes())
    done = vconv("convert", long, good, "-t", voice, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good_as_voice.wav"]
    assert sum("is too long; give one with -o" in line for line in lines(done.stderr)) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@needs_weights
def test_a_hangup_ends_a_run_and_leaves_nothing(clip: Path, voice: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sources = tmp_path / "in"
    sources.mkdir()
    for number in range(1000):  # more than a busy machine converts before the test looks
        os.link(clip, sources / f"{number}.flac")
    command = [sys.executable, "-m", "vconv", "convert", "--quiet", str(sources), "-t", str(voice), "-o", str(out)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while not (out.is_dir() and any(out.glob("*.wav"))) and time.monotonic() < deadline:
            time.sleep(0.02)
        run.send_signal(signal.SIGHUP)
        assert run.wait(30) == 128 + signal.SIGHUP
    assert not list(out.glob(".vconv*"))


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(("raised", "code"), [(SystemExit(143), 143), (KeyboardInterrupt(), 130)])
def test_a_signal_in_an_import_ends_the_run(
    raised: BaseException,
    code: int,
    folder: bool,
    tmp_path: Path,
    vconv_cli: Cli,
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compiled modules turn what a signal raises while they are imported into an ImportError."""
    for name in ("a.wav", "b.wav"):
        audio.write(tmp_path / name, speech(1.0), 16000)

    def imported(*_: object) -> None:
        raise ImportError("initialization failed") from raised

    monkeypatch.setattr("vconv.frontends.pitch.PitchTracker.__init__", imported)
    source = tmp_path if folder else tmp_path / "a.wav"
    command = (
        "convert",
        source,
        "-t",
        tmp_path / "b.wav",
        "--model",
        small_model,
        "-o",
        tmp_path / ("out" if folder else "o.wav"),
    )
    if isinstance(raised, SystemExit):
        with pytest.raises(SystemExit) as ended:
            vconv_cli(*command)
        assert ended.value.code == code
    else:
        assert vconv_cli(*command).code == code


def test_memory_and_descriptors_are_told_as_such() -> None:
    from vconv.errors import unforeseen

    assert "out of memory" in str(unforeseen(MemoryError(), "a.wav"))
    assert "ulimit -n" in str(unforeseen(OSError(24, "Too many open files", "a.wav")))
    assert "fault in vconv" in str(unforeseen(KeyError("x")))


def test_a_nul_in_a_manifest_is_told(tmp_path: Path) -> None:
    from vconv.data.manifest import read_manifest
    from vconv.errors import InputError

    table = tmp_path / "corpus.tsv"
    table.write_text("path\tspeaker\na\0b.wav\tanna\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: column 'path': holds a NUL"):
        read_manifest(table)
    table.write_bytes(b"path\tspeaker\na.wav\tJos\xe9\n")
    with pytest.raises(InputError, match="line 2: column 'speaker': is not UTF-8 text"):
        read_manifest(table)
