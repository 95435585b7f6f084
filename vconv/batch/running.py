"""Jobs in one process or several; one bad file does not stop the others."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from vconv import audio
from vconv.batch.jobs import Job, Make, Outcome, Tally, Watcher
from vconv.errors import InputError, VconvError, unforeseen
from vconv.files import remove_stale
from vconv.inference.output import Progress
from vconv.opening import STANDARD_STREAM
from vconv.processes import begin_worker, warn_again, with_warnings
from vconv.signals import raise_interruption

QUEUED = 2  # jobs a process: one being done, one waiting


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
        # Without the frames of the work, whose arrays would stay in memory as long as the error.
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:
        raise_interruption(error)
        if isinstance(error, BrokenPipeError) and job.output == STANDARD_STREAM:
            raise  # the reader has gone, which is no fault of the source
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
    running: dict[Future[tuple[Outcome, list[str]]], Job] = {}
    try:
        more = True
        while more or running:
            while more and len(running) < QUEUED * processes:
                job = next(jobs, None)
                more = job is not None
                if job:
                    running[pool.submit(with_warnings, _work, job)] = job
                    watcher.start(job.source)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), warn_again(future.result())
    except BrokenProcessPool as error:
        raise VconvError(
            "a process died, perhaps for lack of memory; go on with --skip-existing and fewer --jobs"
        ) from error
    except BaseException:
        # Interrupted: what is running stops at once, and each worker removes its temporary file. The pool is shut down
        # once only, below: without waiting it would forget its thread, which then races the end of the process.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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
            remove_stale(folder, audio.TEMPORARY_FILES)

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
