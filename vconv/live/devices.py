"""Sound cards, through sounddevice (PortAudio): lists, choice by name, streams that survive unplugging."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from vconv.errors import InputError, VconvError
from vconv.live.session import Session

INSTALL = "vconv live needs sounddevice for sound cards; install it with: pip install 'vconv[live]'"
STALLED_SECONDS = 2.0  # without a callback, after which a device counts as gone
BUFFER_SECONDS = 0.01  # of the sound card: small, as the queues do the waiting
RETRY_SECONDS = (2.0, 60.0)  # first and longest pause between restarts for a monitor, doubled each time


@dataclass(frozen=True)
class Device:
    """A sound card, or a virtual one."""

    number: int
    name: str
    inputs: int  # channels
    outputs: int
    rate: int  # Hz, its own
    is_default: bool
    host_api: str = ""  # the sound system that lists it, such as MME or WASAPI; a device may be in several

    def channels(self, side: str) -> int:
        """Of its "input" or its "output"."""
        return self.inputs if side == "input" else self.outputs


def library() -> ModuleType:
    """sounddevice.

    Raises:
        InputError: it, or PortAudio, is not installed; the message says what to install.
    """
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise InputError(INSTALL) from error
    except OSError as error:
        raise InputError(
            "vconv live finds no PortAudio library; on Debian and Ubuntu: sudo apt install libportaudio2"
        ) from error
    return sounddevice


def devices() -> list[Device]:
    """All devices there are now."""
    sounddevice = library()
    defaults, host_apis = set(sounddevice.default.device), sounddevice.query_hostapis()
    return [
        Device(
            number,
            found["name"],
            found["max_input_channels"],
            found["max_output_channels"],
            round(found["default_samplerate"]),
            number in defaults,
            host_apis[found["hostapi"]]["name"],
        )
        for number, found in enumerate(sounddevice.query_devices())
    ]


def find(wanted: str | None, found: list[Device], side: str) -> Device:
    """A device by its number or a part of its name, ``side`` being "input" or "output"; None is the default one.

    Raises:
        InputError: there is none, or more than one.
    """
    usable = [device for device in found if device.channels(side)]
    if not usable:
        raise InputError(f"there is no {side} device; connect one, or see docs/live.md for a virtual one")
    if wanted is None:
        number = library().default.device[side == "output"]
        return next((device for device in usable if device.number == number), usable[0])
    matching = [device for device in usable if wanted.isdecimal() and device.number == int(wanted)]
    matching = matching or [device for device in usable if device.name.lower() == wanted.lower()]
    matching = matching or [device for device in usable if wanted.lower() in device.name.lower()]
    if len(matching) != 1:
        problem = "no" if not matching else "more than one"
        raise InputError(f"{problem} {side} device matches '{wanted}'; see vconv live --list-devices")
    return matching[0]


class Streams:
    """The open streams of a session: input, output, and a monitor where one is wanted.

    Callbacks copy samples and do nothing else. ``heal`` opens again what has stopped.
    """

    def __init__(self, session: Session, source: Device, sink: Device, monitor: Device | None = None) -> None:
        self._session, self._library = session, library()
        self._devices = {"input": source, "output": sink} | ({"monitor": monitor} if monitor else {})
        self._open: dict[str, Any] = {}
        self._called: dict[str, float] = {}  # when each stream's callback last was
        self._retry_pause, self._retry_at = RETRY_SECONDS[0], 0.0  # for the monitor alone

    def __enter__(self) -> Streams:
        try:
            for role in self._devices:
                self._begin(role)
        except (self._library.PortAudioError, ValueError) as error:
            self.close()
            raise VconvError(f"a sound device cannot be opened ({error}); see vconv live --list-devices") from error
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for stream in self._open.values():
            with contextlib.suppress(self._library.PortAudioError):
                stream.close()
        self._open.clear()

    @property
    def latency(self) -> tuple[float, float]:
        """Seconds that the input and the output device say they take; 0 of one that is not open."""
        return tuple(self._open[role].latency if role in self._open else 0.0 for role in ("input", "output"))

    def heal(self) -> list[str]:
        """Open all streams again if one has stopped; returns the names of the devices that are gone all the same.

        A restart interrupts all of them. For the monitor alone, restarts become ever rarer.
        """
        stopped, now = [role for role in self._devices if not self._runs(role)], time.monotonic()
        if not stopped:
            if now > self._retry_at:
                self._retry_pause = RETRY_SECONDS[0]
            return []
        if stopped == ["monitor"]:
            if now < self._retry_at:
                return [self._devices["monitor"].name]
            self._retry_at, self._retry_pause = now + self._retry_pause, min(2 * self._retry_pause, RETRY_SECONDS[1])
        self.close()
        with contextlib.suppress(self._library.PortAudioError):
            # PortAudio looks for devices only when it starts.
            self._library._terminate()
            self._library._initialize()
        gone = []
        for role, device in self._devices.items():
            try:
                self._begin(role)
            except (self._library.PortAudioError, ValueError):
                gone.append(device.name)
        return gone

    def _runs(self, role: str) -> bool:
        """Whether a stream is open, active and called; an unplugged device may only fall silent."""
        stream = self._open.get(role)
        return stream is not None and stream.active and time.monotonic() - self._called[role] < STALLED_SECONDS

    def _begin(self, role: str) -> None:
        """Open and start a stream on the role's device, whose number may have changed."""
        wanted, live = self._devices[role], self._session.live
        side = "input" if role == "input" else "output"
        alike = (one for one in devices() if (one.name, one.host_api) == (wanted.name, wanted.host_api))
        same = [one for one in alike if one.channels(side)]
        if not same:
            raise ValueError(f"{wanted.name} is gone")
        device = next((one for one in same if one.number == wanted.number), same[0])
        kind = self._library.InputStream if side == "input" else self._library.OutputStream
        stream = kind(
            device=device.number,
            channels=min(device.channels(side), 2),
            samplerate=live.rate_in if side == "input" else live.rate_out,
            dtype="float32",
            latency=BUFFER_SECONDS,
            callback=self._callback(role),
        )
        self._open[role], self._called[role] = stream, time.monotonic()
        stream.start()

    def _callback(self, role: str) -> Callable[..., None]:
        session = self._session

        def captured(block: np.ndarray, _frames: int, _time: object, _status: object) -> None:
            self._called[role] = time.monotonic()
            session.captured(block.mean(axis=1))

        play = session.play if role == "output" else session.play_monitor

        def played(block: np.ndarray, frames: int, _time: object, _status: object) -> None:
            self._called[role] = time.monotonic()
            block[:] = play(frames)[:, None]

        return captured if role == "input" else played


def record(seconds: float, device: Device) -> tuple[np.ndarray, int]:
    """Sound from a device, the mean of its channels: (wave [N], rate).

    Raises:
        VconvError: it cannot be opened.
    """
    sounddevice, channels = library(), min(device.inputs, 2)
    try:
        wave = sounddevice.rec(
            round(seconds * device.rate),
            device.rate,
            channels=channels,
            dtype="float32",
            device=device.number,
            blocking=True,
        )
    except sounddevice.PortAudioError as error:
        raise VconvError(f"{device.name} cannot be opened ({error}); see vconv live --list-devices") from error
    return wave.mean(axis=1), device.rate
