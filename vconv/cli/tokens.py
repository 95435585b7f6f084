"""Speech as discrete tokens, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vconv.errors import InputError

if TYPE_CHECKING:
    from vconv.batch import Job, Make
    from vconv.inference.output import Progress

from vconv.cli.app import Device, Model, Overwrite, Quiet, Threads, app, command
from vconv.cli.console import check_arrays_file, finish, progress, silent_libraries, summary


@command(app)
def encode(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Recordings, or folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File or folder; default: SRC.tokens, with --text SRC_tokens.txt, beside SRC."
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Write a line of text instead: the tokens alone, to read or to model.")
    ] = False,
    stages: Annotated[
        int | None,
        typer.Option(help="Keep the codes of the first N quantizer stages; default: all."),
    ] = None,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Encode speech as discrete tokens.

    A file holds content codes, the melody and, once, the voice.

    Tokens and melody carry about 1.3 kbit for each second, with --stages 1 about 0.8; the exact rate is printed. The
    file is a NumPy archive. A line of text names runs of equal tokens, as a12.b301*3 a7.b301; the lines of many
    files, put together by cat, are a corpus for a language model.

    \b
    Examples:
      vconv encode speech.wav
      vconv encode recordings/ -o tokens/
      vconv encode recordings/ -o text/ --text --stages 1
    """
    with silent_libraries():
        from vconv import batch
        from vconv.inference import load
        from vconv.tokens.tokens import TEXT_SUFFIX, TOKENS_SUFFIX, Size

        sizes: list[Size] = []
        suffix = TEXT_SUFFIX if text else TOKENS_SUFFIX
        # Beside a recording, its own name with .txt is often its transcript.
        plan = batch.Plan(sources, output, lambda stem: f"{stem}_tokens" if text else stem, suffix, overwrite)

        def start() -> Make:
            converter = load(model, device, threads)

            def make(job: Job, progress: Progress) -> float:
                check_arrays_file(job.output, overwrite, suffix)
                tokens = converter.encode(job.source, stages)
                if text:
                    tokens.save_text(job.output, overwrite)
                else:
                    tokens.save(job.output, overwrite)
                    sizes.append(tokens.size)
                return tokens.seconds

            return make

        with progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report)
    if not quiet and tally.made:
        what = str(tally.last) if tally.made == 1 and not tally.errors else f"{tally.made} files"
        print(f"{what}: {tally.seconds:.1f} s of audio" + (f" in {Size.total(sizes)}" if sizes else ""))
    finish(tally.errors)


@command(app)
def decode(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="TOKENS", help="Files that encode wrote, .tokens or .txt, or folders of .tokens."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File (wav, flac, ogg or mp3) or folder; default: TOKENS_decoded.wav beside TOKENS."
        ),
    ] = None,
    target: Annotated[
        list[Path] | None,
        typer.Option(
            "--target", "-t", help="As for convert; default: the voice that the tokens came with. Repeatable."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", metavar="FILE.tokens", help="For text: take melody and voice from there; default: a flat melody."
        ),
    ] = None,
    pitch: Annotated[float, typer.Option(metavar="SEMITONES", help="Added to the melody.")] = 0.0,
    keep_pitch: Annotated[
        bool, typer.Option("--keep-pitch", help="Leave the melody in the register of the tokens.")
    ] = False,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Decode tokens to speech.

    The result is as long and as loud as the recording was.

    Text holds no voice: it needs --target or --like.

    \b
    Examples:
      vconv decode speech.tokens
      vconv decode tokens/ -o decoded/ --target speaker.wav
      vconv decode speech_tokens.txt --like speech.tokens -o again.wav
    """
    started = time.perf_counter()
    with silent_libraries():
        from vconv import batch
        from vconv.inference import load
        from vconv.opening import STANDARD_STREAM, check_streams
        from vconv.tokens.tokens import TEXT_SUFFIX, TOKENS_SUFFIX, Tokens
        from vconv.voices.mixing import target_voice

        quiet = quiet or output == STANDARD_STREAM
        check_streams(sources, output)
        protected = [*(target or ()), *([like] if like else ())]
        plan = batch.Plan(
            sources,
            output,
            lambda stem: f"{stem}_decoded",
            ".wav",
            overwrite,
            protected=protected,
            reads=frozenset([TOKENS_SUFFIX]),
        )

        def start() -> Make:
            converter = load(model, device, threads)
            voice = target_voice(converter, list(target)) if target else None
            given = Tokens.load(like) if like else None

            def make(job: Job, progress: Progress) -> float:
                is_text = job.source.suffix.lower() == TEXT_SUFFIX
                if given and not is_text:
                    raise InputError(f"{job.source}: has its own melody; --like is for text of tokens")
                tokens = Tokens.load_text(job.source, given) if is_text else Tokens.load(job.source)
                return converter.decode_file(
                    tokens,
                    job.output,
                    voice,
                    pitch=pitch,
                    keep_pitch=keep_pitch,
                    progress=progress,
                    overwrite=overwrite,
                )

            return make

        with progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report)
    if not quiet and tally.made:
        print(summary(tally, started))
    finish(tally.errors)
