"""One file to make from another, and what came of many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vconv.errors import VconvError
from vconv.inference.output import Progress


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


# Makes a job's output and reports its progress; returns seconds of audio, or more than that.
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
