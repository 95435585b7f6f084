"""Many files at once: what is written where, in how many processes, and one bad file that does not stop the others.

Jobs are found while others are worked on, so a corpus of any size takes the memory of its largest folder.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vconv import audio
from vconv.errors import InputError, VconvError, unforeseen
from vconv.files import exists_already, remove_stale
from vconv.inference.converter import Target
from vconv.inference.loading import load
from vconv.inference.output import Progress
from vconv.model_folder import default_model
from vconv.opening import STANDARD_STREAM, is_folder
from vconv.processes import begin_worker
from vconv.voices.check import UNUSUAL, Checker, Verdict
from vconv.voices.mixing import target_voice
from vconv.voices.population import population_of

LEFTOVERS = ".vconv-*"  # what a killed process may leave in the folder of an output
LONGEST_NAME = 255  # bytes, on nearly all file systems
QUEUED = 2  # jobs a process: one being done, one waiting


@dataclass(frozen=True)
class Job:
    """One file to make from another."""

    source: Path
    output: Path
    finished: bool = False  # an earlier run has made it


@dataclass(frozen=True)
class Made:
    """Seconds of audio that were made, and what there is to say about it."""

    seconds: float
    remark: str = ""


# Makes a job's output and tells its progress; returns seconds of audio, or more than that.
Make = Callable[[Job, Progress], float | Made]
Outcome = float | Made | VconvError


class Watcher(Protocol):
    """Receives the progress of a batch."""

    def start(self, name: Path) -> None:
        """A file begins."""

    def advance(self, seconds: float) -> None:
        """So many more seconds of the file's audio are done."""

    def done(self) -> None:
        """One more file is done with."""


# ---------------------------------------------------------------- what is to do


@dataclass(frozen=True)
class Plan:
    """What is made from what. Iterating finds the jobs, and what is wrong with sources that cannot be tried.

    Args:
        sources: files and folders; a folder stands for the audio in it, at any depth, without what the plan
            itself writes there.
        output: a file (one source file only), or a folder, in which the folders of the sources are kept.
            None writes beside each source.
        rename: the stem of a source to that of its output.
        suffix: of the outputs, where ``output`` does not name the file.
        overwrite: replace outputs that exist.
        skip_existing: take outputs that exist for finished. Outputs appear whole, so an interrupted batch goes
            on in this way; what they were made with is not looked at.
        protected: files that are no output, whatever ``overwrite`` says.
        reads: suffixes of the files that a folder stands for.

    Raises:
        InputError: ``output`` is a file, but there are several sources; or it is both to be replaced and skipped.
    """

    sources: Sequence[Path]
    output: Path | None
    rename: Callable[[str], str]
    suffix: str
    overwrite: bool = False
    skip_existing: bool = False
    protected: Sequence[Path] = ()
    reads: frozenset[str] = audio.READ_SUFFIXES
    _single: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.overwrite and self.skip_existing:
            raise InputError("--overwrite replaces what is there and --skip-existing keeps it; choose one")
        single = self.output is not None and _is_file_name(self.output, self.sources, self.suffix)
        object.__setattr__(self, "_single", single)

    def __iter__(self) -> Iterator[Job | VconvError]:
        files = [source for source in self.sources if not is_folder(source)]
        named: dict[Path, Path] = {}
        for file in files:
            yield self._job(file, self._place(file, Path()), named)
        folders = [source for source in self.sources if is_folder(source)]
        for number, root in enumerate(folders):
            found = False
            unreadable: list[InputError] = []
            for folder, names in audio.walk_audio(root, self.reads, unreadable.append):
                if self._is_output(folder, root):
                    continue
                found = True
                inside = folder.relative_to(root)
                makers = named | self._makers(folders[:number], inside)
                places = {folder / name: self._place(folder / name, inside) for name in names}
                own = {os.path.abspath(place) for place in places.values()}
                for file, place in places.items():
                    if os.path.abspath(file) not in own:
                        yield self._job(file, place, makers)
            yield from unreadable
            if not found and not unreadable:
                yield self._nothing_in(root)

    def count(self) -> int:
        """How many files iterating gives; it goes through all folders to see."""
        return sum(1 for _ in self)

    def _place(self, file: Path, inside: Path) -> Path:
        """The output of a file that lies ``inside`` a source folder."""
        if self._single and self.output:
            return self.output
        if file == STANDARD_STREAM and self.output is None:
            raise InputError("standard input: has no folder for its result; name an output with -o")
        folder = file.parent if self.output is None else self.output / inside
        return folder / f"{self.rename(file.stem)}{self.suffix}"

    def _nothing_in(self, root: Path) -> InputError:
        if self.reads == audio.READ_SUFFIXES:
            return audio.no_audio_in(root)
        return InputError(f"{root}: no {' or '.join(sorted(self.reads))} files in this folder; check the path")

    def _is_output(self, folder: Path, root: Path) -> bool:
        """Whether ``folder`` is the output folder, or in it, where that lies in the source that is walked."""
        if self.output is None:
            return False
        output, top = Path(os.path.abspath(self.output)), Path(os.path.abspath(root))
        inside = output != top and output.is_relative_to(top)
        return inside and Path(os.path.abspath(folder)).is_relative_to(output)

    def _makers(self, earlier: Sequence[Path], inside: Path) -> dict[Path, Path]:
        """What sources walked earlier write into the same folder, and which file each is made from."""
        makers: dict[Path, Path] = {}
        if self.output is not None:
            for folder in (root / inside for root in earlier if (root / inside).is_dir()):
                files = (file for file in folder.iterdir() if audio.is_audio_name(file.name, self.reads))
                makers |= {self._place(file, inside): file for file in files}
        return makers

    def _job(self, source: Path, output: Path, makers: dict[Path, Path]) -> Job | VconvError:
        """The job, or why it cannot be tried; ``makers`` learns of it."""
        try:
            return self._checked_job(source, output, makers)
        except OSError as error:
            return InputError(f"{source}: cannot be looked at ({error.strerror}); check its folder")
        except ValueError as error:  # a NUL in the name
            return InputError(f"{str(source)!r}: is no name of a file ({error}); check the path")

    def _checked_job(self, source: Path, output: Path, makers: dict[Path, Path]) -> Job | VconvError:
        """The same; what the file system refuses is raised."""
        if source != STANDARD_STREAM and not source.exists():
            return InputError(f"{source}: no such file; check the path")
        if output in makers:
            return InputError(f"{source}: would be written to {output}, as {makers[output]} is; rename one of them")
        makers[output] = source
        if len(os.fsencode(output.name)) > LONGEST_NAME:
            return InputError(f"{source}: the name of its output, {output.name}, is too long; give one with -o")
        if output == STANDARD_STREAM or not output.exists():
            return Job(source, output)
        inputs = (path for path in (source, *self.protected) if path.exists())
        if output.is_file() and any(output.samefile(path) for path in inputs):
            return InputError(f"{output}: is an input and cannot be the output too; choose another place with -o")
        if not self.overwrite and not self.skip_existing:
            return exists_already(output)
        return Job(source, output, finished=self.skip_existing)


