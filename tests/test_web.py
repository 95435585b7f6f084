"""The page's server: it converts as the command line does, and refuses what does not come from its own page."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import REPOSITORY, Cli, speech
from vconv import audio
from vconv.errors import InputError

pytest.importorskip("starlette", reason="needs vconv[web]")
pytest.importorskip("uvicorn", reason="needs vconv[web]")

from tests.web_server import TOKEN, Server, running
from vconv.web import routes
from vconv.web.app import STATIC, Settings
from vconv.web.inputs import Refusal, file_name
from vconv.web.jobs import KEPT, Job, Jobs
from vconv.web.security import Site
from vconv.web.uploads import Limits

LIMITS = Limits(upload_bytes=4 << 20, total_bytes=16 << 20, waiting_jobs=3)


@pytest.fixture(scope="module")
def idle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for requests that leave nothing behind."""
    folder = tmp_path_factory.mktemp("idle")
    settings = Settings(voices=folder / "voices", models=[model], threads=1, port=0, limits=LIMITS)
    with running(settings, folder / "run") as server:
        yield server


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    settings = Settings(voices=tmp_path / "voices", models=[model], threads=1, port=0, limits=LIMITS)
    with running(settings, tmp_path / "run") as server:
        yield server


def conversion(server: Server, clips: Path, **options: object) -> dict[str, object]:
    source, target = server.upload(clips / "src.wav"), server.upload(clips / "low.wav")
    return {"kind": "convert", "source": source["id"], "target": {"uploads": [target["id"]]}, **options}


# ---------------------------------------------------------------- converting


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_samples_are_those_of_the_command_line(server: Server, clips: Path, vconv_cli: Cli, suffix: str) -> None:
    job = server.job(**conversion(server, clips, pitch=2))
    assert job["state"] == "done" and job["progress"] == 1.0
    answer = server.request("GET", f"/api/jobs/{job['id']}/audio?format={suffix}")
    assert answer.headers["content-disposition"] == f'attachment; filename="src_as_low.{suffix}"'
    expected = clips / f"expected.{suffix}"
    model = server.services.models.option("")
    done = vconv_cli("convert", clips / "src.wav", "-t", clips / "low.wav", "-o", expected, "--pitch", 2, *model)
    assert done.code == 0
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(answer.body))[0], soundfile.read(expected)[0])


def test_a_result_comes_with_measurements_pictures_and_its_command(server: Server, clips: Path) -> None:
    job = server.job(**conversion(server, clips, pitch=-1.5, keep_pitch=True))
    result = job["result"]
    assert result["seconds"] == pytest.approx(1.2) and len(result["peaks"]) > 100
    assert set(result["similarity"]) == {"target", "source"}
    words = shlex.split(result["command"])
    assert words[:5] == ["vconv", "convert", "src.wav", "--target", "low.wav"]
    assert {"--pitch=-1.5", "--keep-pitch"} < set(words) and words[-2:] == ["-o", "src_as_low.wav"]
    drawn = server.request("GET", f"/api/jobs/{job['id']}/pictures").json
    assert set(drawn) == {"source", "result", "target"}
    for picture in drawn.values():
        assert picture["bands"] == 80 and len(picture["f0"]) == picture["columns"] and max(picture["f0"]) > 50
    listened = server.request("GET", f"/api/jobs/{job['id']}/audio?listen")
    assert soundfile.info(io.BytesIO(listened.body)).duration == pytest.approx(1.2, abs=0.01)


def test_an_unusable_target_is_told_in_one_line_with_its_own_name(server: Server, clips: Path, tmp_path: Path) -> None:
    audio.write(tmp_path / "hush.wav", np.zeros(16000, np.float32), 16000)
    hush = server.upload(tmp_path / "hush.wav")
    job = server.job(**conversion(server, clips) | {"target": {"uploads": [hush["id"]]}})
    assert job["state"] == "failed"
    assert job["error"].startswith("hush.wav: only silence; give a recording of")


