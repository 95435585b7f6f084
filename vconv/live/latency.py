"""From mouth to ear: the sum of the parts, and a measurement through a loopback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vconv.errors import VconvError
from vconv.live.devices import BUFFER_SECONDS, Device, library

CHIRP_SECONDS, REST_SECONDS, REPEATS = 0.05, 0.5, 5
LOUD = 8.0  # times the median of the correlation: what counts as a chirp that has come back


@dataclass(frozen=True)
class MouthToEar:
    """Seconds, part by part."""

    devices: float  # input and output, as they say or as measured
    algorithm: float  # block, lookahead and resampling
    lag: float  # computing and waiting in queues

    @property
    def total(self) -> float:
        return self.devices + self.algorithm + self.lag

    def __str__(self) -> str:
        parts = (("devices", self.devices), ("block and lookahead", self.algorithm), ("computing, queues", self.lag))
        return f"{1000 * self.total:.0f} ms = " + " + ".join(f"{1000 * value:.0f} ({name})" for name, value in parts)


def chirp(rate: int) -> np.ndarray:
    """A sweep from 1 to 4 kHz, whose correlation with itself has one sharp peak: [N]"""
    time = np.arange(round(CHIRP_SECONDS * rate)) / rate
    sweep = np.sin(2 * np.pi * (1000 * time + 1500 / CHIRP_SECONDS * time**2))
    return (0.5 * np.hanning(len(time)) * sweep).astype(np.float32)


def delay(played: np.ndarray, recorded: np.ndarray, rate: int) -> float | None:
    """Seconds by which ``recorded`` [N] lags behind ``played`` [N]; None where it is not in it."""
    size = 1 << (len(played) + len(recorded)).bit_length()
    spectrum = np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(played, size))
    correlation = np.abs(np.fft.irfft(spectrum, size)[: len(recorded)])
    place = int(correlation.argmax())
    return place / rate if correlation[place] > LOUD * max(float(np.median(correlation)), 1e-9) else None


def measure(source: Device, sink: Device) -> float:
    """Seconds from the output device to the input device: cable one to the other, or hold the microphone to it.

    Raises:
        VconvError: nothing of what was played came back.
    """
    sounddevice, rate = library(), source.rate
    played = np.tile(np.pad(chirp(rate), (0, round(REST_SECONDS * rate))), REPEATS)
    try:
        recorded = sounddevice.playrec(
            played,
            rate,
            channels=1,
            dtype="float32",
            latency=BUFFER_SECONDS,  # as in a session
            device=(source.number, sink.number),
            blocking=True,
        )
    except sounddevice.PortAudioError as error:
        raise VconvError(f"the devices cannot be opened together ({error})") from error
    one = len(played) // REPEATS
    # Whole cycles after the first, in which the devices settle.
    found = delay(played[:one], recorded[one : 2 * one, 0], rate)
    if found is None:
        raise VconvError("the click did not come back; connect the output to the input, or hold the microphone to it")
    return found