def _is_file_name(output: Path, sources: Sequence[Path], suffix: str) -> bool:
    if output == STANDARD_STREAM:
        return True
    if is_folder(output) or not output.suffix:
        return False
    if len(sources) == 1 and not is_folder(sources[0]):
        return True
    if output.is_file() or output.suffix.lower() in (suffix, *audio.WRITE_FORMATS):
        raise InputError(f"{output}: is one file, but there are several sources; name a folder with -o")
    return False


# ---------------------------------------------------------------- doing it


@dataclass
class Tally:
    """What came of a batch."""

    made: int = 0
    seconds: float = 0.0  # of audio
    finished: int = 0  # files that were there already
    errors: list[VconvError] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    last: Path | None = None  # output made

    def add(self, job: Job, outcome: Outcome) -> None:
        if isinstance(outcome, VconvError):
            self.errors.append(outcome)
            return
        made = outcome if isinstance(outcome, Made) else Made(outcome)
        self.made += 1
        self.seconds += made.seconds
        self.last = job.output
        if made.remark:
            self.remarks.append(made.remark)


def run(
    todo: Iterable[Job | VconvError],
    start: Callable[[], Make],
    watcher: Watcher,
    processes: int = 1,
    clean: bool = False,
) -> Tally:
    """Do all jobs; one that fails is kept in the tally and does not stop the others.

    Args:
        todo: a ``Plan``.
        start: gives what makes a file. Called once there is a job; for several ``processes`` its result must pickle.
        clean: remove what killed runs have left in the folders of the outputs.

    Raises:
        VconvError: ``start`` failed, or a process died.
    """
    tally = Tally()
    with Folders(clean) as folders:
        pending = _pending(todo, tally, folders, watcher)
        first = next(pending, None)
        if first is None:
            return tally
        pending, make = itertools.chain([first], pending), start()
        outcomes = _in_turn(pending, make, watcher) if processes == 1 else _spread(pending, make, processes, watcher)
        with contextlib.closing(outcomes):
            for job, outcome in outcomes:
                tally.add(job, outcome)
                watcher.done()
    return tally


def _pending(todo: Iterable[Job | VconvError], tally: Tally, folders: Folders, watcher: Watcher) -> Iterator[Job]:
    """The jobs that are left to do, each with its folder made."""
    for item in todo:
        try:
            if isinstance(item, VconvError):
                raise item
            folders.make(item.output.parent)
        except VconvError as error:
            tally.errors.append(error)
        else:
            if not item.finished:
                yield item
                continue
            tally.finished += 1
        watcher.done()