def test_what_is_no_audio_is_refused_at_once(idle: Server) -> None:
    answer = idle.request("POST", "/api/uploads?name=notes.txt", b"no audio at all")
    assert answer.status == 422
    assert answer.json["error"].startswith("notes.txt: is not audio")
    assert not list((idle.services.folder / "uploads").iterdir())


def test_results_of_several_jobs_come_as_one_archive(server: Server, clips: Path) -> None:
    body = conversion(server, clips, draw=False)
    keys = [server.job(**body)["id"] for _ in range(2)]
    answer = server.request("POST", "/api/zip", {"jobs": keys, "format": "flac"})
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    assert archive.namelist() == ["src_as_low.flac", "src_as_low (2).flac"] and archive.testzip() is None


def test_a_waiting_job_can_be_cancelled(server: Server, clips: Path) -> None:
    body = conversion(server, clips, draw=False)
    with server.services.jobs.model:  # so that nothing starts
        first = server.request("POST", "/api/jobs", body).json
        second = server.request("POST", "/api/jobs", body).json
        assert server.request("GET", f"/api/jobs/{second['id']}").json["ahead"] == 1
        assert server.request("DELETE", f"/api/jobs/{second['id']}").status == 204
        assert server.request("GET", f"/api/jobs/{second['id']}").status == 404
    assert server.wait(first["id"])["state"] == "done"


def test_a_running_job_stops_when_it_is_cancelled(server: Server) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(job: object) -> dict[str, object]:
        begun.set()
        go_on.wait()
        job.advance(1.0)
        raise AssertionError("was not stopped")

    job = server.services.jobs.submit("long", work, total=10.0)
    begun.wait()
    server.request("DELETE", f"/api/jobs/{job.id}")
    go_on.set()
    assert server.wait(job.id)["state"] == "cancelled"
    assert not job.folder.exists()


def test_a_fault_in_a_job_does_not_end_the_worker(server: Server, clips: Path) -> None:
    job = server.services.jobs.submit("bad", lambda job: {}["missing"])
    assert "fault in vconv" in server.wait(job.id)["error"]
    assert server.job(**conversion(server, clips))["state"] == "done"


def test_a_refusal_in_a_job_is_no_fault(server: Server) -> None:
    def work(job: Job) -> dict[str, object]:
        raise Refusal(409, "there is one already")

    assert server.wait(server.services.jobs.submit("late", work).id)["error"] == "there is one already"


def test_old_results_make_room_for_new_ones(tmp_path: Path) -> None:
    def work(job: Job) -> dict[str, object]:
        (job.folder / "result.wav").write_bytes(bytes(400))
        return {}

    jobs = Jobs(tmp_path, waiting=8, most_bytes=1000)
    made = [jobs.submit("", work) for _ in range(4)]
    while jobs.busy:
        time.sleep(0.01)
    jobs.stop()
    assert [job.folder.exists() for job in made] == [False, False, True, True]
    with pytest.raises(Refusal):
        jobs.get(made[0].id)


def test_many_small_results_are_kept_and_few_failures(tmp_path: Path) -> None:
    def work(job: Job) -> dict[str, object]:
        if job.title == "bad":
            raise InputError("no")
        (job.folder / "result.wav").write_bytes(b"RIFF")
        return {}

    jobs = Jobs(tmp_path, waiting=3 * KEPT, most_bytes=1 << 20)
    first = jobs.submit("good", work)
    bad = [jobs.submit("bad", work) for _ in range(KEPT + 1)]
    made = [first, *(jobs.submit("good", work) for _ in range(KEPT))]
    while jobs.busy:
        time.sleep(0.01)
    jobs.stop()
    assert all(jobs.result(job.id) is job for job in made)
    with pytest.raises(Refusal):
        jobs.get(bad[0].id)
    assert jobs.get(bad[-1].id).error == "no"


