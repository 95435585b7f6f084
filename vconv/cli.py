"""The command line: options and messages. What they do lives elsewhere, and is imported when it is needed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

import vconv
from vconv.errors import InputError, VconvError

if TYPE_CHECKING:
    from rich.progress import Progress

    from vconv.inference.batch import Job, Plan

app = typer.Typer(
    name="vconv",
    help="Voice conversion: what one recording says, as it says it, in the voice of another.",
    epilog="Start with:  vconv convert speech.wav --target speaker.wav",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is there in half the time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

# Shared by several commands.
Model = Annotated[
    Path | None, typer.Option("--model", metavar="FOLDER", help="Model folder; default: the weights that came along.")
]
Device = Annotated[
    str, typer.Option(help="cpu (ONNX); cuda (PyTorch on the GPU) and torch (PyTorch on the CPU) need vconv[train].")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]
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


@app.command()
def convert(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Recordings, or folders of them.")],
    target: Annotated[
        list[Path],
        typer.Option(
            "--target",
            "-t",
            help="Clip of the voice to sound like, a folder of clips, or a voice saved by embed. Repeatable.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File (wav, flac, ogg or mp3) or folder; default: SRC_as_TARGET.wav beside SRC."
        ),
    ] = None,
    pitch: Annotated[float, typer.Option(metavar="SEMITONES", help="Added to the melody.")] = 0.0,
    keep_pitch: Annotated[
        bool, typer.Option("--keep-pitch", help="Leave the melody in the source's register.")
    ] = False,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Say what SRC says in the voice of TARGET.

    The result is as long as SRC, to the sample, and as loud. Several targets, or a folder of them, are
    clips of one voice and are averaged.

    \b
    Examples:
      vconv convert speech.wav --target speaker.wav
      vconv convert speech.mp3 -t clip1.wav -t clip2.wav -o result.flac
      vconv convert recordings/ -t speaker/ -o converted/ --pitch 2
    """
    started = time.perf_counter()
    with _silent_libraries():
        from vconv.inference import batch, load

        label = target[0].resolve().name if target[0].is_dir() else target[0].stem
        plan = batch.plan(
            sources, output, lambda stem: f"{stem}_as_{label}", ".wav", overwrite=overwrite, protected=target
        )
        seconds, failed = 0.0, []
        if plan.jobs:
            converter = load(model, device, threads)
            voice = converter.voice(list(target))
            with _progress(len(plan.jobs), quiet) as report:

                def make(job: Job) -> None:
                    nonlocal seconds
                    report.start(job.source)
                    seconds += converter.convert_file(
                        job.source, voice, job.output, pitch=pitch, keep_pitch=keep_pitch, progress=report.advance
                    )

                failed = batch.run(plan.jobs, make)
    if not quiet and seconds:
        print(_summary(plan, len(failed), seconds, started))
    _finish([*plan.errors, *failed])


