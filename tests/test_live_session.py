"""Live sessions with a device that is not there: jitter, overload, long runs, keys, recordings, PulseAudio."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from rich.console import Console

from tests.conftest import Cli, speech
from vconv.errors import InputError, VconvError
from vconv.live import devices, latency
from vconv.live.console import Slots, keyboard, press, screen
from vconv.live.latency import MouthToEar, chirp, delay
from vconv.live.queues import CUSHION_SECONDS, SLACK_SECONDS, CaptureQueue, PlayQueue
from vconv.live.run import Choice, FileJob, converse, convert_file
from vconv.live.session import RECORDINGS, Recorder, Session

RATE = 16000


class FakeLive:
    """Stands for a converter: what comes in comes out in blocks, ``lookahead`` later."""

    rate_in = rate_out = RATE
    block, lookahead = 0.1, 0.2
    latency = block + lookahead

    def __init__(self) -> None:
        self._held = np.zeros(0, np.float32)
        self.pitch, self.bypass = 0.0, False

    def process(self, block: np.ndarray) -> np.ndarray:
        self._held = np.concatenate([self._held, block])
        size = round(self.block * RATE)
        count = max(0, (len(self._held) - round(self.lookahead * RATE)) // size) * size
        out, self._held = self._held[:count], self._held[count:]
        return out


class FakeDevice:
    """A sound card and a computer on a clock of their own: buffers come with jitter, computing takes its time."""

    def __init__(self, session: Session, share: float = 0.5, jitter: float = 0.01, drift: float = 0.0) -> None:
        self.session, self.share = session, share
        self._random = np.random.default_rng(0)
        self._jitter, self._drift = jitter, drift
        self._now = self._captured = self._played = self._free = 0.0
        self._working: tuple[np.ndarray, float] | None = None
        self.lags: list[tuple[float, float]] = []

    def run(self, seconds: float, tick: float = 0.001) -> None:
        """Let so much time go by, a tick at a time."""
        end = self._now + seconds
        while self._now < end:
            self._now += tick
            late = self._random.uniform(0, self._jitter)
            if self._now - self._captured >= 0.01 + late:
                size = int((self._now - self._captured) * RATE)
                self._captured += size / RATE
                self.session.captured(np.full(size, self._now, np.float32))
            if self._working and self._now >= self._free:
                self.session.give(*self._working)
                self._working = None
            if not self._working:
                block, clock = self.session.take()
                if len(block):
                    out = self.session.convert(block)
                    self._free = self._now + self.share * len(out) / RATE
                    self._working = out, clock
            if self._now * (1 + self._drift) - self._played >= 0.01:
                self._played += 0.01
                self.session.play(round(0.01 * RATE))
                self.lags.append((self._now, self.session.lag))


def test_jitter_is_borne_and_the_lag_is_small() -> None:
    device = FakeDevice(Session(FakeLive()))
    device.run(20.0)
    lags = [lag for now, lag in device.lags if now > 3]
    assert max(lags) < 0.1 * 0.5 + CUSHION_SECONDS + SLACK_SECONDS + 0.05
    assert device.session.status.underruns <= 2 and device.session.status.dropped < 0.1


def test_an_overload_leaves_no_backlog() -> None:
    device = FakeDevice(Session(FakeLive()))
    device.run(10.0)
    usual = np.median([lag for now, lag in device.lags if now > 5])
    device.share = 2.5  # fivefold
    device.run(5.0)
    assert device.session.status.dropped > 1
    assert device.session.status.waiting < 0.6  # even then
    device.share = 0.5
    device.run(4.0)
    after = [lag for now, lag in device.lags if now > 17]  # from 2 s after it on
    assert max(after) < usual + 0.05
    dropped = device.session.status.dropped
    device.run(10.0)
    assert device.session.status.dropped < dropped + 0.05


@pytest.mark.parametrize("drift", [-0.001, 0.001])
def test_clocks_that_drift_add_up_to_no_lag(drift: float) -> None:
    device = FakeDevice(Session(FakeLive()), drift=drift)
    device.run(120.0)
    assert max(lag for now, lag in device.lags if now > 100) < 0.2
    assert device.session.status.underruns < 15


@pytest.mark.parametrize("block", [0.8, 1.6])
def test_long_blocks_are_played_whole(block: float) -> None:
    live = FakeLive()
    live.block = block
    device = FakeDevice(Session(live))
    device.run(15.0)
    assert device.session.status.dropped == 0 and device.session.status.underruns <= 1


@pytest.mark.slow
def test_an_hour_adds_up_to_no_lag_and_holds_no_more() -> None:
    session = Session(FakeLive())
    device = FakeDevice(session, drift=2e-5)  # as two good sound cards differ
    device.run(60.0, tick=0.005)
    first = max(lag for now, lag in device.lags if now > 10)
    device.lags.clear()
    device.run(3540.0, tick=0.005)
    assert max(lag for _, lag in device.lags) < first + SLACK_SECONDS + 0.02
    held = [session._play._samples, session._capture._blocks, session._play._blocks, session._play._least]
    assert max(map(len, held)) < RATE and len(session._seconds) <= 600


def test_without_an_output_device_little_is_kept() -> None:
    session = Session(FakeLive())
    for _ in range(100):
        session.captured(np.ones(RATE // 10, np.float32))
        session.work()
    assert session.status.waiting <= 1.0 and session.status.dropped > 8


def test_queues_keep_order_and_count_what_they_drop() -> None:
    capture = CaptureQueue(1000, 0.3)
    for number in range(5):
        capture.put(np.full(100, number, np.float32))
    block, clock = capture.take()
    np.testing.assert_array_equal(np.unique(block), [2, 3, 4])
    assert clock == 0.5 and capture.dropped_seconds == pytest.approx(0.2) and capture.seconds == 0
    play = PlayQueue(1000, block=0.1, cushion=0.0)
    play.put(np.arange(1, 101, dtype=np.float32), 2.0)
    assert play.clock == 2.0
    np.testing.assert_array_equal(play.pull(60), np.arange(1, 61))
    assert play.clock == pytest.approx(2.06)
    np.testing.assert_array_equal(play.pull(60), [*range(61, 101), *[0] * 20])
    assert play.underruns == 1


def test_keys_change_the_session_and_the_read_out_shows_it() -> None:
    session, chosen = Session(FakeLive()), []
    slots = Slots(["anna", "bert"], chosen.append)
    assert all(press(key, session, slots) for key in "2b+m9x\x1b")
    assert chosen == [1] and session.live.bypass and session.live.pitch == 1 and session.controls.muted
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(screen(session, slots, MouthToEar(0.02, 0.29, 0.06), ["USB microphone is gone"]))
    text = console.export_text()
    assert "[2] bert" in text and "BYPASS" in text and "MUTED" in text and "USB microphone is gone" in text
    assert "370 ms = 20 (devices) + 290 (block and lookahead) + 60 (computing, queues)" in text
    assert not press("q", session, slots)


@pytest.mark.skipif(os.name == "nt", reason="a terminal of its own is made on Unix")
def test_arrows_and_function_keys_count_as_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(master, "wb", buffering=0) as typed, os.fdopen(slave) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with keyboard() as key:
            for sent, expected in ((b"\x1b[A", ""), (b"\x1b[15~", ""), (b"\x1b", ""), (b"q", "q")):
                typed.write(sent)
                assert key(10.0) == expected


def test_a_muted_microphone_is_silent_and_gains_apply() -> None:
    session = Session(FakeLive())
    session.controls.input_gain, session.controls.output_gain = 2.0, 0.25
    session.captured(np.ones(RATE, np.float32))
    assert session.work() and not session.work()
    assert session.play(RATE // 2)[-1] == 0.5
    session.controls.muted = True
    assert not session.convert(np.ones(RATE // 2, np.float32))[-100:].any()


def test_both_sides_are_recorded_by_the_worker_thread(tmp_path: Path) -> None:
    session = Session(FakeLive(), Recorder(tmp_path / "take", RATE, RATE))
    session.start()
    wave = speech(1.0)
    for part in np.array_split(wave, 50):
        session.captured(part)
        time.sleep(0.002)
    deadline = time.monotonic() + 10
    while session.status.waiting < 0.5 and time.monotonic() < deadline:
        time.sleep(0.01)
    session.stop()
    assert session.failure is None
    recorded, _ = soundfile.read(tmp_path / "take" / "input.wav", dtype="float32")
    result, _ = soundfile.read(tmp_path / "take" / "output.wav", dtype="float32")
    np.testing.assert_allclose(recorded, wave[: len(recorded)], atol=1e-3)
    np.testing.assert_allclose(result, wave[: len(result)], atol=1e-3)
    assert len(result) >= 0.5 * RATE


def test_earlier_recordings_are_kept(vconv_cli: Cli, clips: Path, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "output.wav").write_bytes(b"precious")
    outcome = vconv_cli("live", "-t", clips / "high.wav", "--record", tmp_path, "--model", small_model)
    assert outcome.code == 2 and f"{tmp_path / 'output.wav'}: exists already; pass --overwrite" in outcome.error
    assert (tmp_path / "output.wav").read_bytes() == b"precious"


def test_a_session_that_converts_nothing_keeps_earlier_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RECORDINGS:
        (tmp_path / name).write_bytes(b"precious")
    library = FakeLibrary()

    def busy(**_: object) -> None:
        raise library.PortAudioError("busy")

    library.OutputStream = busy
    monkeypatch.setattr(devices, "library", lambda: library)
    converter = SimpleNamespace(voice=str, live=lambda *_, **__: FakeLive())
    with pytest.raises(VconvError, match="cannot be opened"):
        converse(converter, [Path("voice.npz")], None, Choice(record=tmp_path, overwrite=True), Console())
    session = Session(FakeLive(), Recorder(tmp_path, RATE, RATE))
    session.captured(np.ones(100, np.float32))
    assert session.work()  # less than a block
    session.live.process = lambda block: 1 / 0
    session.start()
    session.captured(np.ones(RATE, np.float32))
    session._thread.join(10)
    session.stop()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(RECORDINGS, b"precious")


def test_a_failing_worker_is_known() -> None:
    session = Session(FakeLive())
    session.live.process = lambda block: 1 / 0
    session.start()
    session.captured(np.ones(100, np.float32))
    session._thread.join(10)
    assert isinstance(session.failure, ZeroDivisionError)
    session.stop()


def test_the_delay_of_a_click_is_found_in_noise_and_not_in_noise_alone() -> None:
    click = np.pad(chirp(48000), (0, 24000))
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(click)).astype(np.float32)
    assert delay(click, np.roll(click, 2400) * 0.1 + noise, 48000) == pytest.approx(0.05, abs=1e-3)
    assert delay(click, noise, 48000) is None


def test_devices_are_found_by_number_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        devices.Device(0, "USB Microphone", 1, 0, 48000, True),
        devices.Device(1, "Headphones", 0, 2, 48000, True),
        devices.Device(2, "USB Headset", 1, 2, 44100, False),
    ]
    assert devices.find("0", found, "input").number == 0
    assert devices.find("headset", found, "input").number == 2
    for wanted, problem in (("usb", "more than one"), ("1", "no input"), ("nothing", "no input")):
        with pytest.raises(devices.InputError, match=problem):
            devices.find(wanted, found, "input")
    with pytest.raises(devices.InputError, match="connect one"):
        devices.find(None, [], "output")


CARDS = {  # of a FakeLibrary: name, host API, inputs, outputs
    "Microphone": ("Microphone", 0, 2, 0),
    "Headphones": ("Headphones", 0, 0, 2),
    "Speaker": ("Speaker", 0, 0, 2),
    "Headset in": ("Headset", 0, 2, 0),
    "Headset out": ("Headset", 0, 0, 2),
    "Headset in, WASAPI": ("Headset", 1, 2, 0),
}


class FakeLibrary:
    """Stands for sounddevice: a microphone, headphones and a headset that can be unplugged."""

    class PortAudioError(Exception):
        pass

    class default:
        device = (0, 1)

    def __init__(self, *plugged: str) -> None:
        self.plugged, self.opened, library = list(plugged) or ["Microphone", "Headphones"], [], self

        class Stream:
            latency = 0.01

            def __init__(self, device: int, callback: Callable[..., None], **_: object) -> None:
                self.name, self.callback, self.active = library.plugged[device], callback, False
                library.opened.append(self)

            def start(self) -> None:
                self.active = True

            def close(self) -> None:
                self.active = False

        self.InputStream = self.OutputStream = Stream

    def query_devices(self) -> list[dict]:
        keys = ("name", "hostapi", "max_input_channels", "max_output_channels")
        return [{"default_samplerate": 16000.0, **dict(zip(keys, CARDS[card]))} for card in self.plugged]

    def query_hostapis(self) -> list[dict]:
        return [{"name": "MME"}, {"name": "WASAPI"}]

    def let_run(self) -> None:
        """Have the device of each open stream call back."""
        for stream in self.opened:
            if stream.active:
                stream.callback(np.zeros((10, 2), np.float32), 10, None, None)

    def _terminate(self) -> None:
        pass

    def _initialize(self) -> None:
        pass


def test_an_unplugged_device_is_named_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(devices, "library", lambda: library)
    session = Session(FakeLive())
    microphone, headphones = devices.devices()
    with devices.Streams(session, microphone, headphones) as streams:
        assert streams.heal() == [] and streams.latency == (0.01, 0.01)
        library.opened[0].callback(np.full((100, 2), 0.5, np.float32), 100, None, None)
        np.testing.assert_array_equal(session.take()[0], np.full(100, 0.5))
        library.plugged = ["Headphones"]
        library.opened[0].active = False
        assert streams.heal() == ["Microphone"] and streams.latency == (0.0, 0.01)
        library.plugged = ["Headphones", "Microphone"]  # by another number
        assert streams.heal() == []
        assert [stream.name for stream in library.opened if stream.active] == ["Microphone", "Headphones"]
        block = np.ones((10, 2), np.float32)
        library.opened[-1].callback(block, 10, None, None)
        assert not block.any()  # nothing has been said yet
    assert not any(stream.active for stream in library.opened)


def test_the_entry_that_was_chosen_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three with one name: in two sound systems, and with the sides apart."""
    library = FakeLibrary("Headset in", "Headset out", "Headset in, WASAPI")
    monkeypatch.setattr(devices, "library", lambda: library)
    found = devices.devices()
    source, sink = devices.find("2", found, "input"), devices.find("1", found, "output")
    with devices.Streams(Session(FakeLive()), source, sink) as streams:
        assert [stream.name for stream in library.opened] == ["Headset in, WASAPI", "Headset out"]
        library.plugged = ["Microphone", *library.plugged]  # by other numbers
        library.opened[0].active = False
        assert streams.heal() == []
        assert [stream.name for stream in library.opened[2:]] == ["Headset in, WASAPI", "Headset out"]