def test_an_archive_names_what_made_room_for_newer_results(server: Server) -> None:
    def work(job: Job) -> dict[str, object]:
        soundfile.write(job.folder / "result.wav", np.zeros(LIMITS.total_bytes // 6, np.float32), 24000, "FLOAT")
        return {"name": "made"}

    def submit(title: str) -> str:
        job = server.services.jobs.submit(title, work)
        assert server.wait(job.id)["state"] == "done"
        return job.id

    keys = [submit("first.wav"), submit("second.wav"), "unknown"]
    while server.request("GET", f"/api/jobs/{keys[0]}").status == 200:
        time.sleep(0.01)
    answer = server.request("POST", "/api/zip", {"jobs": keys, "format": "flac"})
    archive = zipfile.ZipFile(io.BytesIO(answer.body))
    assert archive.namelist() == ["made.flac", "missing.txt"] and answer.headers["x-missing"] == "2"
    assert archive.read("missing.txt").decode().splitlines()[1:] == ["first.wav", "unknown"]
    answer = server.request("POST", "/api/zip", {"jobs": [keys[0]], "format": "flac"})
    assert answer.status == 404 and "convert the files again" in answer.json["error"]
    assert not list(server.services.folder.glob("*.zip"))


def test_two_archives_of_one_result_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(job: Job) -> dict[str, object]:
        soundfile.write(job.folder / "result.wav", np.zeros(2400, np.float32), 24000, "FLOAT")
        return {"name": "made"}

    job, both, encode = server.services.jobs.submit("made", work), threading.Barrier(2), routes.encode

    def together(source: Path, output: Path) -> Path:
        encoded = encode(source, output)
        both.wait(60)
        return encoded

    server.wait(job.id)
    monkeypatch.setattr(routes, "encode", together)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(server.request, "POST", "/api/zip", {"jobs": [job.id], "format": "wav"}) for _ in "ab"]
        assert [answer.result().status for answer in asked] == [200, 200]


def test_an_archive_takes_thousands_of_results(idle: Server) -> None:
    answer = idle.request("POST", "/api/zip", {"jobs": [f"{number:016x}" for number in range(20_000)], "format": "wav"})
    assert answer.status == 404 and "none of these results" in answer.json["error"]


def test_a_failing_disk_is_told_in_one_line_without_paths(server: Server) -> None:
    folder = server.services.library.folder
    folder.rmdir()
    answer = server.request("GET", "/api/voices")
    assert answer.status == 500
    error = answer.json["error"]
    assert error.startswith("a file of vconv web: No such file") and str(folder) not in error


# ---------------------------------------------------------------- attacks


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:{port}"}, 421),
        ({"Host": "127.0.0.1:1"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer ünicode".encode().decode("latin-1")}, 401),
    ],
)
def test_foreign_requests_are_refused(idle: Server, headers: dict[str, str | None], status: int) -> None:
    headers = {name: value and value.replace("{port}", str(idle.site.port)) for name, value in headers.items()}
    answer = idle.request("POST", "/api/jobs", {"kind": "convert"}, headers)
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


def test_a_request_without_a_host_is_refused(idle: Server) -> None:
    """By uvicorn itself, which closes the connection at once: a body might be reset before the answer is read."""
    assert idle.request("GET", "/api/jobs", headers={"Host": None}).status == 400


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_the_page_answers_under_the_names_of_this_machine(idle: Server, name: str) -> None:
    answer = idle.request("GET", "/", headers={"Host": f"{name}:{idle.site.port}", "Authorization": None})
    assert answer.status == 200 and answer.body.startswith(b"<!doctype html>")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_another_site_may_not_even_ask(idle: Server) -> None:
    """A preflight gets no permission."""
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = idle.request("OPTIONS", "/api/jobs", headers=headers)
    assert answer.status == 403 and not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("origin", "offered"),
    [
        ("https://evil.example", f"vconv, {TOKEN}"),
        (None, f"vconv, {TOKEN}"),
        ("http://127.0.0.1:{port}", "vconv, wrong"),
        ("http://127.0.0.1:{port}", "vconv"),
        ("http://127.0.0.1:{port}", None),
    ],
)
def test_a_websocket_from_elsewhere_is_refused(idle: Server, origin: str | None, offered: str | None) -> None:
    pytest.importorskip("websockets", reason="needs vconv[web]")
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": offered}
    headers |= {"Origin": origin and origin.replace("{port}", str(idle.site.port))}
    assert idle.request("GET", "/api/live", headers=headers).status == 403


