"""Recordings that the page sends: streamed to disk within limits, measured, deleted at the end."""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import soundfile
from starlette.requests import ClientDisconnect, Request

from vconv import audio
from vconv.errors import InputError
from vconv.web.inputs import Refusal

PEAKS = 1000  # points of a waveform
_BIN_SECONDS = 0.01
_STALL_SECONDS = 60.0  # without a byte


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the disk and of the model."""

    upload_bytes: int = 256 << 20
    total_bytes: int = 8 << 30  # of all uploads, and as much again for results
    recordings: int = 2000
    seconds: float = 3600.0  # of one recording
    channels: int = 32
    waiting_jobs: int = 32


@dataclass(frozen=True)
class Recording:
    """A measured upload."""

    id: str
    name: str  # as the client gave it, for people to read
    path: Path
    bytes: int
    seconds: float
    rate: int  # Hz
    loudness: float  # dBFS; -inf for digital silence
    peaks: np.ndarray  # [at most PEAKS], largest magnitudes

    def describe(self) -> dict[str, object]:
        """For the page."""
        return {
            "id": self.id,
            "name": self.name,
            "seconds": self.seconds,
            "rate": self.rate,
            "loudness": max(self.loudness, -120.0),
            "peaks": [round(float(peak), 3) for peak in self.peaks],
        }


class Uploads:
    """The recordings of this run, in a folder of its own."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._recordings: dict[str, Recording] = {}
        self._lock = threading.Lock()
        self._bytes = 0  # of finished and of running uploads
        self._measuring = anyio.CapacityLimiter(1)

    async def receive(self, request: Request, name: str) -> Recording:
        """Stream a request's body to disk and measure it.

        Raises:
            Refusal: it is too large, or ended early.
            InputError: it is no audio, or too long.
        """
        if len(self._recordings) >= self._limits.recordings:
            raise Refusal(507, f"there are {len(self._recordings)} recordings already; remove some")
        key = secrets.token_hex(8)
        suffix = Path(name).suffix.lower()
        path = self._folder / f"{key}{suffix if suffix in audio.READ_SUFFIXES else '.audio'}"
        size = 0
        try:
            size = await self.save(request, path, self._limits.upload_bytes)
            recording = await anyio.to_thread.run_sync(
                measure, path, key, name, self._limits, limiter=self._measuring, abandon_on_cancel=False
            )
        except BaseException:
            path.unlink(missing_ok=True)
            self._release(size)
            raise
        with self._lock:
            self._recordings[key] = recording
        return recording

    async def save(self, request: Request, path: Path, most: int) -> int:
        """Stream a request's body into a new file; returns its bytes, which count until they are released.

        Raises:
            Refusal: there are more than ``most`` bytes, the disk share is full, or the body ends early.
        """
        too_large = Refusal(413, f"the file is larger than {most >> 20} MiB; send a shorter or compressed one")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        size = 0
        try:
            async with await anyio.open_file(path, "xb") as file:
                body = request.stream().__aiter__()
                while True:
                    with anyio.fail_after(_STALL_SECONDS):
                        chunk = await anext(body, None)
                    if chunk is None:
                        return size
                    if size + len(chunk) > most:
                        raise too_large
                    self._reserve(len(chunk))
                    size += len(chunk)
                    await file.write(chunk)
        except (ClientDisconnect, TimeoutError) as error:
            self.discard(path, size)
            raise Refusal(400, "the upload ended early") from error
        except OSError as error:
            self.discard(path, size)
            raise Refusal(507, f"the upload cannot be kept ({error.strerror}); free space on the disk") from error
        except BaseException:
            self.discard(path, size)
            raise

    def get(self, key: object) -> Recording:
        """A recording by its id.

        Raises:
            Refusal: there is none.
        """
        with self._lock:
            recording = self._recordings.get(key) if isinstance(key, str) else None
        if recording is None:
            raise Refusal(404, "this recording is not there any more; add it again")
        return recording

    def remove(self, key: str) -> None:
        """Delete a recording; one that is not there is no error."""
        with self._lock:
            recording = self._recordings.pop(key, None)
        if recording:
            listening_path(recording).unlink(missing_ok=True)
            self.discard(recording.path, recording.bytes)

    def _reserve(self, size: int) -> None:
        with self._lock:
            if self._bytes + size > self._limits.total_bytes:
                raise Refusal(507, f"uploads fill {self._limits.total_bytes >> 20} MiB already; remove some")
            self._bytes += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def discard(self, path: Path, size: int) -> None:
        """Delete a file that ``save`` wrote, and count its bytes no more."""
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        self._release(size)


def listening_path(recording: Recording) -> Path:
    """Where the copy for the player is kept."""
    return recording.path.with_name(f"{recording.id}.listen.wav")


def measure(path: Path, key: str, name: str, limits: Limits) -> Recording:
    """Read an upload once: its length, loudness and waveform.

    Raises:
        InputError: it is no audio, too long, or has too many channels; the message names it as the client did.
    """
    try:
        reader = audio.BlockReader(path)
        info = soundfile.info(path)
        if info.channels > limits.channels:
            raise InputError(f"{path}: has {info.channels} channels; give at most {limits.channels}")
        most = round(limits.seconds * reader.source_rate)
        too_long = InputError(f"{path}: is longer than {limits.seconds / 60:g} minutes; cut it into parts")
        if info.frames > most:
            raise too_long
        meter, envelope = audio.LoudnessMeter(reader.source_rate), Envelope(reader.source_rate)
        for block in reader:
            if reader.source_samples > most:
                raise too_long
            meter.add(block)
            envelope.add(block)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error
    seconds = reader.source_samples / reader.source_rate
    size = path.stat().st_size
    return Recording(key, name, path, size, seconds, reader.source_rate, meter.loudness(), envelope.peaks())


class Envelope:
    """Largest magnitudes of a wave that comes in blocks."""

    def __init__(self, rate: int) -> None:
        self._bin = max(1, round(rate * _BIN_SECONDS))
        self._rest = np.zeros(0, np.float32)
        self._bins: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, [n]."""
        block = np.abs(np.concatenate([self._rest, block]))
        whole = len(block) // self._bin * self._bin
        self._bins.append(block[:whole].reshape(-1, self._bin).max(axis=1, initial=0.0))
        self._rest = block[whole:]

    def peaks(self) -> np.ndarray:
        """[at most PEAKS]"""
        return columns(np.concatenate([*self._bins, self._rest.max(initial=0.0, keepdims=True)])[None], PEAKS)[0]


def columns(values: np.ndarray, most: int) -> np.ndarray:
    """The largest value in each of at most ``most`` equal stretches: [R, T] -> [R, min(T, most)]."""
    count = values.shape[1]
    if count <= most:
        return values
    return np.maximum.reduceat(values, np.arange(most) * count // most, axis=1)
