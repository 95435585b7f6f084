"""Asking the judges about many clips: each question once, over several processes, answers kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from vconv import audio
from vconv.errors import VconvError
from vconv.evaluation.cache import Cache
from vconv.evaluation.judges import JUDGES, RATE, Panel, Settings
from vconv.files import digest

Report = Callable[[int, int], None]  # is told what is done and what there is to do


@dataclass(frozen=True)
class Question:
    """A measurement to make: a judge, and the one or two clips that it measures.

    ``language`` is given to judges that depend on it (``Judge.by_language``) and is empty for the others.
    """

    judge: str
    paths: tuple[Path, ...]
    language: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a judge has no answer."""

    reason: str


@dataclass
class _Task:
    """Questions about one clip, or one pair of clips, which is read once for all of them."""

    paths: tuple[Path, ...]
    language: str
    keys: dict[str, str] = field(default_factory=dict)  # in the cache, by judge


@dataclass
class Answers:
    """Values of judges. ``paths`` of one content share what is known about it."""

    settings: Settings
    cache: Cache
    failures: dict[str, Failure] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=dict)

    def key(self, question: Question) -> str:
        """By contents and the judge's version."""
        if question.judge not in self._versions:
            self._versions[question.judge] = JUDGES[question.judge].version(self.settings)
        version = ", ".join(filter(None, (self._versions[question.judge], question.language)))
        return "|".join([question.judge, version, *map(self.digest, question.paths)])

    def digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = digest(path)
        return self._digests[path]

    def get(self, judge: str, *paths: Path, language: str = "") -> Any | Failure:
        """A judge's answer; KeyError where the question was not among those of ``ask``."""
        key = self.key(Question(judge, paths, language))
        if key in self.failures:
            return self.failures[key]
        value = self.cache.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def ask(self, questions: Iterable[Question], jobs: int, report: Report = lambda done, total: None) -> None:
        """Have answers to all questions, some of them perhaps from the cache.

        Raises:
            VconvError: a process of the judges died.
        """
        tasks = self._open_tasks(questions)
        for done, (task, values) in enumerate(_work(tasks, self.settings, jobs), 1):
            for judge, value in values.items():
                if isinstance(value, Failure):
                    self.failures[task.keys[judge]] = value
                else:
                    self.cache.put(task.keys[judge], value)
            report(done, len(tasks))

    def _open_tasks(self, questions: Iterable[Question]) -> list[_Task]:
        tasks: dict[tuple[str, ...], _Task] = {}
        for question in questions:
            key = self.key(question)
            if self.cache.get(key) is None:
                about = (*map(self.digest, question.paths), question.language)
                tasks.setdefault(about, _Task(question.paths, question.language)).keys[question.judge] = key
        return list(tasks.values())


# ---------------------------------------------------------------- in the processes


def read_wave(path: Path) -> np.ndarray:
    """A clip as input of the judges: 16 kHz mono, within full scale."""
    wave, rate = audio.read(path)
    wave = audio.resample(wave, rate, RATE)
    return np.ascontiguousarray(wave / max(float(np.abs(wave).max(initial=0.0)), 1.0), np.float32)


def _answer(panel: Panel, task: _Task) -> dict[str, Any]:
    """What each judge says, or a Failure. Whatever a judge raises belongs to this clip alone."""
    try:
        waves = [read_wave(path) for path in task.paths]
    except VconvError as error:
        return dict.fromkeys(task.keys, Failure(str(error)))
    values: dict[str, Any] = {}
    for judge in task.keys:
        try:
            values[judge] = panel.ask(judge, *waves, language=task.language)
        except Exception as error:
            names = " and ".join(map(str, task.paths))
            reason = error if isinstance(error, VconvError) else f"{type(error).__name__}: {error}"
            values[judge] = Failure(f"{names}: {JUDGES[judge].label} failed ({reason})")
    return values


_panel: Panel | None = None  # of a worker process, so that judges are loaded once in each


def _start_worker(settings: Settings) -> None:
    global _panel
    _panel = Panel(settings)


def _answer_in_worker(task: _Task) -> dict[str, Any]:
    assert _panel is not None
    return _answer(_panel, task)


# ---------------------------------------------------------------- over the processes


def _work(tasks: list[_Task], settings: Settings, jobs: int) -> Iterator[tuple[_Task, dict[str, Any]]]:
    """Tasks and their values, as they come."""
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        panel = Panel(settings)
        for task in tasks:
            yield task, _answer(panel, task)
        return
    with workers(jobs, _start_worker, settings) as pool:
        waiting = {pool.submit(_answer_in_worker, task): task for task in tasks}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()


@contextlib.contextmanager
def workers(count: int, start: Callable[..., None], *arguments: object) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes, each of one thread; what waits in it is dropped when the context is left by an error.

    Raises:
        VconvError: a process died.
    """
    with _one_thread_each():
        pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=start, initargs=arguments)
        try:
            yield pool
        except BrokenProcessPool as error:
            raise VconvError("a worker process died, perhaps for want of memory; try --jobs 1") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Libraries that start a thread for every core would get in the way of the other processes."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
