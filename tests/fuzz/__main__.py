"""Mutated files for some minutes: ``python -m tests.fuzz --minutes 5 --seed 0``; exit code 1 if anything was found.

What is found is printed with its kind, seed and number, and the file is kept. ``--again KIND:NUMBER`` does that one
again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("audio", "voices", "tokens", "configs", "checkpoints", "manifests")
NEEDS = {"checkpoints": ("torch", "onnxscript"), "configs": ("yaml",)}
HANG_SECONDS = 20.0
START_SECONDS = 120.0  # for imports and the files to mutate
MEMORY_BYTES = 1 << 30
POLL_SECONDS = 0.1


@dataclass
class Tally:
    """What came of a kind's mutations."""

    done: int = 0
    findings: list[str] = field(default_factory=list)


class Worker:
    """A process that uses mutated files of one kind from a number on, and what it tells."""

    def __init__(self, kind: str, seed: int, first: int, step: int, folder: Path, command: str = "") -> None:
        arguments = [kind, str(seed), str(first), str(step), str(folder), command]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")},
            start_new_session=True,
        )
        self.events: queue.Queue[dict] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.put(json.loads(line))

    def memory(self) -> int:
        """Its largest resident set so far in bytes; 0 where /proc does not tell."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def fuzz(kind: str, seed: int, first: int, seconds: float, folder: Path) -> Tally:
    """Mutations of one kind for so long; a worker that fails is replaced from the next mutation on."""
    tally, until = Tally(), time.monotonic() + seconds
    while time.monotonic() < until:
        worker, current = Worker(kind, seed, first, 1, folder), None
        begun = time.monotonic()
        reason = ""
        while not reason and time.monotonic() < until:
            try:
                event = worker.events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                event = None
            if event:
                current, begun, first = event, time.monotonic(), event["number"]
                if event["event"] == "end":
                    tally.done += 1
                    first += 1
                    reason = event["reason"]
            elif worker.process.poll() is not None:
                reason = f"the process ended with {worker.process.returncode}\n{_tail(folder / 'printed.txt')}"
            elif time.monotonic() - begun > (HANG_SECONDS if current else START_SECONDS):
                reason = f"nothing for {time.monotonic() - begun:.0f} s"
            if not reason and worker.memory() > MEMORY_BYTES:
                reason = f"{worker.memory() / 1e6:.0f} MB in memory"
        worker.end()
        if reason:
            if current is None:
                raise SystemExit(f"{kind}: no mutation was begun: {reason}")
            tally.findings.append(_keep(kind, seed, current, reason, folder))
            print(tally.findings[-1], flush=True)
            first = current["number"] + 1
            if current["event"] == "begin":
                tally.done += 1
    return tally


def _keep(kind: str, seed: int, event: dict, reason: str, folder: Path) -> str:
    """Keep the file of a finding, and describe it."""
    path = Path(event["path"] or os.devnull)
    kept = folder / f"{kind}-{seed}-{event['number']}{path.suffix}"
    if path.is_file() and event["event"] == "end":
        shutil.copy(path, kept)
    elif path.is_file():
        path.replace(kept)
    return f"FOUND {kind}, seed {seed}, number {event['number']}: {kept}\n{reason.rstrip()}\n"


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-2000:] if path.exists() else ""


def available(kind: str) -> bool:
    """Whether the packages that a kind needs are installed."""
    from importlib.util import find_spec

    return all(find_spec(name) for name in NEEDS.get(kind, ()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="for all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of them, with commas between")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation of each kind")
    parser.add_argument("--again", metavar="KIND:NUMBER", help="one mutation again, here and with its traceback")
    parser.add_argument("-o", "--output", type=Path, help="folder for the files of findings; default: a new one")
    options = parser.parse_args()
    folder = options.output or Path(tempfile.mkdtemp(prefix="vconv-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if options.again:
        kind, number = options.again.split(":")
        return again(kind, options.seed, int(number), folder)
    kinds = options.kinds.split(",")
    missing = [kind for kind in kinds if not available(kind)]
    for kind in missing:
        print(f"{kind}: left out, as {' or '.join(NEEDS[kind])} is not installed")
    kinds = [kind for kind in kinds if kind not in missing]
    tallies = {}
    for kind in kinds:
        tallies[kind] = fuzz(kind, options.seed, options.first, 60 * options.minutes / len(kinds), folder)
        print(f"{kind}: {tallies[kind].done} mutations, {len(tallies[kind].findings)} findings", flush=True)
    total = sum(tally.done for tally in tallies.values())
    found = sum(len(tally.findings) for tally in tallies.values())
    print(f"{total} mutations with seed {options.seed}, {found} findings{f' in {folder}' if found else ''}")
    if not found and not options.output:
        shutil.rmtree(folder)
    return 1 if found else 0


def again(kind: str, seed: int, number: int, folder: Path) -> int:
    """One mutation again, through the command line, too."""
    worker = Worker(kind, seed, number, 0, folder, "yes")
    try:
        worker.process.wait(START_SECONDS + HANG_SECONDS)
    except subprocess.TimeoutExpired:
        worker.end()
    events = [worker.events.get() for _ in range(worker.events.qsize())]
    end = next((event for event in events if event["event"] == "end"), None)
    if end is None:
        print(_tail(folder / "printed.txt"))
    reason = end["reason"] if end else f"the process ended with {worker.process.returncode}"
    print(f"{kind}, seed {seed}, number {number}: {reason or 'nothing found'}")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