@app.command()
def embed(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Recordings of one speaker, or folders of them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .npz file; default: CLIP_voice.npz beside the first.")
    ] = None,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Save a speaker's voice, to convert to it without the clips.

    The .npz file holds `embedding` (unit length) and `log_f0`, the median F0 in octaves above 200 Hz.

    \b
    Examples:
      vconv embed speaker/ -o speaker.npz
      vconv convert speech.wav --target speaker.npz
    """
    with _silent_libraries():
        from vconv.inference import batch, load

        first = clips[0].resolve()
        place = output or first.parent / f"{first.name if first.is_dir() else first.stem}_voice.npz"
        _check_arrays_file(place, overwrite)
        voice = load(model, device, threads).voice(list(clips))
        with batch.folder_for(place):
            voice.save(place)
    if not quiet:
        print(f"wrote {place}")


@app.command()
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
    """Save what the model takes from recordings: content codes and melody.

    Each .npz file holds `codes` [G, T / 2], 31.25 a second, and `f0` [T] in Hz, 62.5 a second, 0 where unvoiced.

    \b
    Example:
      vconv extract recordings/ -o features/
    """
    with _silent_libraries():
        from vconv.inference import batch, load
        from vconv.inference.voice import save_arrays

        plan = batch.plan(sources, output, lambda stem: f"{stem}_features", ".npz", overwrite=overwrite)
        failed = []
        if plan.jobs:
            converter = load(model, device, threads)
            with _progress(len(plan.jobs), quiet) as report:

                def make(job: Job) -> None:
                    report.start(job.source)
                    _check_arrays_file(job.output, overwrite)
                    extraction = converter.extract(job.source)
                    save_arrays(job.output, codes=extraction.codes, f0=extraction.f0)

                failed = batch.run(plan.jobs, make)
    if not quiet and plan.jobs:
        print(f"{len(plan.jobs) - len(failed)} of {len(plan.jobs)} files extracted")
    _finish([*plan.errors, *failed])


@app.command()
def info(model: Model = None) -> None:
    """Show the model, its files and what this installation can run.

    \b
    Example:
      vconv info --model my-model/
    """
    with _silent_libraries():
        from vconv.inference.loading import describe

        lines = describe(model)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


@app.command()
def prepare(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Folders of speaker folders, or tables.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.")],
    layout: Annotated[str, typer.Option(help="folders: one folder a speaker; tsv: tables with a header.")] = "folders",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="For tsv: what a column is called in the table. Repeatable."),
    ] = None,
    language: Annotated[str, typer.Option(help="Language of clips whose source does not tell it, as en-us.")] = "",
    phonemize: Annotated[
        bool, typer.Option("--phonemize", help="Make phones from transcripts, with espeak-ng.")
    ] = False,
    valid_percent: Annotated[float, typer.Option(help="Share of speakers and parallel groups for validation.")] = 2.0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Files decoded at the same time; default: one a core.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Look at every file of a corpus and write a manifest to train on.

    \b
    Examples:
      vconv prepare corpus/ -o corpus.tsv
      vconv prepare clips.tsv --layout tsv --column path=file --column transcript=text -o corpus.tsv
    """
    with _silent_libraries():
        from vconv.manifest import prepare

        columns = dict(_pair(text) for text in column or ())
        with _progress(None, quiet) as report:
            result = prepare(
                sources,
                output,
                layout=layout,
                columns=columns,
                language=language,
                phonemize=phonemize,
                valid_percent=valid_percent,
                jobs=jobs,
                report=report.count,
            )
    if not quiet:
        for skipped in result.skipped:
            print(f"skipped {skipped.path}: {skipped.reason}")
        print(result.summary())


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train the conversion model or the vocoder.

    \b
    Examples:
      vconv train recipes/conversion.yaml
      vconv train recipes/vocoder.yaml --set optimizer.steps=50000 --resume
    """
    with _needs_extra():
        from vconv.training import run

        run(config, set_ or [], resume)


@app.command()
def export(
    conversion: Annotated[Path, typer.Argument(metavar="CONVERSION", help="Checkpoint of the conversion model.")],
    vocoder: Annotated[Path, typer.Argument(metavar="VOCODER", help="Checkpoint of the vocoder.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The model folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Make a model folder from two checkpoints: half-precision weights and the ONNX graphs.

    \b
    Example:
      vconv export runs/conversion/checkpoint.safetensors runs/vocoder/checkpoint.safetensors -o my-model/
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; name a folder with -o")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InputError(f"{output}: is not empty; pass --overwrite to replace the model in it")
    with _needs_extra():
        from vconv.export import export

        export(conversion, vocoder, output)
    print(f"wrote {output}")


@app.command()
def evaluate(
    pairs: Annotated[Path | None, typer.Argument(metavar="PAIRS.csv", help="Table of the pairs; see above.")] = None,
    source_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="In place of a table: recordings to convert ...")
    ] = None,
    target_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="... each to the voice of one of these clips, in turn.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="What an earlier run left there is replaced.")
    ] = Path("evaluation"),
    metrics: Annotated[
        str | None,
        typer.Option(help="Some of speaker,words,distillmos,dnsmos,melody,reference; default: all installed."),
    ] = None,
    whisper: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Whisper model for CTranslate2; default: English tiny.en.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the recordings, for Whisper.")] = "en",
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where judgements are kept; default: in your cache folder.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Judge everything anew, keep nothing.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core, at most 8.")] = None,
    model: Model = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure conversions with judges that had no part in training; needs vconv[eval].

    PAIRS.csv has the columns source and target, and may have converted (made with the model where it is
    empty), reference (the target speaker's own reading), transcript, and system (several are compared).
    Paths are relative to it. FOLDER/report.html shows all; rows.csv, summary.csv and results.json hold the
    figures. A row that cannot be judged is listed, and the exit code is then 1.

    \b
    Two of the judges install without their dependencies, after vconv[eval]:
      pip install --no-deps resemblyzer==0.1.4 distillmos==0.9.1 xls-r-sqa==0.1.0

    \b
    Examples:
      vconv evaluate pairs.csv -o results/
      vconv evaluate --source-dir speech/ --target-dir speakers/ --model my-model/
    """
    with _silent_libraries():
        from vconv.evaluation import cache as stored
        from vconv.evaluation import conversion, judges, results, run
        from vconv.inference.loading import available_cores

        jobs = jobs or min(available_cores(), 8)
        options = run.Options(
            engine=conversion.Engine(model, device, jobs),
            settings=judges.Settings(whisper, language),
            metrics=None if metrics is None else [name.strip() for name in metrics.split(",")],
            cache=None if no_cache else cache or stored.default_place(),
            jobs=jobs,
        )
        todo = run.read(pairs, source_dir, target_dir)
        with _progress(None, quiet) as report:
            evaluation = run.evaluate(todo, output, options, report.count)
            if evaluation.rows:
                run.write(evaluation, output, report.count)
    if evaluation.rows and not quiet:
        results.show(evaluation)
        print(f"wrote {output / 'report.html'}")
    _finish([VconvError(f"{bad}") for bad in evaluation.bad])


