"""What `vconv live` does: a stream of devices until somebody quits, or a file through the same path."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live

from vconv.audio import AudioWriter, BlockReader, check_writable
from vconv.errors import InputError, VconvError
from vconv.files import check_no_input, exists_already
from vconv.inference.converter import Converter
from vconv.inference.loading import available_cores, load
from vconv.live import latency
from vconv.live.console import Slots, keyboard, press, screen
from vconv.live.devices import Streams, devices, find, record
from vconv.live.session import Recorder, Session, check_recordings
from vconv.live.statistics import Enrolment

REFRESH_SECONDS = 0.1
FILE_BLOCK_SECONDS = 0.02  # what a sound card gives at once
ENROLMENT_SECONDS = 10.0
MAX_SLOTS = 9
MAX_THREADS = 2


@dataclass(frozen=True)
class Choice:
    """The devices and what happens to their sound."""

    input: str | None = None
    output: str | None = None
    monitor: str | None = None
    input_gain_db: float = 0.0
    output_gain_db: float = 0.0
    record: Path | None = None
    measure: bool = False
    settings: dict[str, object] = field(default_factory=dict)  # of ``LiveConverter``
    overwrite: bool = False  # earlier recordings


@dataclass(frozen=True)
class FileJob:
    """A file to be converted by the live path."""

    source: Path
    output: Path
    me: Path | None = None
    model: Path | None = None
    threads: int | None = None
    overwrite: bool = False
    settings: dict[str, object] = field(default_factory=dict)


def start(model: Path | None, threads: int | None) -> Converter:
    """A converter with few threads: a block is short."""
    return load(model, threads=threads or min(MAX_THREADS, available_cores()))


def convert_file(job: FileJob, targets: list[Path], progress: Callable[[float], None]) -> str:
    """A file as if it came from a microphone, to the first target; returns a line of what it took.

    The output appears whole or not at all, and is as long as the source.

    Raises:
        InputError: the source, the target or the enrolment cannot be used, or the output exists or is one of them.
    """
    check_writable(job.output)
    check_no_input(job.output, [job.source, *targets, *([job.me] if job.me else [])])
    if job.output.exists() and not job.overwrite:
        raise exists_already(job.output)
    reader = BlockReader(job.source)
    converter, me = start(job.model, job.threads), job.me and Enrolment.load(job.me)
    live = converter.live(targets[0], enrolment=me, rate_in=reader.source_rate, **job.settings)
    size = round(FILE_BLOCK_SECONDS * live.rate_in)
    samples, started = 0, time.process_time()
    with AudioWriter(job.output, live.rate_out, job.overwrite) as writer:
        for large in reader:
            for block in np.split(large, range(size, len(large), size)):
                writer.write(live.process(block))
            samples += len(large)
            progress(len(large) / live.rate_in)
        writer.write(live.flush())
    seconds = samples / live.rate_in
    share = (time.process_time() - started) / seconds
    return f"{job.output}: {seconds:.1f} s, {share:.2f} of a core, {1000 * live.latency:.0f} ms of algorithmic latency"


def record_enrolment(converter: Converter, device: str | None, console: Console) -> Enrolment:
    """Ten seconds from a microphone as an enrolment."""
    source = find(device, devices(), "input")
    console.print(f"speak for {ENROLMENT_SECONDS:.0f} seconds ({source.name})", markup=False)
    return converter.enrol(record(ENROLMENT_SECONDS, source))


def list_devices(console: Console) -> None:
    """One line for each device."""
    for device in devices():
        sides = [f"{count} {side}" for side, count in (("in", device.inputs), ("out", device.outputs)) if count]
        mark = "*" if device.is_default else " "
        facts = ", ".join([device.host_api, *sides, f"{device.rate} Hz"])
        console.print(f"{mark}{device.number:>3}  {device.name}  ({facts})", markup=False)


def converse(converter: Converter, targets: list[Path], me: Path | None, choice: Choice, console: Console) -> None:
    """Convert from one device to another until a key ends it.

    Raises:
        InputError: a device is not there, there are more voices than keys, or recordings would be overwritten.
        VconvError: a device cannot be opened, or the worker failed.
    """
    if len(targets) > MAX_SLOTS:
        raise InputError(f"{len(targets)} voices are more than the keys 1 to {MAX_SLOTS}; give fewer targets")
    if choice.record:
        check_recordings(choice.record, choice.overwrite, [*targets, *([me] if me else [])])
    found = devices()
    source, sink = find(choice.input, found, "input"), find(choice.output, found, "output")
    monitor = find(choice.monitor, found, "output") if choice.monitor is not None else None
    measured = latency.measure(source, sink) if choice.measure else None
    voices = [converter.voice(target) for target in targets]
    enrolment = me and Enrolment.load(me)
    live = converter.live(voices[0], enrolment=enrolment, rate_in=source.rate, rate_out=sink.rate, **choice.settings)
    recorder = Recorder(choice.record, live.rate_in, live.rate_out) if choice.record else None
    session = Session(live, recorder, monitored=monitor is not None)
    session.controls.input_gain = 10 ** (choice.input_gain_db / 20)
    session.controls.output_gain = 10 ** (choice.output_gain_db / 20)

    def choose(number: int) -> None:
        live.voice = voices[number]

    session.start()
    try:
        with Streams(session, source, sink, monitor) as streams:
            _watch(session, Slots([target.stem for target in targets], choose), streams, measured, console)
    finally:
        session.stop()
    if session.failure:
        raise VconvError(f"the conversion stopped: {session.failure}") from session.failure


def _watch(session: Session, slots: Slots, streams: Streams, measured: float | None, console: Console) -> None:
    """Show the read-out and do what the keys say."""
    notes: list[str] = []
    looked = time.monotonic()
    with keyboard() as key, Live(console=console, auto_refresh=False, transient=True) as display:
        while session.failure is None:
            devices_take = measured if measured is not None else sum(streams.latency)
            parts = latency.MouthToEar(devices_take, session.live.latency, session.status.lag)
            display.update(screen(session, slots, parts, notes), refresh=True)
            pressed = key(REFRESH_SECONDS)
            if pressed and not press(pressed, session, slots):
                return
            if time.monotonic() - looked > 1.0:
                looked = time.monotonic()
                notes = [f"{name} is gone; waiting for it to come back" for name in streams.heal()]
