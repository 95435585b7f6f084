"""A live session: audio callbacks copy, one worker converts, nothing gets late for long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vconv.audio import AudioWriter
from vconv.files import check_no_input, exists_already
from vconv.live.engine import LiveConverter
from vconv.live.queues import CaptureQueue, PlayQueue

MAX_AGE_BLOCKS = 2.5  # of captured sound that waits for the worker; what is older is dropped
TIMED_BLOCKS = 600  # computing times that the read-out looks at: about a minute
RECORDINGS = ("input.wav", "output.wav")
LEVEL_FALL = 0.8  # of a peak meter, from one block to the next


@dataclass
class Controls:
    """What a user changes while a session runs."""

    input_gain: float = 1.0
    output_gain: float = 1.0
    muted: bool = False


@dataclass(frozen=True)
class Status:
    """A session at one moment; times in seconds."""

    input_level: float  # dBFS, of peaks
    output_level: float
    compute_p50: float  # of a block
    compute_p99: float
    waiting: float  # of captured sound for the worker, and of converted sound for the device
    lag: float  # from a block's being captured to its being played: computing and waiting
    underruns: int
    dropped: float  # of sound, since the start


def check_recordings(folder: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    """See before a session that its recordings replace nothing, or with ``overwrite`` none of its inputs.

    Raises:
        InputError: the folder holds recordings, or an input under their names.
    """
    for name in RECORDINGS:
        check_no_input(folder / name, inputs, "--record")
        if (folder / name).exists() and not overwrite:
            raise exists_already(folder / name, "--record")


class Recorder:
    """Both sides of a session as ``RECORDINGS`` in a folder; they appear when it ends, in place of earlier ones.

    A session that has converted nothing replaces nothing.
    """

    def __init__(self, folder: Path, rate_in: int, rate_out: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.input, self.output = (
                stack.enter_context(AudioWriter(folder / name, rate))
                for name, rate in zip(RECORDINGS, (rate_in, rate_out))
            )
            self._open = stack.pop_all()

    def close(self) -> None:
        with contextlib.suppress(_Empty), self._open:
            if not self.output.samples:
                raise _Empty


class _Empty(Exception):
    """Has the files of a ``Recorder`` discarded."""


class Session:
    """Connects a live converter with devices, which call ``captured`` and ``play`` from their callbacks.

    ``work`` is one turn of the worker; ``start`` runs it in a thread until ``stop``.
    """

    def __init__(self, live: LiveConverter, recorder: Recorder | None = None, monitored: bool = False) -> None:
        self.live, self.controls = live, Controls()
        self._capture = CaptureQueue(live.rate_in, MAX_AGE_BLOCKS * live.block)
        self._play = PlayQueue(live.rate_out, live.block)
        self._monitor = PlayQueue(live.rate_out, live.block) if monitored else None
        self._recorder = recorder
        self._seconds: deque[float] = deque(maxlen=TIMED_BLOCKS)
        self._peaks = [0.0, 0.0]  # in, out
        self._arrived, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None  # what ended the worker

    # ---------------------------------------------------------------- from audio callbacks

    def captured(self, block: np.ndarray) -> None:
        """Samples [n] at ``live.rate_in`` have come; they are copied."""
        self._capture.put(np.array(block, np.float32))
        self._arrived.set()

    def play(self, count: int) -> np.ndarray:
        """The next samples for the output device, [count] at ``live.rate_out``."""
        return self._play.pull(count)

    def play_monitor(self, count: int) -> np.ndarray:
        """The same sound for the monitor device."""
        return self._monitor.pull(count) if self._monitor else np.zeros(count, np.float32)

    # ---------------------------------------------------------------- worker

    def work(self) -> bool:
        """Convert what has been captured; returns whether there was anything."""
        block, clock = self._capture.take()
        if not len(block):
            return False
        self.give(self.convert(block), clock)
        return True

    def take(self) -> tuple[np.ndarray, float]:
        """What has been captured, and until which time of the capture's clock."""
        return self._capture.take()

    def convert(self, block: np.ndarray) -> np.ndarray:
        """Captured samples [n] through gains, mute and the converter: [m]"""
        started = time.perf_counter()
        controls = self.controls
        block = block * np.float32(0.0 if controls.muted else controls.input_gain)
        block = np.nan_to_num(block, posinf=0.0, neginf=0.0)  # as the converter takes it
        out = self.live.process(block) * np.float32(controls.output_gain)
        if len(out):
            self._seconds.append(time.perf_counter() - started)
        for side, wave in enumerate((block, out)):
            if len(wave):
                self._peaks[side] = max(float(np.abs(wave).max()), self._peaks[side] * LEVEL_FALL)
        if self._recorder:
            self._recorder.input.write(block)
            self._recorder.output.write(out)
        return out

    def give(self, out: np.ndarray, clock: float) -> None:
        """Converted samples [m], of sound captured until ``clock``, to the output devices."""
        self._play.put(out, clock)
        if self._monitor:
            self._monitor.put(out, clock)

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self._run, name="vconv live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the worker, and finish what is recorded."""
        self._stopping.set()
        self._arrived.set()
        if self._thread:
            self._thread.join()
        if self._recorder:
            self._recorder.close()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._arrived.wait()
                self._arrived.clear()
                self.work()
        except Exception as error:  # shown by whoever watches the session
            self.failure = error

    # ---------------------------------------------------------------- read-out

    @property
    def lag(self) -> float:
        """Seconds from a block's being captured to its being played."""
        return max(0.0, self._capture.clock - self._play.clock)

    @property
    def status(self) -> Status:
        times = np.array(self._seconds) if self._seconds else np.zeros(1)
        return Status(
            input_level=_decibels(self._peaks[0]),
            output_level=_decibels(self._peaks[1]),
            compute_p50=float(np.percentile(times, 50)),
            compute_p99=float(np.percentile(times, 99)),
            waiting=self._capture.seconds + self._play.seconds,
            lag=self.lag,
            underruns=self._play.underruns,
            dropped=self._capture.dropped_seconds + self._play.dropped_seconds,
        )


def _decibels(value: float) -> float:
    return 20 * float(np.log10(max(value, 1e-6)))