@app.command()
def probe(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Labelled corpus; see vconv prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="For probe.json and maps.")] = Path(
        "probe"
    ),
    split: Annotated[str, typer.Option(help="Which clips: train, valid or all.")] = "valid",
    speakers: Annotated[int, typer.Option(min=2, help="Speakers, at most.")] = 50,
    clips: Annotated[int, typer.Option(min=4, help="Clips of each speaker, at most.")] = 20,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Measure what a model's content code and speaker embedding hold; needs vconv[eval].

    Fresh classifiers read the speaker off the code (lower is better) and off the embedding (higher is
    better), and the phone off the code. Phones are placed in time by a flat-start alignment, which is rough:
    compare models by it, not papers.

    \b
    Example:
      vconv probe my-model/ corpus.tsv -o probe/
    """
    with _silent_libraries():
        from rich.console import Console

        from vconv.evaluation import probe as probing
        from vconv.inference.loading import available_cores

        with _progress(None, quiet) as report:
            choice = probing.Choice(split, speakers, clips)
            result = probing.probe(model, manifest, choice, threads or available_cores(), report.count)
            probing.write(result, output)
    if not quiet:
        Console(width=None if sys.stdout.isatty() else 200).print(probing.table(result))
        for note in result.notes:
            print(note)
        print(f"wrote {output / 'probe.json'} and maps beside it")


# ---------------------------------------------------------------- what the commands share


def _summary(plan: Plan, failed: int, seconds: float, started: float) -> str:
    """One line on what a batch has made, out of how much audio and how fast."""
    made = len(plan.jobs) - failed
    what = str(plan.jobs[0].output) if len(plan.jobs) == 1 else f"{made} files"
    elapsed = time.perf_counter() - started
    return f"{what}: {seconds:.1f} s of audio in {elapsed:.1f} s, real-time factor {elapsed / seconds:.3f}"


def _finish(errors: list[VconvError]) -> None:
    """Report the sources that failed, each in a line, and exit if there are any."""
    for error in errors:
        _complain(error)
    if errors:
        raise typer.Exit(max(InputError.exit_code if isinstance(e, InputError) else e.exit_code for e in errors))


def _complain(message: object) -> None:
    print(f"vconv: {' '.join(str(message).split())}", file=sys.stderr)


def _check_arrays_file(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() != ".npz":
        raise InputError(f"{path}: is written as .npz; name it so with -o")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name an output file in it")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; pass --overwrite to replace it, or choose another place with -o")


def _pair(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not ours or not theirs:
        raise InputError(f"--column {text}: expected OURS=THEIRS, for example --column path=file")
    return ours, theirs


class _Report:
    """Progress over files on stderr, or nothing where nobody watches."""

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total, done="") if progress else None
        self._finished = -1
        self._seconds = 0.0

    def start(self, name: Path) -> None:
        """The next file begins."""
        self._finished += 1
        self._seconds = 0.0
        self._update(description=name.name, completed=self._finished, done="")

    def advance(self, seconds: float) -> None:
        """So many more seconds of the file's audio are done."""
        self._seconds += seconds
        self._update(done=f"{self._seconds:.0f} s")

    def count(self, finished: int, total: int) -> None:
        """So many files are done."""
        self._update(completed=finished, total=total)

    def _update(self, **fields: object) -> None:
        if self._progress:
            self._progress.update(self._task, **fields)


