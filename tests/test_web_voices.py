"""The page's library of voices, and live conversion, over the server's own interface."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from tests.conftest import BASE_MODEL, Cli
from vconv import audio
from vconv.errors import InputError
from vconv.inference.converter import Converter
from vconv.voice import Voice

pytest.importorskip("starlette", reason="needs vconv[web]")
pytest.importorskip("uvicorn", reason="needs vconv[web]")

from tests.web_server import TOKEN, Server, running
from vconv.web.app import Settings
from vconv.web.inputs import Refusal
from vconv.web.library import Library, check_name
from vconv.web.live import MAX_AGE, Backlog
from vconv.web.targets import Target
from vconv.web.uploads import Limits


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    """With the population of the shipped weights, where there are some."""
    folder = BASE_MODEL if BASE_MODEL.is_dir() else model
    limits = Limits(upload_bytes=4 << 20)
    settings = Settings(voices=tmp_path / "voices", models=[folder], threads=1, port=0, limits=limits)
    with running(settings, tmp_path / "run") as server:
        yield server


@pytest.fixture
def uploads(server: Server, clips: Path) -> dict[str, str]:
    return {name: server.upload(clips / f"{name}.wav")["id"] for name in ("src", "low", "high")}


def names(server: Server) -> list[str]:
    return [voice["name"] for voice in server.request("GET", "/api/voices").json["voices"]]


def same(first: Path, second: Path) -> bool:
    one, other = Voice.load(first), Voice.load(second)
    return np.array_equal(one.embedding, other.embedding) and one.log_f0 == other.log_f0


def test_voices_are_those_of_the_command_line(
    server: Server, uploads: dict[str, str], clips: Path, vconv_cli: Cli
) -> None:
    model = server.services.models.option("")
    library = server.services.library
    for name in ("low", "high"):
        assert server.job(kind="embed", name=name, target={"uploads": [uploads[name]]})["state"] == "done"
        assert vconv_cli("embed", clips / f"{name}.wav", "-o", clips / f"{name}.npz", *model).code == 0
        assert same(library.path(name), clips / f"{name}.npz")
    mix = [{"voice": "low", "weight": 0.7}, {"upload": uploads["high"], "weight": 0.3}]
    assert server.job(kind="embed", name="Ünder way", target={"mix": mix})["state"] == "done"
    done = vconv_cli("embed", f"{clips}/low.npz:0.7", f"{clips}/high.wav:0.3", "-o", clips / "mix.npz", *model)
    assert done.code == 0 and same(library.path("Ünder way"), clips / "mix.npz")
    body = {"kind": "convert", "source": uploads["src"], "target": {"voice": "Ünder way"}, "draw": False}
    job = server.job(**body)
    assert job["state"] == "done" and str(library.path("Ünder way")) in job["result"]["command"]


@pytest.mark.skipif(not BASE_MODEL.is_dir(), reason="needs the weights in pretrained/base")
def test_new_and_moved_voices_are_those_of_the_command_line(server: Server, tmp_path: Path, vconv_cli: Cli) -> None:
    library = server.services.library
    assert server.job(kind="new", name="new", seed=7)["state"] == "done"
    assert vconv_cli("speakers", "new", "--seed", 7, "-o", tmp_path / "new.npz").code == 0
    assert same(library.path("new"), tmp_path / "new.npz")
    steps = {"higher": 1.5, "brighter": -0.5, "2": 0.25}
    assert server.job(kind="move", name="moved", target={"voice": "new"}, steps=steps)["state"] == "done"
    moves = ["--higher", 1.5, "--brighter=-0.5", "--axis", "2:0.25"]
    assert vconv_cli("speakers", "move", tmp_path / "new.npz", *moves, "-o", tmp_path / "moved.npz").code == 0
    assert same(library.path("moved"), tmp_path / "moved.npz")
    found = server.request("GET", "/api/directions").json
    assert found["known"] and found["directions"][0]["number"] == 1
    preview = server.job(kind="preview", target={"voice": "new"}, steps={"higher": 1})
    assert preview["state"] == "done" and preview["result"]["seconds"] > 1


def test_a_voice_is_renamed_exported_deleted_and_imported(server: Server, uploads: dict[str, str]) -> None:
    server.job(kind="embed", name="one", target={"uploads": [uploads["low"]]})
    assert server.job_refused(kind="embed", name="ONE", target={"uploads": [uploads["low"]]}) == 409
    assert server.request("POST", "/api/voices/rename", {"name": "one", "new": "Zoë 2"}).status == 204
    assert names(server) == ["Zoë 2"]
    content = server.request("GET", f"/api/voices/file?name={quote('Zoë 2')}").body
    assert server.request("DELETE", f"/api/voices?name={quote('Zoë 2')}").status == 204
    assert names(server) == []
    assert server.request("POST", f"/api/voices/import?name={quote('Zoë 2.npz')}", content).status == 201
    assert server.request("POST", f"/api/voices/import?name={quote('Zoë 2.npz')}", content).status == 409
    (voice,) = server.request("GET", "/api/voices").json["voices"]
    assert voice["name"] == "Zoë 2" and 90 < voice["register"] < 140 and not voice["tuned"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"no archive at all" * 1000])
def test_what_is_no_voice_is_not_imported(server: Server, content: bytes) -> None:
    answer = server.request("POST", "/api/voices/import?name=bad.npz", content)
    assert answer.status == 422 and answer.json["error"].startswith("bad.npz: holds no voice")
    assert names(server) == [] and not list(server.services.folder.glob("*.npz"))


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", ".hidden", "a/b", "a\\b", "a:b", "con", "NUL.x", "a\0b", "a\nb", "x" * 61]
)
def test_names_that_no_file_may_have_are_refused(name: str) -> None:
    with pytest.raises(Refusal):
        check_name(name)


def test_an_odd_file_does_not_hide_the_other_voices(server: Server, tmp_path: Path) -> None:
    folder = server.services.library.folder
    voice = Voice(np.full(4, 0.5, np.float32), 0.0)
    voice.save(folder / "good.npz")
    arrays = dict(np.load(folder / "good.npz"))
    np.savez(folder / "odd.npz", **arrays | {"log_f0": np.float64(2000)})
    try:
        voice.save(folder / os.fsdecode(b"caf\xe9.npz"))
    except InputError:
        pytest.skip("this file system has no such names")
    latin, good, odd = server.request("GET", "/api/voices").json["voices"]
    assert (latin["name"], latin["register"], good["register"]) == ("caf\\xe9", 200, 200)
    assert odd["error"].startswith("odd: register is out of range")
    assert server.request("GET", f"/api/voices/file?name={quote(latin['name'])}").status == 200
    refused = server.request("POST", "/api/voices/import?name=new.npz", (folder / "odd.npz").read_bytes())
    assert refused.status == 422 and "register" in refused.json["error"]


def test_two_voices_of_one_name_are_both_kept(server: Server, uploads: dict[str, str]) -> None:
    with server.services.jobs.model:  # so that the first is not there when the second is asked for
        body = {"kind": "embed", "name": "Anna", "target": {"uploads": [uploads["low"]]}}
        keys = [server.request("POST", "/api/jobs", body).json["id"] for _ in range(2)]
    assert [server.wait(key)["result"]["voice"] for key in keys] == ["Anna", "Anna (2)"] == names(server)


def test_a_voice_made_during_an_import_stays(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Voice(np.full(4, 0.5, np.float32), 0.0).save(tmp_path / "own.npz")
    library, load = server.services.library, Voice.load

    def meanwhile(path: Path) -> Voice:
        library.save(load(path), "Anna")
        return load(path)

    monkeypatch.setattr(Voice, "load", meanwhile)
    answer = server.request("POST", "/api/voices/import?name=Anna.npz", (tmp_path / "own.npz").read_bytes())
    assert answer.json == {"voice": "Anna (2)"}


def test_links_and_files_beside_the_library_are_no_voices(tmp_path: Path) -> None:
    library = Library(tmp_path / "voices")
    (tmp_path / "outside.npz").write_bytes(b"secret")
    for name in ("../outside", "..", "/etc/passwd", "outside.npz"):
        with pytest.raises(Refusal, match="no voice"):
            library.path(name)


# ---------------------------------------------------------------- tuning


def test_tuning_needs_speech(server: Server, uploads: dict[str, str]) -> None:
    pytest.importorskip("torch", reason="needs vconv[train]")
    if not BASE_MODEL.is_dir():
        pytest.skip("needs the weights in pretrained/base")
    job = server.job(kind="tune", name="short", target={"uploads": [uploads["low"]]})
    assert job["state"] == "failed" and "speech" in job["error"] and "fault" not in job["error"]


# ---------------------------------------------------------------- live


def connect(server: Server):
    client = pytest.importorskip("websockets.sync.client", reason="needs vconv[web]")
    own = f"127.0.0.1:{server.site.port}"
    return client.connect(f"ws://{own}/api/live", origin=f"http://{own}", subprotocols=["vconv", TOKEN], proxy=None)


def test_live_samples_are_those_of_the_live_converter(server: Server, uploads: dict[str, str], clips: Path) -> None:
    wave, _ = audio.read(clips / "src.wav", 48000)
    with connect(server) as socket:
        assert socket.subprotocol == "vconv"  # the token is not told back
        socket.send(json.dumps({"target": {"uploads": [uploads["low"]]}, "rate": 48000, "pitch": 1}))
        ready = json.loads(socket.recv())
        assert ready["ready"] and 0 < ready["latency"] < 1
        parts = []
        for start in range(0, len(wave), 9600):  # 0.2 s, answered before the next is sent
            socket.send(wave[start : start + 9600].astype("<f4").tobytes())
            while sum(map(len, parts)) < start + 9600 - (ready["latency"] + ready["block"]) * 48000:
                message = socket.recv(timeout=60)
                if isinstance(message, bytes):
                    parts.append(np.frombuffer(message, "<f4"))
    converter = server.services.models.open(server.services.models.names[0]).converter
    live = converter.live(str(clips / "low.wav"), rate_in=48000, rate_out=48000, pitch=1)
    expected = live.process(wave)
    made = np.concatenate(parts)
    assert len(made) > 24000
    np.testing.assert_allclose(made, expected[: len(made)], atol=1e-4)
    assert server.job(kind="embed", name="after", target={"uploads": [uploads["low"]]})["state"] == "done"


def say(socket, seconds: float = 1.0) -> None:
    """Silence at 16 kHz, in blocks that the server takes."""
    for _ in range(round(seconds / 0.1)):
        socket.send(np.zeros(1600, "<f4").tobytes())


def start_live(socket, target: dict[str, list[str]]) -> None:
    socket.send(json.dumps({"target": target, "rate": 16000}))
    assert json.loads(socket.recv(timeout=60))["ready"]


def test_sound_goes_on_while_the_target_changes(
    server: Server, uploads: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, voice_of = threading.Event(), threading.Event(), Target.voice

    def slow(self: Target, converter: Converter) -> Voice:
        begun.set()
        assert go_on.wait(60)
        return voice_of(self, converter)

    with connect(server) as socket:
        start_live(socket, {"uploads": [uploads["low"]]})
        monkeypatch.setattr(Target, "voice", slow)
        try:
            socket.send(json.dumps({"target": {"uploads": [uploads["high"]]}}))
            assert begun.wait(60)
            say(socket)
            while not isinstance(socket.recv(timeout=60), bytes):
                pass
        finally:
            go_on.set()


def test_a_target_that_cannot_be_used_is_told_and_live_goes_on(
    server: Server, uploads: dict[str, str], tmp_path: Path
) -> None:
    audio.write(tmp_path / "hush.wav", np.zeros(16000, np.float32), 16000)
    hush = server.upload(tmp_path / "hush.wav")["id"]
    with connect(server) as socket:
        start_live(socket, {"uploads": [uploads["low"]]})
        for key, told in ((hush, "hush.wav: only silence"), ("unknown", "")):
            socket.send(json.dumps({"target": {"uploads": [key]}}))
            message = json.loads(socket.recv(timeout=60))
            assert message["refused"].startswith(told) and str(server.services.folder) not in message["refused"]
        say(socket)
        while not isinstance(socket.recv(timeout=60), bytes):
            pass


def test_live_waits_for_no_conversion(server: Server, uploads: dict[str, str]) -> None:
    with server.services.jobs.model, connect(server) as socket:
        assert "busy" in json.loads(socket.recv())["error"]


@pytest.mark.parametrize(
    "message", ["{", "[]", "{}", '{"rate": 48000, "target": {"uploads": ["x"]}}', '{"rate": 1, "target": {}}']
)
def test_live_settings_are_checked(server: Server, message: str) -> None:
    with connect(server) as socket:
        socket.send(message)
        assert json.loads(socket.recv())["error"]
    assert not server.services.jobs.model.locked()


def test_what_waits_too_long_is_dropped() -> None:
    backlog = Backlog(1000)
    for number in range(10):
        backlog.add(np.full(100, number, np.float32))
    kept = backlog.take()
    assert len(kept) == MAX_AGE * 1000 and kept[-1] == 9 and backlog.dropped == 600
    assert len(backlog.take()) == 0


# ---------------------------------------------------------------- without the extra


def test_the_command_says_what_to_install(vconv_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("vconv.web")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = vconv_cli("web", "--no-browser")
    assert done.code == 2 and done.error.endswith("install it with: pip install 'vconv[web]'")
