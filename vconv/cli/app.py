"""The application and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import vconv

app = typer.Typer(
    name="vconv",
    help="Voice conversion: the words and timing of one recording in the voice of another.",
    epilog="Start with:  vconv convert speech.wav --target speaker.wav",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there in half the time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def command(group: typer.Typer, name: str | None = None) -> Callable[[Callable], Callable]:
    """A decorator like ``group.command(name)``, except that a command's options are built when it is called.

    To build those of all commands takes a third of the time of `vconv --help`.
    """

    def register(function: Callable) -> Callable:
        class Deferred(TyperCommand):
            def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
                return _built(function).make_context(info_name, args, *more, **extra)

        def listed() -> None:
            pass

        listed.__doc__ = function.__doc__
        group.command(name or function.__name__.replace("_", "-"), cls=Deferred)(listed)
        return function

    return register


def _built(function: Callable) -> Any:
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command()(function)
    return typer.main.get_command(alone)


Model = Annotated[
    Path | None, typer.Option("--model", metavar="FOLDER", help="Model folder; default: the included model.")
]


Device = Annotated[
    str, typer.Option(help="cpu (ONNX); cuda (PyTorch on the GPU) and torch (PyTorch on the CPU) need vconv[train].")
]


Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]


Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core, at most 8.")]


Metrics = Annotated[
    str | None,
    typer.Option(help="Some of speaker,words,distillmos,dnsmos,melody,periodicity,reference; default: all installed."),
]


JudgementCache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="FILE", help="Where judgements are kept; default: in your cache folder."),
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vconv {vconv.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
