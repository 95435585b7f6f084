"""One screen: levels, computing times, latency, and the keys that change them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vconv.inference.register import MAX_PITCH
from vconv.live.latency import MouthToEar
from vconv.live.session import Session, Status

LOWEST_DB, BAR_WIDTH = -60.0, 40
KEYS = "1-9 voice   b bypass   m mute   + - pitch   q quit"
ESCAPE, ESCAPE_SECONDS = "\x1b", 0.02  # begins a key's sequence, the rest of which comes within this time
WINDOWS_PREFIXES = ("\x00", "\xe0")  # of the code of a function key or an arrow


@dataclass
class Slots:
    """The voices on the keys 1 to 9: names, and what makes each the session's."""

    names: list[str]
    choose: Callable[[int], None]
    current: int = 0


def press(key: str, session: Session, slots: Slots) -> bool:
    """Do what a key says; returns whether to go on."""
    if key in ("q", "\x03"):
        return False
    live, controls = session.live, session.controls
    if key == "b":
        live.bypass = not live.bypass
    elif key == "m":
        controls.muted = not controls.muted
    elif key in ("+", "=", "-"):
        live.pitch = max(-MAX_PITCH, min(MAX_PITCH, live.pitch + (-1 if key == "-" else 1)))
    elif key in "123456789" and int(key) <= len(slots.names):
        slots.choose(int(key) - 1)
        slots.current = int(key) - 1
    return True


def screen(session: Session, slots: Slots, latency: MouthToEar, notes: list[str]) -> Group:
    """The read-out."""
    status, live = session.status, session.live
    table = Table.grid(padding=(0, 2))
    voices = "  ".join(
        f"[{number + 1}] {name}" if number == slots.current else f" {number + 1}  {name}"
        for number, name in enumerate(slots.names)
    )
    flags = [name for name, on in (("bypass", live.bypass), ("muted", session.controls.muted)) if on]
    rows = (
        ("voice", voices),
        ("pitch", f"{live.pitch:+.0f} semitones" + "".join(f"   {flag.upper()}" for flag in flags)),
        ("in", _bar(status.input_level)),
        ("out", _bar(status.output_level)),
        ("compute", _compute(status, live.block)),
        ("queue", f"{1000 * status.waiting:.0f} ms"),
        ("lost", f"{status.underruns} underruns, {status.dropped:.2f} s dropped"),
        ("latency", str(latency)),
    )
    for name, value in rows:
        table.add_row(name, Text(value))
    return Group(table, *map(Text, notes), Text(KEYS, style="dim"))


def _compute(status: Status, block: float) -> str:
    share = status.compute_p50 / block
    return (
        f"p50 {1000 * status.compute_p50:.0f} ms, p99 {1000 * status.compute_p99:.0f} ms "
        f"for each {1000 * block:.0f} ms ({share:.0%})"
    )


def _bar(level: float) -> str:
    filled = round(BAR_WIDTH * min(max((level - LOWEST_DB) / -LOWEST_DB, 0), 1))
    return "█" * filled + "·" * (BAR_WIDTH - filled) + f" {level:6.1f} dBFS"


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits so many seconds for a key: the key, or nothing. Without a terminal it only waits.

    Keys that send a sequence, such as arrows, count as nothing: F5 has the digits 1 and 5 in its own.
    """
    if os.name == "nt":
        yield _windows_key
        return
    import select
    import termios
    import time
    import tty

    if not sys.stdin.isatty():

        def nothing(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield nothing
        return
    before = termios.tcgetattr(sys.stdin)

    def ready(seconds: float) -> bool:
        return bool(select.select([sys.stdin], [], [], seconds)[0])

    def key(seconds: float) -> str:
        pressed = os.read(sys.stdin.fileno(), 1).decode(errors="ignore") if ready(seconds) else ""
        if pressed != ESCAPE:
            return pressed
        while ready(ESCAPE_SECONDS) and os.read(sys.stdin.fileno(), 16):
            pass
        return ""

    try:
        tty.setcbreak(sys.stdin)
        yield key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _windows_key(seconds: float) -> str:
    import msvcrt
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if msvcrt.kbhit():  # type: ignore[attr-defined]
            pressed = msvcrt.getwch()  # type: ignore[attr-defined]
            if pressed in WINDOWS_PREFIXES and msvcrt.kbhit():  # type: ignore[attr-defined]
                msvcrt.getwch()  # type: ignore[attr-defined]
                return ""
            return pressed
        time.sleep(0.02)
    return ""
