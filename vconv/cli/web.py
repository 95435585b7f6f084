"""vconv web: a page for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vconv.cli.app import Device, Threads, app, command
from vconv.cli.console import needs_extra, silent_libraries


@command(app)
def web(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port on this machine; default: 8317, or a free one.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
    voices: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where voices are kept; default: in your data folder.")
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Model folder. Repeatable; default: the included model."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    host: Annotated[
        str, typer.Option(help="Name or address to serve under; one that others reach needs --certificate.")
    ] = "127.0.0.1",
    certificate: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="For https.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="Private key of the certificate.")] = None,
) -> None:
    """Convert in the browser, on this machine; needs vconv[web].

    The page converts, records, keeps voices and compares results. Nothing leaves the machine.

    \b
    Example:
      vconv web
    """
    with silent_libraries(), needs_extra("web"):
        from vconv.web.app import Settings, serve

        settings = Settings(voices, model or [], device, threads, port, host, certificate, key)
        serve(settings, open_browser=not no_browser)
