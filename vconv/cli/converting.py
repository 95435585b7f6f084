"""Convert recordings, save voices and what the model extracts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vconv.batch import Job, Make
    from vconv.inference import Converter
    from vconv.inference.output import Progress

from vconv.cli.app import Device, Model, Overwrite, Quiet, Threads, app, command
from vconv.cli.console import (
    check_arrays_file,
    complain,
    finish,
    needs_extra,
    progress,
    save_arrays_file,
    silent_libraries,
    summary,
)
from vconv.errors import InputError


@command(app)
def convert(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SRC", help="Recordings, or folders of them; - is standard input.")
    ],
    target: Annotated[
        list[Path],
        typer.Option(
            "--target",
            "-t",
            help="Clip of the voice to sound like, a folder of clips, or a voice saved by embed. Repeatable; "
            "with weights, as a.wav:0.7, a mixture of different voices.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File (wav, flac, ogg or mp3), folder, or - for wav on standard output; default: SRC_as_TARGET.wav "
            "beside SRC.",
        ),
    ] = None,
    pitch: Annotated[float, typer.Option(metavar="SEMITONES", help="Added to the melody.")] = 0.0,
    keep_pitch: Annotated[
        bool, typer.Option("--keep-pitch", help="Leave the melody in the source's register.")
    ] = False,
    model: Model = None,
    device: Device = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: all cores, or one a process with --jobs.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Files converted at the same time, each in its process; with -, one.")
    ] = 1,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that exist, to continue an interrupted run.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Convert SRC to the voice of TARGET.

    The result is as long as SRC, to the sample, and as loud. Several targets, or a folder of them, are
    clips of one voice and are averaged. A line on stderr names sources that are not speech.

    \b
    Examples:
      vconv convert speech.wav --target speaker.wav
      vconv convert speech.mp3 -t clip1.wav -t clip2.wav -o result.flac
      vconv convert recordings/ -t speaker/ -o converted/ --pitch 2
      vconv convert speech.wav -t anna.wav:0.7 -t bert.wav:0.3 -o between.wav
      vconv convert corpus/ -t speaker.wav -o converted/ --jobs 8 --skip-existing
      sox in.ogg -t wav - | vconv convert - -t voice.npz -o - | aplay
    """
    started = time.perf_counter()
    with silent_libraries():
        from vconv import batch
        from vconv.opening import STANDARD_STREAM, check_streams
        from vconv.voices.mixing import parse_weight

        quiet = quiet or output == STANDARD_STREAM
        check_streams(sources, output)
        voices = [parse_weight(part)[0] for part in target]
        label = voices[0].resolve().name if voices[0].is_dir() else voices[0].stem
        plan = batch.Plan(
            sources, output, lambda stem: f"{stem}_as_{label}", ".wav", overwrite, skip_existing, protected=voices
        )

        if STANDARD_STREAM in (*sources, output):  # which other processes do not share
            jobs = 1

        def start() -> Make:
            own = threads or (1 if jobs > 1 else None)
            return batch.Conversion(model, device, own, list(target), pitch, keep_pitch, not quiet, overwrite)

        with progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report, jobs, clean=skip_existing)
    if not quiet and (tally.made or tally.finished):
        print(summary(tally, started))
    for remark in tally.remarks:
        complain(remark)
    finish(tally.errors)