@contextlib.contextmanager
def _progress(total: int | None, quiet: bool) -> Iterator[_Report]:
    if quiet or not sys.stderr.isatty():
        yield _Report(None, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description} {task.fields[done]}", markup=False))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        yield _Report(progress, total)


@contextlib.contextmanager
def _needs_extra() -> Iterator[None]:
    """Say what to install where an import finds that the `train` extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vconv":
            raise
        raise InputError(f"this command needs {error.name}; install it with: pip install 'vconv[train]'") from error


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Keep what native libraries print off the terminal; Python's own stderr stays what it is.

    libmpg123 comments on every odd frame of an mp3 and onnxruntime on the machine's devices, straight
    to file descriptor 2, and neither can be asked not to.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # started without a stderr
        yield
        return
    python_stderr, native = sys.stderr, os.open(os.devnull, os.O_WRONLY)
    replaced = _writes_to_terminal(python_stderr)
    if replaced:
        python_stderr.flush()
        sys.stderr = os.fdopen(
            os.dup(terminal), "w", encoding=python_stderr.encoding, errors=python_stderr.errors, buffering=1
        )
    os.dup2(native, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        if replaced:
            sys.stderr.close()
            sys.stderr = python_stderr
        os.close(native)
        os.close(terminal)


def _writes_to_terminal(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError, AttributeError):  # replaced by something that is no file, as tests do
        return False


def main() -> NoReturn:
    """The entry point of the program."""
    # So that an interrupted run removes its temporary files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # numpy multiplies only small matrices here, and starting a thread for every core takes longer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code; a failure is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        # Without arguments typer would raise its help as an error.
        return app(arguments or ["--help"], prog_name="vconv", standalone_mode=False) or 0
    except VconvError as error:
        _complain(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of stdout has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own, on options and arguments
            _complain(f"{error.format_message().rstrip('.')}; see vconv --help")
            return InputError.exit_code
        if os.environ.get("VCONV_DEBUG"):
            raise
        _complain(f"{type(error).__name__}: {error}. This is a fault in vconv; VCONV_DEBUG=1 shows where")
        return VconvError.exit_code


if __name__ == "__main__":
    main()