def attempt(make: Make, job: Job, progress: Progress = lambda _: None) -> Outcome:
    """What was made, or what went wrong; a fault of ours must not cost the other files either."""
    try:
        return make(job, progress)
    except VconvError as error:
        return error
    except Exception as error:
        if os.environ.get("VCONV_DEBUG"):
            raise
        return unforeseen(error, str(job.source))


def _in_turn(jobs: Iterator[Job], make: Make, watcher: Watcher) -> Generator[tuple[Job, Outcome], None, None]:
    for job in jobs:
        watcher.start(job.source)
        yield job, attempt(make, job, watcher.advance)


def _spread(
    jobs: Iterator[Job], make: Make, processes: int, watcher: Watcher
) -> Generator[tuple[Job, Outcome], None, None]:
    """The jobs over several processes; few of them are taken from the iterator ahead of time."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin_worker, (make,))
    running: dict[Future[Outcome], Job] = {}
    try:
        more = True
        while more or running:
            while more and len(running) < QUEUED * processes:
                job = next(jobs, None)
                more = job is not None
                if job:
                    running[pool.submit(_work, job)] = job
                    watcher.start(job.source)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise VconvError(
            "a process died, perhaps for lack of memory; go on with --skip-existing and fewer --jobs"
        ) from error
    except BaseException:
        # Interrupted: what is running stops at once, and each worker removes its temporary file.
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown()


_make: Make | None = None  # in a worker


def _begin_worker(make: Make) -> None:
    global _make
    _make = make
    begin_worker()


def _work(job: Job) -> Outcome:
    assert _make
    try:
        return attempt(_make, job)
    except SystemExit as stop:  # the pool would take it for a result and go on
        os._exit(int(stop.code or 0))


class Folders:
    """Makes the folders of outputs; those in which nothing was written go again when the context ends."""

    def __init__(self, clean: bool = False) -> None:
        self._clean = clean
        self._made: list[Path] = []
        self._seen: set[Path] = set()

    def make(self, folder: Path) -> None:
        """Raises InputError where it cannot be made."""
        if folder in self._seen:
            return
        self._seen.add(folder)
        missing = [place for place in (folder, *folder.parents) if not place.exists()]  # the deepest first
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot make this folder ({error.strerror}); choose another with -o") from error
        self._made += reversed(missing)
        if self._clean:
            remove_stale(folder, LEFTOVERS)

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


class Conversion:
    """Converts one file after another to one voice, which is made here, once.

    With ``check``, and where the model has a population of voices, it remarks on sources that are no speech.
    Sent to another process it takes the voice along and leaves the networks behind, which are loaded there.

    Raises:
        InputError: the model or the target cannot be used.
    """

    def __init__(
        self,
        model: Path | None,
        device: str,
        threads: int | None,
        target: list[Target],
        pitch: float = 0.0,
        keep_pitch: bool = False,
        check: bool = False,
        overwrite: bool = True,
    ) -> None:
        self._load = (model, device, threads)
        self._converter = load(*self._load)
        self._voice = target_voice(self._converter, target)
        self._check = check
        self._checker: Checker | None = None
        self._pitch, self._keep_pitch, self._overwrite = pitch, keep_pitch, overwrite

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_converter": None, "_checker": None}

    def elsewhere(self, device: str, threads: int | None) -> Conversion:
        """The same, for processes that have another device."""
        other = copy.copy(self)
        other._load = (self._load[0], device, threads)
        return other

    def __call__(self, job: Job, progress: Progress = lambda _: None) -> float | Made:
        if self._converter is None:
            self._converter = load(*self._load)
        verdicts: list[Verdict] = []
        checker = self._ready_checker() if self._check else None
        seconds = self._converter.convert_file(
            job.source,
            self._voice,
            job.output,
            pitch=self._pitch,
            keep_pitch=self._keep_pitch,
            progress=progress,
            overwrite=self._overwrite,
            inspect=(lambda analysis: verdicts.append(checker.analysed(analysis))) if checker else None,
        )
        if not verdicts or verdicts[0].score >= UNUSUAL:
            return seconds
        verdict = verdicts[0]
        return Made(seconds, f"{job.source}: is {verdict.text} (score {verdict.score:.2f}); converted all the same")

    def _ready_checker(self) -> Checker | None:
        """Made when it is first needed; None for a model without a population that fits."""
        if self._checker is None:
            try:
                self._checker = Checker(self._converter, population_of(self._load[0] or default_model()))
            except InputError:
                self._check = False
        return self._checker