@command(app)
def embed(
    clips: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CLIP", help="Recordings of one speaker, or folders of them; or voices with weights."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .npz file; default: CLIP_voice.npz beside the first.")
    ] = None,
    me: Annotated[
        Path | None,
        typer.Option("--me", metavar="FILE.npz", help="Save statistics of your own speech instead, for vconv live."),
    ] = None,
    each: Annotated[
        bool,
        typer.Option("--each", help="Write a table instead: each clip of manifests (.tsv), folders and recordings."),
    ] = False,
    by: Annotated[
        Literal["clip", "speaker"] | None,
        typer.Option("--by", help="With --each: a row for each clip, the default, or each speaker."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="With --each: processes, each of one thread; with -, one; default: 1.")
    ] = None,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Save a voice, to convert to it without its clips.

    The .npz file holds `embedding` (unit length), `log_f0` and `log_f0_spread` (the median F0 in octaves above
    200 Hz, and its standard deviation), `reference_content` and `reference_mel` (up to a minute of speech for the
    decoder's attention), and `correction` (of the average spectrum). vconv finetune also fills `adapter`, and
    `model` with a digest of the model that it belongs to.

    \b
    Examples:
      vconv embed speaker/ -o speaker.npz
      vconv convert speech.wav --target speaker.npz
      vconv embed anna.wav:0.7 bert.wav:0.3 -o between.npz
      vconv embed --me me.npz my_speech.wav
      vconv embed --each corpus.tsv -o embeddings.npz

    With --each, a table instead (.npz or .parquet): path, speaker, seconds of speech and vector of each clip. An
    interrupted run continues when it is started again.

    With --me, ten seconds of your own speech give vconv live your register, your loudness and the statistics of your
    speech. Without CLIP they are recorded from the default microphone, which needs vconv[live].
    """
    if me and each:
        raise InputError("--me writes statistics and --each a table; choose one")
    if (by or jobs) and not each:
        raise InputError("--by and --jobs are for --each; leave them out")
    if threads and each:
        raise InputError("each process of --each has one thread; leave out --threads, and raise --jobs")
    if me:
        _enrol(me, clips, output, overwrite, lambda: _load(model, device, threads))
        if not quiet:
            print(f"wrote {me}")
        return
    if not clips:
        raise InputError("vconv embed needs CLIP, a recording of the speaker; only with --me it records one")
    if each:
        _embed_each(clips, output, by or "clip", model, device, jobs or 1, overwrite, quiet)
        return
    with silent_libraries():
        from vconv import api
        from vconv.voices.mixing import parse_weight

        place = output or _beside(parse_weight(clips[0])[0], "voice")
        check_arrays_file(place, overwrite)
        save_arrays_file(api.embed(clips, model=model, device=device, threads=threads), place, overwrite)
    if not quiet:
        print(f"wrote {place}")


def _embed_each(
    clips: list[Path],
    output: Path | None,
    by: Literal["clip", "speaker"],
    model: Path | None,
    device: str,
    jobs: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    if output is None:
        raise InputError("vconv embed --each needs -o, a name such as embeddings.npz or embeddings.parquet")
    check_arrays_file(output, overwrite, ".parquet" if output.suffix.lower() == ".parquet" else ".npz")
    with silent_libraries():
        from vconv import api

        with progress(None, quiet) as shown:
            done = api.embed_corpus(clips, output, by=by, model=model, device=device, jobs=jobs, report=shown.count)
    if not quiet:
        print(f"{output}: {done.rows} rows of {done.seconds:.1f} s of speech")
    finish(done.errors)


def _beside(first: Path, what: str) -> Path:
    """Where a voice made of a clip or a folder goes by default."""
    first = first.resolve()
    return first.parent / f"{first.name if first.is_dir() else first.stem}_{what}.npz"


def _load(model: Path | None, device: str, threads: int | None) -> Converter:
    from vconv.inference import load

    return load(model, device, threads)


def _enrol(
    place: Path, clips: list[Path] | None, output: Path | None, overwrite: bool, start: Callable[[], Converter]
) -> None:
    """Write an enrolment of recordings, or of ten seconds from the microphone."""
    if output:
        raise InputError("--me FILE.npz names the file already; leave out -o")
    check_arrays_file(place, overwrite, option="--me")
    with silent_libraries():
        if clips:
            save_arrays_file(start().enrol(list(clips)), place, overwrite)
            return
        from rich.console import Console

        from vconv.live.run import record_enrolment

        save_arrays_file(record_enrolment(start(), None, Console()), place, overwrite)


@command(app)
def finetune(
    target: Annotated[
        list[Path], typer.Option("--target", "-t", help="Folder of recordings of one speaker, or a clip. Repeatable.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .npz file; default: TARGET_tuned.npz beside the first target."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="At most; fewer where held-out speech no longer improves.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    model: Model = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a voice on a minute of speech; needs vconv[train].

    Takes about five minutes on one CPU core. The .npz file is used as one by `embed` is, and fits this model only.

    \b
    Examples:
      vconv finetune --target speaker/ -o speaker.npz
      vconv convert speech.wav --target speaker.npz
    """
    with silent_libraries(), needs_extra():
        from vconv import api

        place = output or _beside(target[0], "tuned")
        check_arrays_file(place, overwrite)
        with progress(None, quiet) as report:
            voice, tuned = api.finetune(
                target, steps=steps, seed=seed, model=model, threads=threads, report=report.count
            )
        save_arrays_file(voice, place, overwrite)
    if not quiet:
        change = f"{tuned.before:.4f} before, {tuned.after:.4f} after {tuned.steps} steps"
        print(f"wrote {place}; error on held-out speech: {change}")


@command(app)
def extract(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Recordings, or folders of them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".npz file or folder; default: SRC_features.npz beside SRC.")
    ] = None,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Save content codes and F0 of recordings.

    Each .npz file holds `codes` [G, T / 2], 31.25 a second, and `f0` [T] in Hz, 62.5 a second, 0 where unvoiced.
    A model whose bottleneck has no codes gives `f0` alone.

    \b
    Example:
      vconv extract recordings/ -o features/
    """
    with silent_libraries():
        from vconv import batch
        from vconv.features import FRAME_RATE
        from vconv.inference import load
        from vconv.voice import save_arrays

        plan = batch.Plan(sources, output, lambda stem: f"{stem}_features", ".npz", overwrite)

        def start() -> Make:
            converter = load(model, device, threads)

            def make(job: Job, progress: Progress) -> float:
                check_arrays_file(job.output, overwrite)
                extraction = converter.extract(job.source)
                codes = {} if extraction.codes is None else {"codes": extraction.codes}
                save_arrays(job.output, overwrite, **codes, f0=extraction.f0)
                return len(extraction.f0) / FRAME_RATE

            return make

        with progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report)
    if not quiet and tally.made:
        print(f"{tally.made} of {tally.made + len(tally.errors)} files extracted")
    finish(tally.errors)
