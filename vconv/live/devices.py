"""Sound cards, through sounddevice (PortAudio): lists, choice by name, streams that survive unplugging."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from vconv.errors import InputError, VconvError
from vconv.live.session import Session

INSTALL = "vconv live needs sounddevice for sound cards; install it with: pip install 'vconv[live]'"
BUFFER_SECONDS = 0.01  # of the sound card: small, as the queues do the waiting


@dataclass(frozen=True)
class Device:
    """A sound card, or a virtual one."""

    number: int
    name: str
    inputs: int  # channels
    outputs: int
    rate: int  # Hz, its own
    is_default: bool


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
    defaults = set(sounddevice.default.device)
    return [
        Device(
            number,
            found["name"],
            found["max_input_channels"],
            found["max_output_channels"],
            round(found["default_samplerate"]),
            number in defaults,
        )
        for number, found in enumerate(sounddevice.query_devices())
    ]


def find(wanted: str | None, found: list[Device], side: str) -> Device:
    """A device by its number or a part of its name, ``side`` being "input" or "output"; None is the default one.

    Raises:
        InputError: there is none, or more than one.
    """
    usable = [device for device in found if (device.inputs if side == "input" else device.outputs)]
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

    Callbacks copy samples and do nothing else. ``heal`` opens those again that have stopped.
    """

    def __init__(self, session: Session, source: Device, sink: Device, monitor: Device | None = None) -> None:
        self._session = session
        self._library = library()
        self._wanted: dict[str, Callable[[], Any]] = {
            source.name: lambda: self._input(source, session.captured),
            sink.name + "\0": lambda: self._output(sink, session.play),
        }
        if monitor:
            self._wanted[monitor.name + "\0\0"] = lambda: self._output(monitor, session.play_monitor)
        self._open: dict[str, Any] = {}

    def __enter__(self) -> Streams:
        try:
            for name, begin in self._wanted.items():
                self._open[name] = begin()
        except self._library.PortAudioError as error:
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
        """Seconds that the input and the output device say they take."""
        found = [stream.latency for stream in self._open.values()]
        return (found[0], found[1]) if len(found) > 1 else (0.0, 0.0)

    def heal(self) -> list[str]:
        """Open streams again that have stopped; returns the names of the devices that are gone all the same."""
        gone = []
        for name, begin in self._wanted.items():
            stream = self._open.get(name)
            if stream is not None and stream.active:
                continue
            with contextlib.suppress(self._library.PortAudioError):
                if stream is not None:
                    stream.close()
            self._open.pop(name, None)
            try:
                self._open[name] = begin()
            except self._library.PortAudioError:
                gone.append(name.rstrip("\0"))
        if gone and not self._open:
            self._refresh()
        self._open = {name: self._open[name] for name in self._wanted if name in self._open}
        return gone

    def _refresh(self) -> None:
        """Have PortAudio look for devices again, which it does only while no stream is open."""
        with contextlib.suppress(self._library.PortAudioError):
            self._library._terminate()
            self._library._initialize()

    def _input(self, device: Device, captured: Callable[[np.ndarray], None]) -> Any:
        def callback(block: np.ndarray, _frames: int, _time: object, _status: object) -> None:
            captured(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))

        rate = self._session.live.rate_in
        return self._begin(self._library.InputStream, device, min(device.inputs, 2), rate, callback)

    def _output(self, device: Device, play: Callable[[int], np.ndarray]) -> Any:
        def callback(block: np.ndarray, frames: int, _time: object, _status: object) -> None:
            block[:] = play(frames)[:, None]

        rate = self._session.live.rate_out
        return self._begin(self._library.OutputStream, device, min(device.outputs, 2), rate, callback)

    def _begin(self, kind: type, device: Device, channels: int, rate: int, callback: Callable[..., None]) -> Any:
        stream = kind(
            device=device.number,
            channels=channels,
            samplerate=rate,
            dtype="float32",
            latency=BUFFER_SECONDS,
            callback=callback,
        )
        stream.start()
        return stream


def record(seconds: float, device: Device) -> tuple[np.ndarray, int]:
    """Sound from a device: (wave [N], rate)."""
    sounddevice = library()
    wave = sounddevice.rec(
        round(seconds * device.rate), device.rate, channels=1, dtype="float32", device=device.number, blocking=True
    )
    return wave[:, 0], device.rate
