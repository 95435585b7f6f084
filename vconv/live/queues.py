"""Queues between audio callbacks and the worker: what they hold has a bounded age, and is dropped rather than late."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

CUSHION_SECONDS = 0.03  # of sound that is to wait for the output device: computing times vary
SLACK_SECONDS = 0.02  # more than the cushion that may wait
MOST_SECONDS = 1.0  # that may wait at all, or MOST_BLOCKS where that is more
MOST_BLOCKS = 3
WATCH_SECONDS = 0.6  # over which the least that waited is looked at, or WATCH_BLOCKS where that is more
WATCH_BLOCKS = 2  # the least waits just before a block comes: one such moment has to lie within
FADE_SECONDS = 0.005  # around what is dropped


class CaptureQueue:
    """Samples on their way to the worker, the oldest dropped when they are too many. Thread-safe."""

    def __init__(self, rate: int, max_seconds: float) -> None:
        self._rate, self._most = rate, round(max_seconds * rate)
        self._blocks: deque[np.ndarray] = deque()
        self._held = self._captured = 0
        self._lock = threading.Lock()
        self.dropped_seconds = 0.0

    @property
    def clock(self) -> float:
        """Seconds captured so far."""
        return self._captured / self._rate

    @property
    def seconds(self) -> float:
        """Seconds that wait."""
        return self._held / self._rate

    def put(self, block: np.ndarray) -> None:
        """The next samples [n]; the caller keeps no hold of them."""
        with self._lock:
            self._blocks.append(block)
            self._held += len(block)
            self._captured += len(block)
            while self._held > self._most and len(self._blocks) > 1:
                oldest = self._blocks.popleft()
                self._held -= len(oldest)
                self.dropped_seconds += len(oldest) / self._rate

    def take(self) -> tuple[np.ndarray, float]:
        """All that waits [n], which may be nothing, and the ``clock`` at the end of it."""
        with self._lock:
            blocks, clock = list(self._blocks), self.clock
            self._blocks.clear()
            self._held = 0
        return np.concatenate([np.zeros(0, np.float32), *blocks]), clock


class PlayQueue:
    """Converted samples on their way to an output device. Thread-safe.

    Where they are missing, silence is played. Where too many wait for a while, as after an overload or where one
    device's clock is slower than the other's, some are dropped between two fades.

    Args:
        rate: Hz.
        block: seconds of sound that come at once.
        cushion: seconds that are to wait.
    """

    def __init__(self, rate: int, block: float, cushion: float = CUSHION_SECONDS) -> None:
        self._rate, self._cushion = rate, round(cushion * rate)
        self._most_seconds = max(MOST_SECONDS, MOST_BLOCKS * block)
        self._watch_seconds = max(WATCH_SECONDS, WATCH_BLOCKS * block)
        self._samples = np.zeros(0, np.float32)
        self._blocks: deque[tuple[int, float]] = deque()  # (position of a block's start, its capture clock)
        self._put = self._played = 0  # positions
        self._least: deque[tuple[int, int]] = deque()  # (samples pulled, samples left after it), while watched
        self._playing = False
        self._lock = threading.Lock()
        self.underruns = 0
        self.dropped_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Seconds that wait."""
        return len(self._samples) / self._rate

    @property
    def clock(self) -> float:
        """Where playing is on the capture's clock: a block that is captured until 3 s begins to play at 3 s."""
        with self._lock:
            if not self._blocks:
                return 0.0
            start, clock = self._blocks[0]
            return clock + (self._played - start) / self._rate

    def put(self, block: np.ndarray, clock: float) -> None:
        """Converted samples [n], made of sound captured until ``clock``."""
        if not len(block):
            return
        with self._lock:
            if not self._playing:
                self._samples = np.concatenate([self._samples, np.zeros(self._cushion, np.float32)])
                self._put += self._cushion
                self._playing = True
            self._samples = np.concatenate([self._samples, block])
            self._blocks.append((self._put, clock))
            self._put += len(block)
            if self.seconds > self._most_seconds:  # nobody plays: the device is gone
                self.dropped_seconds += self._advance(len(self._samples) - self._cushion) / self._rate

    def pull(self, count: int) -> np.ndarray:
        """The next samples to play, [count]."""
        with self._lock:
            out = np.zeros(count, np.float32)
            ready = self._advance(count, out)
            if ready < count and self._playing:
                self.underruns += 1
                self._playing = False
                self._least.clear()
            elif self._playing:
                self._watch(count)
            return out

    def _advance(self, count: int, out: np.ndarray | None = None) -> int:
        """Take samples off; returns how many there were."""
        ready = min(count, len(self._samples))
        if out is not None:
            out[:ready] = self._samples[:ready]
        self._samples = self._samples[ready:]
        self._played += ready
        while len(self._blocks) > 1 and self._blocks[1][0] <= self._played:
            self._blocks.popleft()
        return ready

    def _watch(self, count: int) -> None:
        """Drop what has been too many for all of the time that is watched."""
        self._least.append((count, len(self._samples)))
        watched = sum(length for length, _ in self._least)
        if watched < self._watch_seconds * self._rate:
            return
        excess = min(left for _, left in self._least) - self._cushion
        if excess > SLACK_SECONDS * self._rate:
            fade = min(round(FADE_SECONDS * self._rate), len(self._samples) - excess)
            ramp = ((np.arange(fade) + 0.5) / fade).astype(np.float32)
            before = self._samples[:fade].copy()
            self._advance(excess)
            self._samples = self._samples.copy()
            self._samples[:fade] = before * (1 - ramp) + self._samples[:fade] * ramp
            self.dropped_seconds += excess / self._rate
            self._least.clear()
        else:
            self._least.popleft()
