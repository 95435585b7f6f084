"""Batches: what is written where, in several processes, gone on with, and never all of it in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY, Cli, speech
from tests.test_cli import files_in
from vconv import audio, batch
from vconv.batch import Job, Plan
from vconv.errors import AudioWarning, InputError, VconvError
from vconv.files import STALE_SECONDS


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def plan(sources: list[Path], output: Path | None, **options: object) -> Plan:
    return Plan(sources, output, lambda stem: f"{stem}_x", ".wav", **options)


def jobs(found: Plan) -> list[tuple[str, str]]:
    """Names of source and output; no error is expected."""
    found = list(found)
    assert not [item for item in found if isinstance(item, VconvError)]
    return [(job.source.name, str(job.output)) for job in found]


@dataclass
class Seen:
    """A watcher that remembers."""

    started: list[str] = field(default_factory=list)
    finished: int = 0

    def start(self, name: Path) -> None:
        self.started.append(name.name)

    def advance(self, seconds: float) -> None:
        pass

    def done(self) -> None:
        self.finished += 1


def copy(job: Job, _: object) -> float:
    """Stands for the work: copies the text, and fails on what the file says."""
    text = job.source.read_text()
    if text == "bad":
        raise InputError(f"{job.source}: is bad")
    if text == "short":
        warnings.warn(f"{job.source}: is cut off", AudioWarning, stacklevel=2)
    if text == "fault":
        raise RuntimeError("not foreseen")
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    job.output.write_text(text)
    return 2.0


# ---------------------------------------------------------------- plans


def test_folders_of_the_sources_are_kept(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "b.wav", "a.flac", "sub/c.mp3", "sub/notes.txt", ".hidden/d.wav")
    out = tmp_path / "out"
    expected = [("a.flac", f"{out}/a_x.wav"), ("b.wav", f"{out}/b_x.wav"), ("c.mp3", f"{out}/sub/c_x.wav")]
    assert jobs(plan([source], out)) == expected
    assert plan([source], out).count() == 3


def test_what_a_plan_writes_is_no_source_of_it(tmp_path: Path) -> None:
    """A folder can be converted twice, also where the results land in it."""
    source = touch(tmp_path / "in", "a.wav", "sub/b.wav", "out/a_x.wav", "out/sub/b_x.wav")
    found = plan([source], source / "out", skip_existing=True)
    assert [name for name, _ in jobs(found)] == ["a.wav", "b.wav"]
    beside = touch(tmp_path / "beside", "a.wav", "a_x.wav", "c_x.wav")
    assert [name for name, _ in jobs(plan([beside], None, skip_existing=True))] == ["a.wav", "c_x.wav"]


def test_what_a_plan_writes_through_a_link_is_no_source_of_it_either(tmp_path: Path) -> None:
    for name in ("within/out/a_x.wav", "beside/a_x.wav"):
        touch(tmp_path, name)
    for name in ("within", "beside"):
        touch(tmp_path / name, "a.wav")
        (tmp_path / f"link to {name}").symlink_to(tmp_path / name)
    within, beside, one, two = (tmp_path / name for name in ("within", "beside", "link to within", "link to beside"))
    for source, output in ((one, within / "out"), (within, one / "out"), (two, beside), (beside, two)):
        assert [name for name, _ in jobs(plan([source], output, skip_existing=True))] == ["a.wav"]


def test_what_is_wrong_with_one_source_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = touch(tmp_path / "one", "a.wav"), touch(tmp_path / "two", "b.wav")
    first, middle, last = plan([one / "a.wav", Path("-"), two / "b.wav"], None)
    assert isinstance(first, Job) and isinstance(last, Job)
    assert "has no folder for its result" in str(middle)
    listed = Path.iterdir

    def refuse(folder: Path) -> Iterator[Path]:
        if folder == one:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert [name for name, _ in jobs(plan([one, two], tmp_path / "out"))] == ["a.wav", "b.wav"]


def test_an_output_that_cannot_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, closed, exists = touch(tmp_path / "in", "a.wav"), tmp_path / "closed", Path.exists

    def refuse(path: Path) -> bool:
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refuse)
    (error,) = plan([source], closed)
    assert str(error).startswith(f"{closed / 'a_x.wav'}: ") and "choose another place with -o" in str(error)


def test_two_sources_of_one_output_are_told(tmp_path: Path) -> None:
    one = touch(tmp_path / "one", "a.wav", "a.flac", "sub/b.wav")
    two = touch(tmp_path / "two", "sub/b.mp3", "sub/c.wav")
    named = touch(tmp_path, "c.wav") / "c.wav"
    three = touch(tmp_path / "three", "c.ogg")
    errors = [str(item) for item in plan([one, two, named, three], tmp_path / "out") if isinstance(item, VconvError)]
    assert len(errors) == 3
    for error, (second, first) in zip(errors, [("a.wav", "a.flac"), ("b.mp3", "b.wav"), ("c.ogg", "c.wav")]):
        assert second in error.split(":")[0] and f"{first} is" in error


def test_existing_outputs(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.wav", "b.wav")
    out = touch(tmp_path / "out", "a_x.wav")
    first, second = plan([source], out)
    assert isinstance(first, InputError) and "--overwrite" in str(first)
    assert isinstance(second, Job)
    assert [job.finished for job in plan([source], out, skip_existing=True)] == [True, False]
    assert [job.finished for job in plan([source], out, overwrite=True)] == [False, False]
    with pytest.raises(InputError, match="choose one"):
        plan([source], out, overwrite=True, skip_existing=True)


def test_a_plan_is_never_all_in_memory(tmp_path: Path) -> None:
    """Jobs are found while others are done: however many folders there are, memory is that of one."""
    for number in range(40):
        touch(tmp_path / "in", *(f"{number}/{name}.wav" for name in range(50)))
    peaks = []
    for folder in ("in/0", "in"):
        tracemalloc.start()
        assert sum(isinstance(job, Job) for job in plan([tmp_path / folder], tmp_path / "out")) in (50, 2000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


# ---------------------------------------------------------------- running


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_files_do_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.delenv("VCONV_DEBUG", raising=False)
    source, out = touch(tmp_path / "in", *(f"{k}.wav" for k in range(6)), "bad/7.wav"), tmp_path / "out"
    for name in ("1.wav", "bad/7.wav"):
        (source / name).write_text("bad")
    (source / "3.wav").write_text("fault")
    touch(out, "5_x.wav")
    seen, started = Seen(), []
    tally = batch.run(
        plan([source], out, skip_existing=True), lambda: started.append(1) or copy, seen, processes, clean=True
    )
    assert (tally.made, tally.finished, tally.seconds) == (3, 1, 6.0)
    assert sorted(str(error).split(":")[0] for error in tally.errors) == [
        str(source / name) for name in ("1.wav", "3.wav", "bad/7.wav")
    ]
    assert "RuntimeError: not foreseen" in "".join(map(str, tally.errors))
    assert (seen.finished, len(seen.started), started) == (7, 6, [1])
    assert files_in(out) == {f"{k}_x.wav" for k in (0, 2, 4, 5)}
    assert not (out / "bad").exists()  # a folder in which nothing was written goes again


@pytest.mark.parametrize("processes", [1, 2])
def test_warnings_about_recordings_come_from_all_processes(tmp_path: Path, processes: int) -> None:
    source = touch(tmp_path / "in", "a.wav", "b.wav")
    (source / "b.wav").write_text("short")
    with pytest.warns(AudioWarning, match=r"b\.wav: is cut off"):
        assert batch.run(plan([source], tmp_path / "out"), lambda: copy, Seen(), processes).made == 2


def test_nothing_is_started_without_a_job(tmp_path: Path) -> None:
    source, out = touch(tmp_path / "in", "a.wav"), touch(tmp_path / "out", "a_x.wav")

    def start() -> batch.Make:
        raise AssertionError

    tally = batch.run(plan([source], out, skip_existing=True), start, Seen())
    assert (tally.made, tally.finished) == (0, 1)


def test_jobs_are_taken_few_at_a_time(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", *(f"{k}.wav" for k in range(30)))
    seen, ahead = Seen(), []

    def todo() -> Iterator[Job | VconvError]:
        for number, job in enumerate(plan([source], tmp_path / "out")):
            ahead.append(number - seen.finished)
            yield job

    assert batch.run(todo(), lambda: copy, seen, 2).made == 30
    assert max(ahead) <= batch.QUEUED * 2


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    source = touch(tmp_path / "in", "a.wav", "b.wav")
    (source / "b.wav").write_text("die")
    with pytest.raises(VconvError, match=r"a process died.*--skip-existing"):
        batch.run(plan([source], tmp_path / "out"), lambda: copy, Seen(), 2)


def test_leftovers_of_killed_runs_go_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    old, new = ".vconv-0123456789ab.wav", ".vconv-ba9876543210.wav"
    others = {".other", ".vconv-notes.wav", ".vconv-me/a"}
    source, out = touch(tmp_path / "in", "a.wav"), touch(tmp_path / "out", old, new, *others)
    past = time.time() - STALE_SECONDS - 1
    for name in (old, *others):
        os.utime(out / name, (past, past))
    batch.run(plan([source], out, skip_existing=True), lambda: copy, Seen(), clean=True)
    assert files_in(out) == {new, *others, "a_x.wav"}


def test_errors_keep_nothing_of_the_work_in_memory(tmp_path: Path) -> None:
    source, arrays = touch(tmp_path / "in", "a.wav"), []

    def fail(job: Job, _: object) -> float:
        wave = np.zeros(10)
        arrays.append(weakref.ref(wave))
        try:
            raise OSError("damaged")
        except OSError as error:
            raise InputError(f"{job.source}: cannot be read") from error

    tally = batch.run(plan([source], tmp_path / "out"), lambda: fail, Seen())
    assert str(tally.errors[0]).endswith("cannot be read") and arrays[0]() is None


# ---------------------------------------------------------------- the command


def test_convert_in_two_processes_is_convert_in_one(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    (clips / "bad.wav").write_text("no audio")
    for out, options in (("one", ("--threads", "1")), ("two", ("--jobs", "2"))):
        done = vconv_cli("convert", clips, "-t", clips / "low.wav", "-o", tmp_path / out, "--model", model, *options)
        assert done.code == 2 and "bad.wav" in done.error
        assert "3 files: 3.7 s of audio" in done.out
    assert (
        files_in(tmp_path / "one") == files_in(tmp_path / "two") == {f"{n}_as_low.wav" for n in ("src", "low", "high")}
    )
    for name in files_in(tmp_path / "one"):
        np.testing.assert_array_equal(audio.read(tmp_path / "one" / name)[0], audio.read(tmp_path / "two" / name)[0])


def test_convert_goes_on_where_it_was(vconv_cli: Cli, clips: Path, model: Path, tmp_path: Path) -> None:
    arguments = ["convert", clips, "-t", clips / "low.wav", "-o", tmp_path / "out", "--model", model]
    assert vconv_cli("convert", clips / "src.wav", *arguments[2:-2], "--model", model).code == 0
    before = (tmp_path / "out" / "src_as_low.wav").stat()
    done = vconv_cli(*arguments, "--skip-existing")
    assert done.code == 0, done.err
    assert "2 files: 2.5 s of audio" in done.out and "1 files were there already" in done.out
    assert (tmp_path / "out" / "src_as_low.wav").stat().st_mtime_ns == before.st_mtime_ns
    done = vconv_cli(*arguments, "--skip-existing")
    assert (done.code, done.out) == (0, "3 files were there already\n")
    assert "choose one" in vconv_cli(*arguments, "--skip-existing", "--overwrite").error


@pytest.mark.skipif(sys.platform == "win32", reason="signals of another kind")
@pytest.mark.parametrize("kind", ["interrupt", "terminate", "kill"])
def test_an_interrupted_run_leaves_no_process_and_no_file(clips: Path, model: Path, tmp_path: Path, kind: str) -> None:
    for number in range(4):
        audio.write(clips / f"long{number}.flac", np.tile(speech(5.0), 40), 16000)
    command = [sys.executable, "-m", "vconv", "convert", clips, "-t", clips / "low.wav", "-o", tmp_path / "out"]
    command += ["--model", model, "--jobs", "2"]
    run = subprocess.Popen(
        list(map(str, command)),
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores interrupts, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(600):  # until the workers are at work
        if (tmp_path / "out").exists() and files_in(tmp_path / "out"):
            break
        time.sleep(0.1)
    if kind == "interrupt":
        os.killpg(run.pid, signal.SIGINT)  # as Ctrl-C at a terminal does
    else:
        run.send_signal(signal.SIGTERM if kind == "terminate" else signal.SIGKILL)
    _, err = run.communicate(timeout=60)
    assert run.returncode == {"interrupt": 130, "terminate": 143, "kill": -9}[kind]
    assert err == ""
    for _ in range(200):  # the parent's death reaches its workers a moment later
        if not group_runs(run.pid):
            break
        time.sleep(0.1)
    assert not group_runs(run.pid)
    assert not [name for name in files_in(tmp_path / "out") if ".vconv-" in name]
    for name in files_in(tmp_path / "out"):
        source = clips / name.replace("_as_low.wav", "")
        found = next(path for path in clips.iterdir() if path.stem == source.name)
        assert len(audio.read(tmp_path / "out" / name)[0]) == pytest.approx(len(audio.read(found, 24000)[0]), abs=1)


def group_runs(group: int) -> bool:
    """Whether any process of a group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
