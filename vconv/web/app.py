"""The page and its server, put together."""

from __future__ import annotations

import contextlib
import secrets
import socket
import tempfile
import threading
import webbrowser
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles

from vconv.errors import InputError
from vconv.web.jobs import Jobs
from vconv.web.library import Library, default_folder
from vconv.web.live import live
from vconv.web.models import Models
from vconv.web.routes import Services, routes
from vconv.web.security import LOOPBACK, Guard, Site
from vconv.web.uploads import Limits, Uploads

STATIC = Path(__file__).parent / "static"
PORT = 8317
MAX_MESSAGE_BYTES = 1 << 20  # of a WebSocket
CONSOLE_BROWSERS = frozenset(("www-browser", "links", "elinks", "lynx", "w3m"))  # would take this terminal


@dataclass(frozen=True)
class Settings:
    """Options of `vconv web`."""

    voices: Path | None = None
    models: list[Path] = field(default_factory=list)
    device: str = "cpu"
    threads: int | None = None
    port: int | None = None
    host: str = "127.0.0.1"
    certificate: Path | None = None
    key: Path | None = None
    limits: Limits = Limits()

    def check(self) -> None:
        """Raise InputError where other machines could listen in."""
        if (self.certificate is None) != (self.key is None):
            raise InputError("--certificate and --key belong together; give both")
        for path in (self.certificate, self.key):
            if path is not None and not path.is_file():
                raise InputError(f"{path}: no such file; check the path")
        if self.host not in ("127.0.0.1", "localhost", "::1") and self.certificate is None:
            raise InputError(f"--host {self.host} lets other machines in; add --certificate and --key for https")
        if self.host in ("0.0.0.0", "::"):  # as a Host header that would be anything
            raise InputError(f"--host {self.host}: give the name or address under which others reach this machine")


def make_app(services: Services, site: Site) -> Starlette:
    """The application; ``services`` are stopped with it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        services.jobs.stop()

    stream = WebSocketRoute("/api/live", partial(live, services))
    page = Mount("/", StaticFiles(directory=STATIC, html=True))
    return Starlette(
        routes=[*routes(services), stream, page], middleware=[Middleware(Guard, site=site)], lifespan=lifespan
    )


def make_services(settings: Settings, folder: Path) -> Services:
    """What the application works with; temporary files go into ``folder``.

    Raises:
        InputError: there is no model, or the folder of voices cannot be made.
    """
    models = Models(settings.models, settings.device, settings.threads)
    library = Library(settings.voices or default_folder())
    for name in ("uploads", "jobs"):
        (folder / name).mkdir()
    uploads = Uploads(folder / "uploads", settings.limits)
    jobs = Jobs(folder / "jobs", settings.limits.waiting_jobs, settings.limits.total_bytes)
    return Services(folder, settings.limits, uploads, jobs, library, models)


def serve(settings: Settings, open_browser: bool = True) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: an option is wrong, or the port is taken.
    """
    settings.check()
    with listen(settings) as listener, tempfile.TemporaryDirectory(prefix="vconv-web-") as folder:
        site = _site(settings, listener.getsockname()[1])
        services = make_services(settings, Path(folder))
        config = uvicorn.Config(
            make_app(services, site),
            log_level="error",
            access_log=False,
            server_header=False,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            timeout_graceful_shutdown=2,
            ws_max_size=MAX_MESSAGE_BYTES,
        )
        print(f"vconv web: {site.address}\nCtrl-C stops it.", flush=True)
        if open_browser:  # the socket accepts already, but some browsers are waited for
            threading.Thread(target=_open_browser, args=(site.address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _open_browser(address: str) -> None:
    """Open the page where there is a browser with windows."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if getattr(browser, "basename", "") not in CONSOLE_BROWSERS:
            browser.open(address)


def _site(settings: Settings, port: int) -> Site:
    scheme = "https" if settings.certificate else "http"
    names = LOOPBACK if settings.host in ("127.0.0.1", "localhost", "::1") else (settings.host, *LOOPBACK)
    if settings.host == "::1":
        names = ("[::1]", "localhost")
    return Site(names, port, secrets.token_urlsafe(24), scheme)


def listen(settings: Settings) -> socket.socket:
    """A socket that listens; without ``--port`` a free one if the usual one is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    wanted = [settings.port] if settings.port is not None else [PORT, 0]
    for port in wanted:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(128)
        except OSError as error:
            listener.close()
            reason = error.strerror
        else:
            return listener
    raise InputError(f"--port {wanted[0]} on {settings.host} cannot be used ({reason}); choose another")