def test_a_missing_monitor_interrupts_the_others_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    library, clock = FakeLibrary("Microphone", "Headphones", "Speaker"), [0.0]
    monkeypatch.setattr(devices, "library", lambda: library)
    monkeypatch.setattr(devices, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def look(streams: devices.Streams, seconds: int) -> list[list[str]]:
        gone = []
        for _ in range(seconds):
            clock[0] += 1.0
            library.let_run()
            gone.append(streams.heal())
        return gone

    with devices.Streams(Session(FakeLive()), *devices.devices()) as streams:
        assert not any(look(streams, 10))
        library.opened[2].active = False
        library.plugged.remove("Speaker")
        assert look(streams, 300) == [["Speaker"]] * 300
        assert len([stream for stream in library.opened if stream.name == "Microphone"]) < 12
        library.plugged.append("Speaker")
        assert look(streams, 61)[-1] == []
        assert [stream.name for stream in library.opened if stream.active] == ["Microphone", "Headphones", "Speaker"]


def test_a_recording_is_the_mean_of_two_channels_and_its_errors_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    microphone = devices.Device(3, "Microphone", 8, 0, 100, True)

    def rec(frames: int, rate: int, channels: int, device: int, **_: object) -> np.ndarray:
        assert (rate, channels, device) == (100, 2, 3)
        return np.tile(np.float32([1.0, 0.5]), (frames, 1))

    library.rec = rec
    monkeypatch.setattr(devices, "library", lambda: library)
    wave, rate = devices.record(2.0, microphone)
    np.testing.assert_array_equal(wave, np.full(200, 0.75))
    assert rate == 100

    def busy(*_: object, **__: object) -> None:
        raise library.PortAudioError("busy")

    library.rec = busy
    with pytest.raises(VconvError, match=r"^Microphone cannot be opened \(busy\); see vconv live"):
        devices.record(2.0, microphone)


def test_latency_is_measured_with_the_buffers_of_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    library, card = FakeLibrary(), devices.Device(0, "Card", 1, 2, 16000, True)

    def playrec(played: np.ndarray, rate: int, latency: object = "high", **_: object) -> np.ndarray:
        assert latency == devices.BUFFER_SECONDS
        return np.roll(played, round(0.05 * rate))[:, None]

    library.playrec = playrec
    monkeypatch.setattr(latency, "library", lambda: library)
    assert latency.measure(card, card) == pytest.approx(0.05, abs=1e-3)


def test_without_the_extra_one_line_says_what_to_install(vconv_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    outcome = vconv_cli("live", "--list-devices")
    assert outcome.code == 2 and "pip install 'vconv[live]'" in outcome.error
    assert "pip install 'vconv[live]'" in vconv_cli("live", "--help").out


def test_a_file_through_the_live_path(vconv_cli: Cli, clips: Path, small_model: Path, tmp_path: Path) -> None:
    model = ("--model", small_model)
    assert vconv_cli("embed", clips / "low.wav", "--me", tmp_path / "me.npz", *model).code == 0
    job = ("live", "--target", clips / "high.wav", "--input", clips / "src.wav", "--output", tmp_path / "out.wav")
    outcome = vconv_cli(*job, "--me", tmp_path / "me.npz", *model)
    assert (outcome.code == 0 and "288 ms" in outcome.out) or "290 ms" in outcome.out
    result, source = soundfile.info(tmp_path / "out.wav"), soundfile.info(clips / "src.wav")
    assert result.samplerate == 24000 and abs(result.duration - source.duration) < 1e-3
    assert "--overwrite" in vconv_cli(*job, *model).error
    assert "enrolment" in vconv_cli(*job, "--overwrite", "--me", clips / "low.wav", *model).error


@pytest.mark.parametrize("name", ["src.wav", "high.wav"])
def test_the_live_path_replaces_no_input(vconv_cli: Cli, clips: Path, small_model: Path, name: str) -> None:
    before = (clips / name).read_bytes()
    job = ("live", "-t", clips / "high.wav", "--input", clips / "src.wav", "-o", clips / name, "--model", small_model)
    done = vconv_cli(*job, "--overwrite")
    assert done.code == 2 and "is an input and cannot be the output too" in done.error
    assert (clips / name).read_bytes() == before
    (take := clips / "take").mkdir()
    (clips / name).rename(take / "input.wav")
    done = vconv_cli("live", "-t", take / "input.wav", "--record", take, "--overwrite", "--model", small_model)
    assert done.code == 2 and "another place with --record" in done.error


def test_a_result_that_appears_meanwhile_is_kept(clips: Path, small_model: Path, tmp_path: Path) -> None:
    job = FileJob(clips / "src.wav", tmp_path / "out.wav", model=small_model)
    with pytest.raises(InputError, match="exists already"):
        convert_file(job, [clips / "high.wav"], lambda _: job.output.write_bytes(b"precious"))
    assert job.output.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "--target"), (("-t", "a.npz", "--input", "b.wav"), "need each other")],
)
def test_bad_use_is_one_line(vconv_cli: Cli, arguments: tuple, message: str) -> None:
    outcome = vconv_cli("live", *arguments)
    assert outcome.code == 2 and message in outcome.error
    assert "needs CLIP" in vconv_cli("embed").error


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A PulseAudio server of its own with two null sinks, as an environment."""
    needed = ("pulseaudio", "pactl", "pacat", "parec")
    if missing := [name for name in needed if not shutil.which(name)]:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: pulseaudio pulseaudio-utils)")
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        pytest.skip("sounddevice or PortAudio is not installed (pip install 'vconv[live]')")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    server = f"unix:{runtime}/pulse.socket"
    env = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path), "PULSE_SERVER": server}
    (tmp_path / ".asoundrc").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
    sinks = [f"module-null-sink sink_name={name} rate=48000" for name in ("microphone", "speaker")]
    modules = [f"module-native-protocol-unix socket={runtime}/pulse.socket auth-anonymous=1", *sinks]
    command = ["pulseaudio", "-n", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes"]
    with subprocess.Popen(
        [*command, *(f"--load={module}" for module in modules)], env=env, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            for _ in range(100):
                if not subprocess.run(["pactl", "info"], env=env, capture_output=True).returncode:
                    break
                time.sleep(0.1)
            else:
                pytest.skip("PulseAudio does not start here")
            subprocess.run(["pactl", "set-default-sink", "speaker"], env=env, check=True)
            subprocess.run(["pactl", "set-default-source", "microphone.monitor"], env=env, check=True)
            yield env
        finally:
            daemon.terminate()


@pytest.mark.slow
def test_end_to_end_through_pulseaudio(pulse: dict[str, str], small_model: Path, clips: Path, tmp_path: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "vconv", "live", "--list-devices"], env=pulse, capture_output=True, text=True
    )
    if "pulse" not in listed.stdout and "default" not in listed.stdout:
        pytest.skip("ALSA has no PulseAudio plug-in here (Debian: libasound2-plugins)")
    soundfile.write(tmp_path / "said.wav", speech(6.0, 48000), 48000)
    command = [sys.executable, "-m", "vconv", "live", "-t", clips / "high.wav", "--model", small_model]
    raw = ["--format=s16le", "--rate=48000", "--channels=1"]
    heard = tmp_path / "heard.raw"
    # The small model is always fast enough, and an open gate makes it sound.
    with contextlib.ExitStack() as running:

        def begin(arguments: list, **streams: object) -> subprocess.Popen:
            process = subprocess.Popen(arguments, env=pulse, **streams)
            running.callback(process.wait, 30)
            running.callback(process.terminate)
            return process

        session = begin([*command, "--record", tmp_path / "take"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        begin(["parec", "-d", "speaker.monitor", *raw], stdout=running.enter_context(heard.open("wb")))
        played = ["pactl", "list", "short", "sink-inputs"]  # not empty once the session plays
        for _ in range(300):
            assert session.poll() is None
            if subprocess.run(played, env=pulse, capture_output=True, timeout=30).stdout:
                break
            time.sleep(0.1)
        subprocess.run(["pacat", "-d", "microphone", "--file-format=wav", tmp_path / "said.wav"], env=pulse, timeout=60)
        time.sleep(2)
        assert session.poll() is None
    result = np.frombuffer(heard.read_bytes()[: heard.stat().st_size // 2 * 2], np.int16) / 32768
    assert np.abs(result).max() > 0.01
    recorded = soundfile.info(tmp_path / "take" / "output.wav")
    assert recorded.duration > 4
