"""The model: what it is, and whether it fits a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vconv.cli.app import Device, Model, Threads, app, command
from vconv.cli.console import finish, silent_libraries
from vconv.errors import VconvError


@command(app)
def check(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Recordings, or folders of them.")],
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the scores alone.")] = False,
) -> None:
    """Check whether recordings are speech: a score and a verdict.

    The score, from 0 to 1, is that of the loudest 4 seconds of the first minute. Music, noise and silence score near 0,
    and so does speech that differs much from the training data.

    \b
    Examples:
      vconv check speech.wav
      vconv check recordings/ --quiet
    """
    with silent_libraries():
        from vconv import api

        errors = []
        for clip, verdict in api.check(clips, model=model, device=device, threads=threads):
            if isinstance(verdict, VconvError):
                errors.append(verdict)
            else:
                print(f"{verdict.score:.3f}  {clip}" + ("" if quiet else f": {verdict.text}"), flush=True)
    finish(errors)


@command(app)
def info(model: Model = None) -> None:
    """Show the model, its files and this installation.

    \b
    Example:
      vconv info --model my-model/
    """
    with silent_libraries():
        from vconv import api

        lines = api.info(model)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