def test_a_large_upload_is_refused_before_it_is_read(idle: Server) -> None:
    headers = {"Content-Length": str(300 << 20)}
    assert idle.request("POST", "/api/uploads?name=a.wav", headers=headers).status == 413


def test_a_large_upload_of_unknown_length_is_cut_off(idle: Server) -> None:
    """300 MB in blocks: they pile up neither on the disk nor in memory."""
    resource = pytest.importorskip("resource", reason="tells the memory of a process on Unix")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    blocks = iter([b"RIFF" + bytes((1 << 20) - 4)] * 300)
    answer = idle.request("POST", "/api/uploads?name=a.wav", blocks, json=False)
    assert answer.status == 413 and "4 MiB" in answer.json["error"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    assert not list((idle.services.folder / "uploads").iterdir())
    assert idle.request("GET", "/api/state").status == 200


def test_ten_silent_hours_are_refused(idle: Server, tmp_path: Path) -> None:
    """A few hundred kilobytes can hold them."""
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        for _ in range(600):
            file.write(np.zeros(60 * 8000, np.int16))
    assert path.stat().st_size < LIMITS.upload_bytes
    answer = idle.request("POST", "/api/uploads?name=silence.flac", path.read_bytes())
    assert answer.status == 422
    assert answer.json["error"] == "silence.flac: is longer than 60 minutes; cut it into parts"


def test_many_channels_are_refused(idle: Server, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "wide.wav", np.zeros((4000, 64), np.int16), 16000)
    answer = idle.request("POST", "/api/uploads?name=wide.wav", (tmp_path / "wide.wav").read_bytes())
    assert answer.status == 422 and "64 channels" in answer.json["error"]


def test_all_uploads_together_are_limited(server: Server, tmp_path: Path) -> None:
    audio.write(tmp_path / "long.wav", speech(100.0), 16000)  # 3.2 MB
    body = (tmp_path / "long.wav").read_bytes()
    answers = [server.request("POST", "/api/uploads?name=a.wav", body) for _ in range(6)]
    assert [answer.status for answer in answers] == [201] * 5 + [507]
    server.request("DELETE", f"/api/uploads/{answers[0].json['id']}")
    assert server.request("POST", "/api/uploads?name=a.wav", body).status == 201


@pytest.mark.parametrize(
    "path",
    [
        "/../app.py",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/static/../../app.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/api/uploads/..%2f..%2fsecret/audio",
        "/api/jobs/%2e%2e/audio",
        "/api/voices/file?name=..%2F..%2Fetc%2Fpasswd",
        "/api/voices/file?name=/etc/passwd",
    ],
)
def test_paths_lead_nowhere(idle: Server, path: str) -> None:
    (idle.services.folder.parent / "secret.npz").write_bytes(b"secret")
    answer = idle.request("GET", path)
    assert answer.status == 404
    assert b"import" not in answer.body and b"root:" not in answer.body


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\clips\\a.wav", "a.wav"),
        ("<img src=x onerror=alert(1)>.wav", "<img src=x onerror=alert(1)>.wav"),
        ("a\r\nSet-Cookie: b.wav", "aSet-Cookie: b.wav"),
        ("gnp\u202evaw.exe.wav", "gnpvaw.exe.wav"),  # turns the direction of writing
        ("e\u0301.wav", "\u00e9.wav"),
        ("", "recording"),
    ],
)
def test_names_are_for_people_alone(server: Server, clips: Path, name: str, shown: str) -> None:
    assert file_name(name) == shown
    assert server.upload(clips / "src.wav", name or " ")["name"] == shown
    (stored,) = (server.services.folder / "uploads").iterdir()
    assert stored.stem.isalnum() and stored.suffix in (".wav", ".audio")


def test_a_command_quotes_hostile_names(server: Server, clips: Path) -> None:
    name = "$(touch x) 'é' `id`;.wav"
    source = server.upload(clips / "src.wav", name)
    target = server.upload(clips / "low.wav", "-rf.wav")
    body = {"kind": "convert", "source": source["id"], "target": {"uploads": [target["id"]]}, "draw": False}
    words = shlex.split(server.job(**body)["result"]["command"])
    assert words[2:5] == [name, "--target", "./-rf.wav"]


