"""For processes that can be killed at any time: workers end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from vconv.errors import AudioWarning, VconvError, pass_audio_warnings
from vconv.signals import end_on_signals

T, R = TypeVar("T"), TypeVar("R")

IN_FLIGHT = 4  # tasks a process that are handed out, or done and not yet taken: what bounds the memory

_messages: list[str] = []  # in a worker: of the warnings about recordings since its last task


def begin_worker() -> None:
    """For a pool's ``initializer``: Ctrl-C is the parent's business, which ends its workers, and so does its death.

    Warnings about recordings are kept for ``with_warnings``: a worker's stderr may go nowhere.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_on_signals()
    pass_audio_warnings(_messages.append)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Workers wait for jobs for ever; one whose parent was killed would never end."""
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def die_with_parent(_: int = 0) -> None:
    """For workers of others, as a DataLoader's, that begin with their number: at their parent's death they end at once.

    Unwinding is not for them: they would wait for somebody to take what they have made.
    """
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)


def with_warnings(function: Callable[[T], R], task: T) -> tuple[R, list[str]]:
    """In a worker: ``function`` of a task, and the messages of the warnings about recordings, for ``warn_again``."""
    result = function(task)
    messages = _messages.copy()
    _messages.clear()
    return result, messages


def warn_again(outcome: tuple[R, list[str]]) -> R:
    """The result in what ``with_warnings`` gave; its warnings are given in this process."""
    result, messages = outcome
    for message in messages:
        warnings.warn(message, AudioWarning, stacklevel=3)
    return result


def map_in_order(function: Callable[[T], R], tasks: Iterable[T], processes: int) -> Iterator[R]:
    """``function`` of each task, in the tasks' order. Unlike a pool's own ``map`` it does not take all tasks at once.

    Raises:
        VconvError: a process died.
    """
    if processes == 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), begin_worker)
    waiting: deque[Future[tuple[R, list[str]]]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(with_warnings, function, task))
            if len(waiting) >= IN_FLIGHT * processes:
                yield warn_again(waiting.popleft().result())
        while waiting:
            yield warn_again(waiting.popleft().result())
    except BrokenProcessPool as error:
        raise VconvError("a worker process died, perhaps for lack of memory; run again with fewer of them") from error
    finally:
        pool.shutdown(cancel_futures=True)
