"""The page's server in a thread, on a real socket, and a client that sends what a browser would, or an attacker."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn

from vconv.web.app import Settings, listen, make_app, make_services
from vconv.web.routes import Services
from vconv.web.security import LOOPBACK, Site

TOKEN = "the-token-of-the-tests"
_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running server. Requests come from its own page unless ``headers`` say otherwise; None leaves one out."""

    services: Services
    site: Site

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str | None] | None = None, json: bool = True
    ) -> Answer:
        own = {"Host": f"127.0.0.1:{self.site.port}", "Authorization": f"Bearer {TOKEN}"}
        own |= {} if method == "GET" else {"Origin": f"http://127.0.0.1:{self.site.port}"}
        sent = {name: value for name, value in (own | (headers or {})).items() if value is not None}
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is None:
                connection.endheaders()
            elif isinstance(body, bytes) or json is False:
                chunked = not isinstance(body, bytes)
                if chunked:
                    connection.putheader("Transfer-Encoding", "chunked")
                else:
                    connection.putheader("Content-Length", str(len(body)))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its end
                    connection.endheaders(body, encode_chunked=chunked)
            else:
                data = _json(body)
                connection.putheader("Content-Length", str(len(data)))
                connection.endheaders(data)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def upload(self, path: Path, name: str | None = None) -> dict[str, Any]:
        answer = self.request("POST", f"/api/uploads?name={quote(name or path.name)}", path.read_bytes())
        assert answer.status == 201, answer.body
        return answer.json

    def job(self, **body: Any) -> dict[str, Any]:
        """A job's description when it has ended."""
        answer = self.request("POST", "/api/jobs", body)
        assert answer.status == 202, answer.body
        return self.wait(answer.json["id"])

    def job_refused(self, **body: Any) -> int:
        """HTTP status of a job that is not taken."""
        return self.request("POST", "/api/jobs", body).status

    def wait(self, key: str) -> dict[str, Any]:
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            job = self.request("GET", f"/api/jobs/{key}").json
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(0.05)
        raise AssertionError(f"the job did not end: {job}")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextlib.contextmanager
def running(settings: Settings, folder: Path) -> Iterator[Server]:
    """Serve with these settings; temporary files go into a new folder."""
    folder.mkdir()
    with listen(settings) as listener:
        site = Site(LOOPBACK, listener.getsockname()[1], TOKEN)
        services = make_services(settings, folder)
        server = uvicorn.Server(uvicorn.Config(make_app(services, site), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Server(services, site)
        finally:
            server.should_exit = True
            thread.join()
