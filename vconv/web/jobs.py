"""One worker for everything that needs the model: jobs wait in a queue, tell their progress and can be cancelled."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vconv.errors import VconvError, unforeseen
from vconv.web.inputs import Refusal

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
KEPT = 500  # ended jobs without a result: results are limited by their bytes
_FIRST_ESTIMATE = 0.05  # share of the work after which the time left is told


class Cancelled(Exception):
    """Raised inside a job that is to stop."""


@dataclass
class Job:
    """A piece of work.

    Args:
        title: for the page.
        folder: its own, for results.
        total: seconds of audio to work through; 0 if unknown.
        names: what messages call a path.
    """

    id: str
    title: str
    folder: Path
    total: float = 0.0
    names: Mapping[str, str] = field(default_factory=dict)
    state: str = QUEUED
    stage: str = ""
    done: float = 0.0  # seconds of audio
    started: float = 0.0
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0  # of the result
    cancel: threading.Event = field(default_factory=threading.Event)

    def enter(self, stage: str) -> None:
        """A new stage of the work begins."""
        self.stage = stage
        self.check()

    def advance(self, seconds: float) -> None:
        """So many more seconds of audio are done."""
        self.done += seconds
        self.check()

    def check(self) -> None:
        """Raise Cancelled if the job is to stop."""
        if self.cancel.is_set():
            raise Cancelled

    def describe(self, ahead: int = 0) -> dict[str, Any]:
        """For the page; ``ahead`` jobs come before it."""
        share = min(self.done / self.total, 1.0) if self.total else 0.0
        elapsed = time.monotonic() - self.started if self.state == RUNNING else 0.0
        known = self.state == RUNNING and share >= _FIRST_ESTIMATE
        return {
            "id": self.id,
            "title": self.title,
            "state": self.state,
            "stage": self.stage,
            "progress": 1.0 if self.state == DONE else round(share, 3),
            "left": round(elapsed * (1 - share) / share, 1) if known else None,
            "ahead": ahead,
            "error": self.error,
            "result": self.result,
        }


Work = Callable[[Job], dict[str, Any]]


class Jobs:
    """The queue and its worker thread.

    Args:
        folder: for the folders of the jobs.
        waiting: jobs that may wait; more are refused.
        most_bytes: of all results; the oldest are deleted for newer ones.
    """

    def __init__(self, folder: Path, waiting: int, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._waiting = waiting
        self._jobs: dict[str, Job] = {}
        self._dropped: dict[str, str] = {}  # titles of jobs whose results made room for newer ones
        self._queue: queue.SimpleQueue[tuple[Job, Work] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.model = threading.Lock()  # held by whoever runs the model: a job, or a live conversion
        self._thread = threading.Thread(target=self._run, name="vconv-web-jobs", daemon=True)
        self._thread.start()

    def submit(self, title: str, work: Work, total: float = 0.0, names: Mapping[str, str] | None = None) -> Job:
        """Queue a piece of work.

        Raises:
            Refusal: too many are waiting.
        """
        with self._lock:
            if sum(job.state == QUEUED for job in self._jobs.values()) >= self._waiting:
                raise Refusal(503, f"{self._waiting} jobs are waiting already; try again when some are done")
            key = secrets.token_hex(8)
            job = Job(key, title, self._folder / key, total, names or {})
            job.folder.mkdir()
            self._jobs[key] = job
        self._queue.put((job, work))
        return job

    def get(self, key: object) -> Job:
        """A job by its id.

        Raises:
            Refusal: there is none.
        """
        with self._lock:
            job = self._jobs.get(key) if isinstance(key, str) else None
        if job is None:
            raise Refusal(404, "this job is not there any more; start it again")
        return job

    def result(self, key: object) -> Job:
        """A job that is done.

        Raises:
            Refusal: there is none, or it has no result.
        """
        job = self.get(key)
        if job.state != DONE:
            raise Refusal(409, "this job has no result")
        return job

    def title(self, key: object) -> str:
        """What people call a job, which may be there no more."""
        with self._lock:
            job = self._jobs.get(key) if isinstance(key, str) else None
            return job.title if job else self._dropped.get(str(key), str(key))

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        with self._lock:
            return any(job.state in (QUEUED, RUNNING) for job in self._jobs.values())

    def describe(self, job: Job) -> dict[str, Any]:
        """For the page, with the place in the queue."""
        with self._lock:
            before = [other for other in self._jobs.values() if other.state in (QUEUED, RUNNING)]
        ahead = before.index(job) if job.state == QUEUED and job in before else 0
        return job.describe(ahead)

    def remove(self, key: str) -> None:
        """Cancel a job, or delete the result of one that has ended."""
        job = self.get(key)
        job.cancel.set()
        with self._lock:
            if job.state == QUEUED:
                job.state = CANCELLED
            if job.state == RUNNING:
                return
            self._jobs.pop(key, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def stop(self) -> None:
        """Cancel everything and wait a little for the worker."""
        with self._lock:
            for job in self._jobs.values():
                job.cancel.set()
        self._queue.put(None)
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            job, work = entry
            with self.model:
                with self._lock:
                    if job.cancel.is_set():
                        job.state = CANCELLED
                        continue
                    job.state, job.started = RUNNING, time.monotonic()
                state, error = _outcome(job, work)
                if state != DONE:  # before the job shows as ended: who sees that finds no folder left
                    shutil.rmtree(job.folder, ignore_errors=True)
                with self._lock:
                    job.error, job.state = error, state
                    job.bytes = _size(job.folder) if state == DONE else 0
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Delete results until all that are left may be kept, of which the latest always is; and forget failures."""
        with self._lock:
            finished = [job for job in self._jobs.values() if job.state in (DONE, FAILED, CANCELLED)]
            results = [job for job in finished if job.bytes]
            dropped = [job for job in finished if not job.bytes][:-KEPT]
            total = sum(job.bytes for job in results)
            while len(results) > 1 and total > self._most_bytes:
                old = results.pop(0)
                total -= old.bytes
                self._dropped[old.id] = old.title
                dropped.append(old)
            for old in dropped:
                del self._jobs[old.id]
        for old in dropped:
            shutil.rmtree(old.folder, ignore_errors=True)


def _outcome(job: Job, work: Work) -> tuple[str, str]:
    """Do it: the state that it ends in, and the error."""
    try:
        job.result = work(job)
    except Cancelled:
        return CANCELLED, ""
    except (VconvError, Refusal) as failure:
        return FAILED, one_line(failure, job.names)
    except OSError as failure:
        return FAILED, system_failure(failure)
    except Exception as failure:  # a fault must not end the worker
        return FAILED, one_line(f"{type(failure).__name__}: {failure}. This is a fault in vconv", job.names)
    return DONE, ""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def system_failure(error: OSError) -> str:
    """What the page is told of a file that cannot be used: one line, without its path."""
    return one_line(unforeseen(OSError(error.errno, error.strerror), "a file of vconv web"))


def one_line(message: object, names: Mapping[str, str] | None = None) -> str:
    """A message in one line, with the names that the client knows in place of paths."""
    line = " ".join(str(message).split())
    for path, name in (names or {}).items():
        line = line.replace(path, name)
    return line.encode("utf-8", "backslashreplace").decode()  # of a path that is not UTF-8
