"""Live conversion over a WebSocket: float32 samples in, float32 samples out, JSON for settings and figures."""

from __future__ import annotations

import collections
import time
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from vconv.errors import VconvError
from vconv.inference.converter import Converter
from vconv.inference.register import MAX_PITCH
from vconv.live.engine import MAX_RATE, MIN_RATE, LiveConverter
from vconv.untrusted import parse_json
from vconv.web.inputs import Refusal, flag, number, text
from vconv.web.jobs import one_line
from vconv.web.routes import Services
from vconv.web.security import PROTOCOL
from vconv.web.targets import read_target

MAX_AGE = 0.4  # seconds of sound that may wait; what is older is dropped, or every later sample would be late
_MAX_MESSAGE = 1.0  # seconds of sound
_FIGURES_EVERY = 0.5  # seconds
_STEPS = 200  # latest steps, of which the computing time is told


class Backlog:
    """Samples that wait, the oldest of which are dropped."""

    def __init__(self, rate: int) -> None:
        self._most = round(MAX_AGE * rate)
        self._blocks: collections.deque[np.ndarray] = collections.deque()
        self._samples = 0
        self.dropped = 0

    def add(self, block: np.ndarray) -> None:
        """Append samples, [n]."""
        self._blocks.append(block)
        self._samples += len(block)
        while self._samples > self._most and len(self._blocks) > 1:
            old = self._blocks.popleft()
            self._samples -= len(old)
            self.dropped += len(old)

    def take(self) -> np.ndarray:
        """All that waits, [n]."""
        blocks, self._blocks, self._samples = self._blocks, collections.deque(), 0
        return np.concatenate([np.zeros(0, np.float32), *blocks])


class Session:
    """One microphone."""

    def __init__(self, services: Services, socket: WebSocket, source: Converter, converter: LiveConverter) -> None:
        self._source = source
        self._services = services
        self._socket = socket
        self._converter = converter
        self._backlog = Backlog(converter.rate_in)
        self._arrived, self._retargeted = anyio.Event(), anyio.Event()
        self._wanted: object = None  # the latest target that was asked for
        self._steps: collections.deque[float] = collections.deque(maxlen=_STEPS)  # seconds of computing
        self._told = time.monotonic()

    async def run(self) -> None:
        """Convert until the page goes away."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._convert)
            group.start_soon(self._change_voice)
            try:
                await self._receive()
            finally:
                group.cancel_scope.cancel()

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes") is not None:
                self._add(message["bytes"])
            elif message.get("text") is not None:
                self._change(read_json(message["text"]))

    def _add(self, data: bytes) -> None:
        if len(data) % 4 or len(data) > 4 * _MAX_MESSAGE * self._converter.rate_in:
            raise Refusal(400, "a block of samples is float32, and at most a second")
        self._backlog.add(np.frombuffer(data, "<f4").astype(np.float32))
        self._arrived.set()

    def _change(self, body: dict[str, Any]) -> None:
        """Settings that hold from the next block on; a target, from when its voice is known."""
        converter = self._converter
        if "target" in body:
            self._wanted = body["target"]
            self._retargeted.set()
        converter.pitch = read_pitch(body, converter.pitch)
        converter.keep_pitch = flag(body, "keep_pitch", converter.keep_pitch)
        converter.bypass = flag(body, "bypass", converter.bypass)

    async def _change_voice(self) -> None:
        """Change targets one at a time, while sound goes on. One that cannot be used is told of and changes nothing."""
        while True:
            await self._retargeted.wait()
            self._retargeted = anyio.Event()
            names: dict[str, str] = {}
            try:
                target = read_target(self._wanted, self._services.uploads, self._services.library)
                names = target.names
                voice = await anyio.to_thread.run_sync(target.voice, self._source)
                await anyio.to_thread.run_sync(setattr, self._converter, "voice", voice)
            except (Refusal, VconvError) as error:
                await self._socket.send_json({"refused": one_line(error, names)})

    async def _convert(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            begun = time.perf_counter()
            out = await anyio.to_thread.run_sync(self._converter.process, self._backlog.take())
            if len(out):
                self._steps.append(time.perf_counter() - begun)
                await self._socket.send_bytes(out.astype("<f4").tobytes())
            if time.monotonic() - self._told > _FIGURES_EVERY and self._steps:
                self._told = time.monotonic()
                await self._socket.send_json(self._figures())

    def _figures(self) -> dict[str, float]:
        p50, p99 = np.percentile(list(self._steps), [50, 99]) * 1000
        return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "dropped": self._backlog.dropped}


async def live(services: Services, socket: WebSocket) -> None:
    """Settings first, then samples. While it runs, jobs wait: there is one model."""
    await socket.accept(subprotocol=PROTOCOL)
    model = services.jobs.model
    if not model.acquire(blocking=False):
        await _end(socket, "the model is busy with a conversion; try again when it is done")
        return
    try:
        body = read_json(await socket.receive_text())
        source, converter = await anyio.to_thread.run_sync(_open, services, body)
        ready = {"ready": True, "latency": converter.latency, "block": converter.block}
        await socket.send_json(ready)
        await Session(services, socket, source, converter).run()
    except* (Refusal, VconvError) as group:
        await _end(socket, one_line(group.exceptions[0]))
    except* (WebSocketDisconnect, KeyError):  # gone, or bytes where text was due
        pass
    finally:
        model.release()


def _open(services: Services, body: dict[str, Any]) -> tuple[Converter, LiveConverter]:
    rate = number(body, "rate")
    if rate != int(rate) or not MIN_RATE <= rate <= MAX_RATE:
        raise Refusal(400, f"a rate of {rate:g} Hz is out of range")
    target = read_target(body.get("target"), services.uploads, services.library)
    loaded = services.models.open(services.models.check(text(body, "model", "")))
    converter = loaded.converter
    clip = services.uploads.get(body["enrolment"]) if body.get("enrolment") else None
    try:
        enrolment = converter.enrol(clip.path) if clip else None
        voice = target.voice(converter)
    except VconvError as error:
        names = target.names | ({str(clip.path): clip.name} if clip else {})
        raise type(error)(one_line(error, names)) from error
    live_converter = converter.live(
        voice,
        enrolment=enrolment,
        rate_in=int(rate),
        rate_out=int(rate),
        pitch=read_pitch(body, 0.0),
        keep_pitch=flag(body, "keep_pitch"),
    )
    return converter, live_converter


def read_pitch(body: dict[str, Any], default: float) -> float:
    """Semitones.

    Raises:
        Refusal: out of range.
    """
    pitch = number(body, "pitch", default)
    if abs(pitch) > MAX_PITCH:
        raise Refusal(400, f"a pitch shift of {pitch:g} semitones is out of range")
    return pitch


def read_json(message: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        Refusal: it is none.
    """
    try:
        value = parse_json(message)
    except ValueError as error:
        raise Refusal(400, "the message is no JSON") from error
    if not isinstance(value, dict):
        raise Refusal(400, "the message is no JSON object")
    return value


async def _end(socket: WebSocket, error: str) -> None:
    try:
        await socket.send_json({"error": error})
        await socket.close()
    except (RuntimeError, WebSocketDisconnect):  # gone already
        return