def test_fifty_requests_at_once(server: Server, clips: Path) -> None:
    """As many as may wait are taken, the others told so, and the server goes on."""
    body = conversion(server, clips, draw=False)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(server.request("POST", "/api/jobs", body).status)

    with server.services.jobs.model:  # so that none is done meanwhile
        threads = [threading.Thread(target=ask) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(set(statuses)) == [202, 503] and statuses.count(202) == LIMITS.waiting_jobs
        assert server.request("GET", "/api/state").status == 200
    while server.services.jobs.busy:
        time.sleep(0.05)
    assert server.job(**body)["state"] == "done"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"kind": "convert"}',
        b'{"kind": 7}',
        b'{"kind": "shell"}',
        b'{"kind": "preview", "target": {"uploads": []}}',
        b'{"kind": "preview", "target": {"uploads": ["/etc/passwd"]}}',
        b'{"kind": "preview", "target": {"mix": [{"weight": -1}]}}',
        b'{"kind": "preview", "target": {"path": "/etc/passwd"}}',
        b'{"kind": "new", "name": "a", "seed": 1e300}',
        b'{"kind": "new", "name": "a", "seed": NaN}',
        b'{"kind": "new", "name": "../a", "seed": 1}',
        b'{"kind": "new", "name": "a", "seed": 1, "model": "/etc"}',
    ],
)
def test_malformed_requests_are_refused(idle: Server, body: bytes) -> None:
    answer = idle.request("POST", "/api/jobs", body)
    assert answer.status in (400, 404, 413) and answer.json["error"]


# ---------------------------------------------------------------- the command


def test_other_machines_need_a_certificate(vconv_cli: Cli) -> None:
    done = vconv_cli("web", "--host", "0.0.0.0", "--no-browser")
    assert done.code == 2 and "--certificate" in done.error


def test_a_host_is_one_name(tmp_path: Path) -> None:
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).touch()
    settings = Settings(host="0.0.0.0", certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem")
    with pytest.raises(InputError, match="under which others reach"):
        settings.check()


def test_the_page_names_no_other_address() -> None:
    for path in STATIC.iterdir():
        if path.suffix != ".flac":
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"(https?|wss?)://\w|innerHTML|outerHTML|insertAdjacentHTML|\beval\(", text), path.name


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")
def test_the_command_serves_until_ctrl_c(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vconv", "web", "--no-browser", "--port", "0", "--model", model]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*command, "--voices", tmp_path / "voices"], cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().split()[-1]
        page, _, token = address.partition("#")
        assert len(token) >= 32
        request = urllib.request.Request(f"{page}api/state", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            assert json.load(answer)["models"] == [model.name]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["voices"]


@pytest.mark.skipif(sys.platform == "win32", reason="BROWSER is read on Unix")
@pytest.mark.parametrize(("browser", "opened"), [("browser", True), ("lynx", False)])
def test_a_browser_that_is_waited_for_stops_nothing(model: Path, tmp_path: Path, browser: str, opened: bool) -> None:
    """It is opened beside the server, unless it would take the terminal."""
    program, began, end = tmp_path / browser, tmp_path / "began", tmp_path / "end"
    program.write_text(f"#!/bin/sh\ntouch '{began}'\nwhile [ ! -e '{end}' ]; do sleep 0.1; done\n")
    program.chmod(0o755)
    command = [sys.executable, "-m", "vconv", "web", "--port", "0", "--model", model, "--voices", tmp_path / "voices"]
    env = os.environ | {"BROWSER": str(program), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True)
    try:
        page = process.stdout.readline().split()[-1].partition("#")[0]
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page, timeout=60) as answer:
            assert answer.status == 200
        deadline = time.monotonic() + (60.0 if opened else 0.5)
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert began.exists() == opened
    finally:
        end.touch()
        process.kill()
        process.communicate()


def test_the_token_is_not_sent_to_any_server() -> None:
    assert Site(("127.0.0.1",), 80, "abc").address == "http://127.0.0.1:80/#abc"
