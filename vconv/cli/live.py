"""vconv live: the microphone, or a file by the same path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vconv.cli.app import Model, Overwrite, Quiet, app, command
from vconv.cli.console import progress, silent_libraries
from vconv.errors import InputError


@command(app)
def live(
    target: Annotated[
        list[Path] | None,
        typer.Option("--target", "-t", help="A saved voice, or a clip; up to nine, on the keys 1 to 9. Repeatable."),
    ] = None,
    me: Annotated[
        Path | None, typer.Option("--me", metavar="FILE.npz", help="Your enrolment, made by `vconv embed --me`.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="Convert a file by the live path; needs --output.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where its result goes.")
    ] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List sound devices and exit.")] = False,
    input_device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Number or part of the name; default: the system's.")
    ] = None,
    output_device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="As well; for calls, a virtual microphone (docs/live.md).")
    ] = None,
    monitor: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="A second output, to listen to yourself.")
    ] = None,
    input_gain: Annotated[float, typer.Option(metavar="DB", help="Of the microphone.")] = 0.0,
    output_gain: Annotated[float, typer.Option(metavar="DB", help="Of the result.")] = 0.0,
    record: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write input.wav and output.wav there when it ends.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="First measure the devices' latency: the output has to reach the input.")
    ] = False,
    pitch: Annotated[float, typer.Option(metavar="SEMITONES", help="Added to the melody.")] = 0.0,
    keep_pitch: Annotated[
        bool, typer.Option("--keep-pitch", help="Leave the melody in the source's register.")
    ] = False,
    block: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Length converted at once, a multiple of 0.032; longer needs less computing."
        ),
    ] = 0.096,
    lookahead: Annotated[
        float, typer.Option(metavar="SECONDS", help="Input after a block that the networks see; shorter costs words.")
    ] = 0.192,
    past: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Input before a block, for a model without a live ASR encoder."),
    ] = 3.0,
    gate: Annotated[
        float, typer.Option(metavar="DB", help="Input below this level is not converted: dBFS, with speech at -27.")
    ] = -65.0,
    model: Model = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: two at most.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Convert the microphone as you speak.

    Sound devices need the extra: pip install 'vconv[live]'

    The latency is shown part by part; block and lookahead are most of it. Keys while it runs: 1 to 9 choose the
    voice, b bypasses, m mutes, + and - move the pitch, q quits.

    \b
    Examples:
      vconv embed --me me.npz my_speech.wav
      vconv live --target voice.npz --me me.npz
      vconv live --target voice.npz --output-device "VB-Cable" --monitor Headphones
      vconv live --target voice.npz --block 0.064 --lookahead 0.064   # 130 ms in place of 290
      vconv live --target voice.npz --input speech.wav --output as_if_live.wav
    """
    with silent_libraries():
        from rich.console import Console

        from vconv.live import run

        console = Console()
        if list_devices:
            run.list_devices(console)
            return
        if not target:
            raise InputError("vconv live needs --target, a saved voice or a clip of the voice to sound like")
        if (source is None) != (output is None):
            raise InputError("--input and --output name files and need each other; a device is --input-device")
        timing = {"block": block, "lookahead": lookahead, "past": past}
        settings = {**timing, "gate": gate, "pitch": pitch, "keep_pitch": keep_pitch}
        if source and output:
            job = run.FileJob(source, output, me, model, threads, overwrite, settings)
            with progress(None, quiet) as report:
                report.start(source)
                line = run.convert_file(job, list(target), report.advance)
            if not quiet:
                print(line)
            return
        gains = (input_gain, output_gain)
        choice = run.Choice(input_device, output_device, monitor, *gains, record, measure, settings, overwrite)
        run.converse(run.start(model, threads), list(target), me, choice, console)
