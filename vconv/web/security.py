"""Who may talk to the server: Host, Origin and token of every request, and what the page may do.

A page on any website can send requests to a server on this machine, and a foreign name can be made to resolve to
127.0.0.1 (DNS rebinding). So each request must name this server as its Host, each request that is not a plain GET must
come from this server's own page (Origin), and everything beside the static page needs a random token.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/api/"
PROTOCOL = "vconv"  # of the WebSocket; the token is offered as a second one, as browsers can set no header there
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; worker-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Site:
    """Where the server is, and what opens it.

    Args:
        names: hosts under which it answers.
        port: of all of them.
        token: random; in the address that is printed.
        scheme: http, or https with a certificate.
    """

    names: tuple[str, ...]
    port: int
    token: str
    scheme: str = "http"

    @property
    def hosts(self) -> frozenset[str]:
        """Accepted values of the Host header."""
        standard = self.port == (443 if self.scheme == "https" else 80)
        plain = self.names if standard else ()
        return frozenset(name.lower() for name in (*plain, *(f"{name}:{self.port}" for name in self.names)))

    @property
    def address(self) -> str:
        """Opens the page. The token is in the fragment, which browsers do not send to any server."""
        return f"{self.scheme}://{self.names[0]}:{self.port}/#{quote(self.token)}"


class Guard:
    """ASGI middleware that refuses foreign requests and sets the security headers on every answer."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if scope["type"] == "websocket":
            if refused:
                await send({"type": "websocket.close", "code": 1008, "reason": refused[1]})  # uvicorn answers 403
            else:
                await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = JSONResponse({"error": refused[1]}, refused[0]) if refused else self._app
        await app(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        """HTTP status and reason, or None for a request that may pass."""
        headers, site = Headers(scope=scope), self._site
        socket = scope["type"] == "websocket"
        api = socket or scope["path"].startswith(API)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in site.hosts:
            return 421, "this server does not answer under that host"
        origins = headers.getlist("origin")
        own = {f"{site.scheme}://{host}" for host in site.hosts}
        needs_origin = socket or scope["method"] not in ("GET", "HEAD")
        if len(origins) > 1 or (origins and origins[0].lower() not in own) or (needs_origin and not origins):
            return 403, "this request does not come from the page of this server"
        opens_page = not api and headers.get("sec-fetch-mode") == "navigate"  # a link to it, in a terminal for one
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not opens_page:
            return 403, "this request comes from another site"
        if api and not self._has_token(headers, socket):
            return 401, "the token is missing or wrong; open the address that vconv web printed"
        return None

    def _has_token(self, headers: Headers, socket: bool) -> bool:
        if socket:
            offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
            given = offered[1] if len(offered) == 2 and offered[0] == PROTOCOL else ""
        else:
            given = headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._site.token.encode())
