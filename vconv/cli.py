"""The command line: options and messages. What they do lives elsewhere, and is imported when it is needed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

import vconv
from vconv.errors import InputError, VconvError, show_warnings_as_lines, tell, unforeseen
from vconv.files import exists_already
from vconv.processes import end_on_signals

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from vconv.evaluation.run import Evaluation, Options
    from vconv.inference import Voice
    from vconv.inference.batch import Job, Make, Tally
    from vconv.inference.converter import Progress

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
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core, at most 8.")]
Metrics = Annotated[
    str | None, typer.Option(help="Some of speaker,words,distillmos,dnsmos,melody,reference; default: all installed.")
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


@app.command()
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
    jobs: Annotated[int, typer.Option(min=1, help="Files converted at the same time, each in its process.")] = 1,
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that exist: go on with an interrupted run.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Say what SRC says in the voice of TARGET.

    The result is as long as SRC, to the sample, and as loud. Several targets, or a folder of them, are
    clips of one voice and are averaged. A line on stderr tells of what does not sound like speech.

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
    with _silent_libraries():
        from vconv.inference import batch
        from vconv.inference.mixing import parse_weight
        from vconv.opening import STANDARD_STREAM, check_streams

        quiet = quiet or output == STANDARD_STREAM
        check_streams(sources, output)
        voices = [parse_weight(part)[0] for part in target]
        label = voices[0].resolve().name if voices[0].is_dir() else voices[0].stem
        plan = batch.Plan(
            sources, output, lambda stem: f"{stem}_as_{label}", ".wav", overwrite, skip_existing, protected=voices
        )

        def start() -> Make:
            own = threads or (1 if jobs > 1 else None)
            return batch.Conversion(model, device, own, list(target), pitch, keep_pitch, not quiet, overwrite)

        with _progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report, jobs, clean=skip_existing)
    if not quiet and (tally.made or tally.finished):
        print(_summary(tally, started))
    for remark in tally.remarks:
        _complain(remark)
    _finish(tally.errors)


@app.command()
def embed(
    clips: Annotated[
        list[Path],
        typer.Argument(metavar="CLIP", help="Recordings of one speaker, or folders of them; or voices with weights."),
    ],
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

    The .npz file holds `embedding` (unit length), `log_f0` and `log_f0_spread`, the median F0 in octaves above
    200 Hz and its standard deviation, and up to a minute of the speech for the decoder to listen to.

    \b
    Examples:
      vconv embed speaker/ -o speaker.npz
      vconv convert speech.wav --target speaker.npz
      vconv embed anna.wav:0.7 bert.wav:0.3 -o between.npz
    """
    with _silent_libraries():
        from vconv.inference import load
        from vconv.inference.mixing import parse_weight, target_voice

        first = parse_weight(clips[0])[0].resolve()
        place = output or first.parent / f"{first.name if first.is_dir() else first.stem}_voice.npz"
        _check_arrays_file(place, overwrite)
        _save_voice(target_voice(load(model, device, threads), list(clips)), place)
    if not quiet:
        print(f"wrote {place}")


@app.command()
def finetune(
    target: Annotated[
        list[Path], typer.Option("--target", "-t", help="Folder of recordings of one speaker, or a clip. Repeatable.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .npz file; default: TARGET_tuned.npz beside the first target."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="At most; it stops where held-out speech gains no more.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    model: Model = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Tune a voice on a minute or more of one speaker; needs vconv[train].

    Takes half a minute to two on a CPU. The .npz file is used as one by `embed` is, and fits this model only.

    \b
    Examples:
      vconv finetune --target speaker/ -o speaker.npz
      vconv convert speech.wav --target speaker.npz
    """
    with _silent_libraries(), _needs_extra():
        from vconv.inference import load
        from vconv.inference.loading import available_cores
        from vconv.inference.population import people_of
        from vconv.inference.voice import clips_in, speech_of
        from vconv.training import finetune as tuning

        first = target[0].resolve()
        place = output or first.parent / f"{first.name if first.is_dir() else first.stem}_tuned.npz"
        _check_arrays_file(place, overwrite)
        folder, threads = model or _default_model(), threads or available_cores()
        network = tuning.load_model(folder, threads)
        clips = [clip for part in target for clip in clips_in(part)]
        converter = load(folder, threads=threads)
        voice = converter.voice(clips)
        speech = [converter.speech_features(clip) for clip in clips]
        ear = tuning.load_ear(folder, network.config, [speech_of(clip) for clip in clips])
        with _progress(None, quiet) as report:
            config = tuning.FinetuneConfig(steps=steps, seed=seed)
            tuned = tuning.finetune(network, speech, voice.embedding, config, report.count, people_of(folder), ear)
        _save_voice(dataclasses.replace(voice, style=tuned.style, model=converter.model), place)
    if not quiet:
        change = f"{tuned.before:.4f} before, {tuned.after:.4f} after {tuned.steps} steps"
        print(f"wrote {place}; error on held-out speech: {change}")


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
    A model whose bottleneck has no codes gives `f0` alone.

    \b
    Example:
      vconv extract recordings/ -o features/
    """
    with _silent_libraries():
        from vconv.features import FRAME_RATE
        from vconv.inference import batch, load
        from vconv.inference.voice import save_arrays

        plan = batch.Plan(sources, output, lambda stem: f"{stem}_features", ".npz", overwrite)

        def start() -> Make:
            converter = load(model, device, threads)

            def make(job: Job, progress: Progress) -> float:
                _check_arrays_file(job.output, overwrite)
                extraction = converter.extract(job.source)
                codes = {"codes": extraction.codes} if len(extraction.codes) else {}
                save_arrays(job.output, **codes, f0=extraction.f0)
                return len(extraction.f0) / FRAME_RATE

            return make

        with _progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report)
    if not quiet and tally.made:
        print(f"{tally.made} of {tally.made + len(tally.errors)} files extracted")
    _finish(tally.errors)


@app.command()
def encode(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC", help="Recordings, or folders of them.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File or folder; default: SRC.units, with --text SRC_units.txt, beside SRC."
        ),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Write a line of text instead: the units alone, to read or to model.")
    ] = False,
    stages: Annotated[
        int | None,
        typer.Option(help="Of the model's quantizer stages, keep the codes of the first so many; default: all."),
    ] = None,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Save recordings as discrete units: codes of what is said, the melody, and once a file the voice.

    A .units file takes about 1.3 kbit for each second, with --stages 1 about 0.8; what it takes is printed. A line
    of text names runs of equal units, as a12.b301*3 a7.b301; the lines of many files, put together by cat, are a
    corpus for a language model.

    \b
    Examples:
      vconv encode speech.wav
      vconv encode recordings/ -o units/
      vconv encode recordings/ -o text/ --text --stages 1
    """
    with _silent_libraries():
        from vconv.inference import batch, load
        from vconv.inference.units import TEXT_SUFFIX, UNITS_SUFFIX, Size

        sizes: list[Size] = []
        suffix = TEXT_SUFFIX if text else UNITS_SUFFIX
        # Beside a recording, its own name with .txt is often its transcript.
        plan = batch.Plan(sources, output, lambda stem: f"{stem}_units" if text else stem, suffix, overwrite)

        def start() -> Make:
            converter = load(model, device, threads)

            def make(job: Job, progress: Progress) -> float:
                _check_arrays_file(job.output, overwrite, suffix)
                units = converter.encode(job.source, stages)
                if text:
                    units.save_text(job.output)
                else:
                    units.save(job.output)
                    sizes.append(units.size)
                return units.seconds

            return make

        with _progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report)
    if not quiet and tally.made:
        what = str(tally.last) if tally.made == 1 and not tally.errors else f"{tally.made} files"
        print(f"{what}: {tally.seconds:.1f} s of audio" + (f" in {Size.total(sizes)}" if sizes else ""))
    _finish(tally.errors)


@app.command()
def decode(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="UNITS", help="Files that encode wrote, .units or .txt, or folders of .units."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File (wav, flac, ogg or mp3) or folder; default: UNITS_decoded.wav beside UNITS."
        ),
    ] = None,
    target: Annotated[
        list[Path] | None,
        typer.Option("--target", "-t", help="As for convert; default: the voice that the units came with. Repeatable."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", metavar="FILE.units", help="For text: take melody and voice from there; default: a flat melody."
        ),
    ] = None,
    pitch: Annotated[float, typer.Option(metavar="SEMITONES", help="Added to the melody.")] = 0.0,
    keep_pitch: Annotated[
        bool, typer.Option("--keep-pitch", help="Leave the melody in the register of the units.")
    ] = False,
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make speech of units again, as long as the recording was, to the sample, and as loud.

    Text holds no voice: it needs --target or --like.

    \b
    Examples:
      vconv decode speech.units
      vconv decode units/ -o decoded/ --target speaker.wav
      vconv decode speech_units.txt --like speech.units -o again.wav
    """
    started = time.perf_counter()
    with _silent_libraries():
        from vconv.inference import batch, load
        from vconv.inference.mixing import target_voice
        from vconv.inference.units import TEXT_SUFFIX, UNITS_SUFFIX, Units

        protected = [*(target or ()), *([like] if like else ())]
        plan = batch.Plan(
            sources,
            output,
            lambda stem: f"{stem}_decoded",
            ".wav",
            overwrite,
            protected=protected,
            reads=frozenset([UNITS_SUFFIX]),
        )

        def start() -> Make:
            converter = load(model, device, threads)
            voice = target_voice(converter, list(target)) if target else None
            given = Units.load(like) if like else None

            def make(job: Job, progress: Progress) -> float:
                is_text = job.source.suffix.lower() == TEXT_SUFFIX
                if given and not is_text:
                    raise InputError(f"{job.source}: has its own melody; --like is for text of units")
                units = Units.load_text(job.source, given) if is_text else Units.load(job.source)
                return converter.decode_file(
                    units, job.output, voice, pitch=pitch, keep_pitch=keep_pitch, progress=progress, overwrite=overwrite
                )

            return make

        with _progress(plan.count, quiet) as report:
            tally = batch.run(plan, start, report)
    if not quiet and tally.made:
        print(_summary(tally, started))
    _finish(tally.errors)


@app.command()
def check(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP", help="Recordings, or folders of them.")],
    model: Model = None,
    device: Device = "cpu",
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the scores alone.")] = False,
) -> None:
    """Tell whether recordings are speech as the model knows it: a score from 0 to 1, and a verdict.

    It listens to the loudest 4 seconds of the first minute. Music, noise and silence score near 0, and so does
    speech that the model cannot follow.

    \b
    Examples:
      vconv check speech.wav
      vconv check recordings/ --quiet
    """
    with _silent_libraries():
        from vconv.inference import load
        from vconv.inference.check import Checker, files_in
        from vconv.inference.population import population_of

        population = population_of(model or _default_model())
        checker = Checker(load(model, device, threads), population)
        errors = []
        for clip in files_in(clips):
            try:
                verdict = checker.clip(clip)
                print(f"{verdict.score:.3f}  {clip}" + ("" if quiet else f": {verdict.text}"), flush=True)
            except VconvError as error:
                errors.append(error)
    _finish(errors)


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
        typer.Option(metavar="FOLDER", help="Model folder. Repeatable; default: the weights that came along."),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; another than this machine's own needs --certificate.")
    ] = "127.0.0.1",
    certificate: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="For https.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE.pem", help="Private key of the certificate.")] = None,
) -> None:
    """Serve a page for voice conversion to this machine; needs vconv[web].

    The page converts, records, keeps voices and compares results. Nothing leaves the machine.

    \b
    Example:
      vconv web
    """
    with _silent_libraries(), _needs_extra("web"):
        from vconv.web.app import Settings, serve

        settings = Settings(voices, model or [], device, threads, port, host, certificate, key)
        serve(settings, open_browser=not no_browser)


@app.command()
def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="[LAYOUT] SRC", help="Folders, or tables; the name of a layout may stand before them."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.")] = Path("corpus.tsv"),
    layout: Annotated[
        str | None,
        typer.Option(
            help="folders: one folder a speaker (default); tsv: tables with a header; vctk; libritts, also LibriSpeech."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="For tsv: what a column is called in the table. Repeatable."),
    ] = None,
    mic: Annotated[str, typer.Option(help="For vctk 0.92: mic1 or mic2; the other one where it is missing.")] = "mic1",
    language: Annotated[str, typer.Option(help="Language of clips whose source does not tell it, as en-us.")] = "",
    phonemize: Annotated[
        bool, typer.Option("--phonemize", help="Make phones from transcripts, with espeak-ng.")
    ] = False,
    valid_percent: Annotated[float, typer.Option(help="Share of speakers and parallel groups for validation.")] = 2.0,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Speakers not for training: columns speaker and split (valid, test)."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that decode; default: one a core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Look at every file of a corpus and write a manifest to train on.

    What cannot be used is left out and listed with the reason. Silence at the ends of clips is trimmed later,
    when training takes their features; clips of parallel groups keep theirs, which holds them aligned.

    \b
    Examples:
      vconv prepare corpus/ -o corpus.tsv
      vconv prepare vctk VCTK-Corpus-0.92/ -o vctk.tsv --held-out recipes/vctk/held_out.tsv
      vconv prepare clips.tsv --layout tsv --column path=file --column transcript=text -o corpus.tsv
    """
    with _silent_libraries():
        from vconv.manifest import LAYOUTS, Note, Skipped, prepare, read_held_out

        unreadable: list[str] = []

        if layout is None and len(sources) > 1 and str(sources[0]) in LAYOUTS:
            layout, sources = str(sources[0]), sources[1:]

        def tell(remark: Skipped | Note) -> None:
            if isinstance(remark, Skipped) and remark.folder:
                unreadable.append(f"{remark.path}: {remark.reason}")
            elif not quiet:
                is_file = isinstance(remark, Skipped)
                print(f"skipped {remark.path}: {remark.reason}" if is_file else f"note: {remark.text}")

        with _progress(None, quiet) as report:
            result = prepare(
                sources,
                output,
                layout=layout or "folders",
                columns=dict(_pair(text) for text in column or ()),
                microphone=mic,
                language=language,
                phonemize=phonemize,
                valid_percent=valid_percent,
                held_out=read_held_out(held_out) if held_out else None,
                jobs=jobs,
                tell=tell,
                report=report.count,
            )
    if not quiet:
        print(result.summary())
    for line in unreadable:
        _complain(line)
    if unreadable:
        raise typer.Exit(VconvError.exit_code)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train the conversion model, the vocoder, or what hears before them.

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
    vocoder: Annotated[
        Path, typer.Argument(metavar="VOCODER", help="Checkpoint of the vocoder, or a model folder to take it from.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The model folder to write.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the conversion model's config, for its use. Repeatable."),
    ] = None,
    recognizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the model hears with; default: where training had it, if it did."),
    ] = None,
    verifier: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What it hears speakers with; default: where training had it, if it did."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a model folder from two checkpoints: half-precision weights and the ONNX graphs.

    Of a model that learned a table of speakers, the folder `voices` holds each one's voice for `convert --target`.
    With --overwrite, the voices in the output's folder `voices` go with the model they belonged to.

    \b
    Examples:
      vconv export runs/conversion/checkpoint.safetensors runs/vocoder/checkpoint.safetensors -o my-model/
      vconv export runs/conversion/checkpoint.safetensors pretrained/base -o my-model/
      vconv export conversion.safetensors vocoder.safetensors -o my-model/ --set bottleneck.softness=0.1
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; name a folder with -o")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InputError(f"{output}: is not empty; pass --overwrite to replace the model in it")
    with _needs_extra():
        from vconv.export import export

        export(conversion, vocoder, output, set_ or (), recognizer, verifier)
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
    metrics: Metrics = None,
    asr: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Whisper model for faster-whisper; default: tiny.en, English only."),
    ] = None,
    language: Annotated[
        str, typer.Option(metavar="CODE", help="Language of rows without one, such as fr or zh; needs --asr.")
    ] = "en",
    cache: JudgementCache = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Judge everything anew, keep nothing.")] = False,
    jobs: Jobs = None,
    model: Model = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Measure conversions with judges that had no part in training; needs vconv[eval].

    PAIRS.csv has the columns source and target, and may have converted (made with the model where it is
    empty), reference (the target speaker's own reading), transcript, language, and system (several are compared).
    Paths are relative to it. FOLDER/report.html shows all; rows.csv, summary.csv and results.json hold the
    figures. A row that cannot be judged is listed, and the exit code is then 1.

    \b
    Two of the judges install without their dependencies, after vconv[eval]:
      pip install --no-deps resemblyzer==0.1.4 distillmos==0.9.1 xls-r-sqa==0.1.0

    \b
    Examples:
      vconv evaluate pairs.csv -o results/
      vconv evaluate --source-dir speech/ --target-dir speakers/ --model my-model/
      vconv evaluate french.csv --language fr --asr whisper-base/
    """
    with _silent_libraries():
        from vconv.evaluation import conversion, judges, run

        options = _judging(metrics, cache, jobs)
        options = dataclasses.replace(
            options,
            engine=conversion.Engine(model, device, options.jobs),
            settings=judges.Settings(asr),
            cache=None if no_cache else options.cache,
        )
        todo = run.read(pairs, source_dir, target_dir, language)
        with _progress(None, quiet) as report:
            evaluation = run.evaluate_and_write(todo, output, options, report.count)
    _conclude(evaluation, output, quiet)


@app.command()
def probe(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Labelled corpus; see vconv prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="For probe.json and maps.")] = Path(
        "probe"
    ),
    split: Annotated[str, typer.Option(help="Which clips: train, valid, test or all.")] = "valid",
    speakers: Annotated[int, typer.Option(min=2, help="Speakers, at most.")] = 50,
    clips: Annotated[int, typer.Option(min=4, help="Clips of each speaker, at most.")] = 20,
    stages: Annotated[
        int | None,
        typer.Option(help="Ask the codes of the quantizer's first so many stages; default: all."),
    ] = None,
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
            result = probing.probe(model, manifest, choice, threads or available_cores(), report.count, stages)
            probing.write(result, output)
    if not quiet:
        Console(width=None if sys.stdout.isatty() else 200).print(probing.table(result))
        for note in result.notes:
            print(note)
        print(f"wrote {output / 'probe.json'} and maps beside it")


@app.command()
def ladder(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Corpus; see vconv prepare.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="What an earlier run left there is replaced.")
    ] = Path("ladder"),
    split: Annotated[str, typer.Option(help="Which clips: train, valid, test or all.")] = "valid",
    speakers: Annotated[int, typer.Option(min=2, help="Speakers, at most.")] = 20,
    clips: Annotated[int, typer.Option(min=4, help="Clips of each speaker, at most.")] = 4,
    metrics: Metrics = None,
    cache: JudgementCache = None,
    jobs: Jobs = None,
    model: Model = None,
    quiet: Quiet = False,
) -> None:
    """Find where a model loses quality; needs vconv[eval], like vconv evaluate.

    The same recordings are judged as they are, through the vocoder alone (and with the recording's magnitudes,
    phase or spectral envelope in its copy), converted to their own speaker (from the clip itself, then from
    another), and converted to another speaker. What falls from one rung to the next is what that part costs.

    \b
    Example:
      vconv ladder corpus.tsv --model my-model/ -o ladder/
    """
    with _silent_libraries():
        from vconv.evaluation import ladder as rungs
        from vconv.evaluation import probe, run
        from vconv.manifest import read_manifest

        options = _judging(metrics, cache, jobs)
        choice = probe.Choice(split, speakers, clips)
        with _progress(None, quiet) as report:
            todo = rungs.prepare(model, read_manifest(manifest), choice, output / "clips", options.jobs, report.count)
            evaluation = run.evaluate_and_write(todo, output, options, report.count)
    _conclude(evaluation, output, quiet)


@app.command()
def stress(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.csv", help="Table of the pairs, as for vconv evaluate.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="What an earlier run left there is replaced.")
    ] = Path("stress"),
    conditions: Annotated[
        str | None, typer.Option(help='Some of them, as "babble 15 dB,target 3 s"; default: all.')
    ] = None,
    metrics: Metrics = None,
    cache: JudgementCache = None,
    jobs: Jobs = None,
    model: Model = None,
    quiet: Quiet = False,
) -> None:
    """Measure what noise, rooms, telephones and short targets cost; needs vconv[eval], like vconv evaluate.

    Each pair is converted from the source as it is and disturbed, and with less of the target; the results
    are judged against the clean source and the whole target, and compared.

    \b
    Example:
      vconv stress pairs.csv --model my-model/ -o stress/
    """
    with _silent_libraries():
        from vconv.evaluation import run
        from vconv.evaluation import stress as stressing

        chosen = stressing.choose(conditions)
        options = _judging(metrics, cache, jobs)
        with _progress(None, quiet) as report:
            todo = run.read(pairs, None, None)
            made = stressing.prepare(model, todo, chosen, output / "clips", options.jobs, report.count)
            evaluation = run.evaluate_and_write(made, output, options, report.count)
    _conclude(evaluation, output, quiet)


# ---------------------------------------------------------------- vconv speakers

speakers_app = typer.Typer(
    help="Tell voices apart, make new ones, and move them: what the model knows of voices in general.",
    rich_markup_mode=None,
)
app.add_typer(speakers_app, name="speakers")
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Corpus; see vconv prepare.")]
VoiceFile = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz", help="The voice to write.")]


@speakers_app.callback(invoke_without_command=True)
def _speakers(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@speakers_app.command()
def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="Clip, folder of clips of one speaker, or saved voice.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    model: Model = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the score alone.")] = False,
) -> None:
    """Tell whether two recordings are of one speaker.

    The threshold was set on speakers whom the model had never heard. The exit code tells of errors alone.

    \b
    Example:
      vconv speakers verify a.wav b.wav
    """
    with _silent_libraries():
        from vconv.inference import load, speakers
        from vconv.inference.population import population_of

        folder = model or _default_model()
        decision = speakers.verify(load(folder, threads=threads), population_of(folder), first, second)
    verdict = "the same speaker" if decision.same else "different speakers"
    print(
        f"{decision.score:.3f}"
        if quiet
        else f"{verdict}: score {decision.score:.3f}, threshold {decision.threshold:.3f}"
    )


@speakers_app.command()
def identify(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="Whose speech? A clip, a folder of clips or a voice.")],
    enrolled: Annotated[
        Path,
        typer.Option(
            "--enrolled", metavar="FOLDER", help="Of people: each a folder of clips, a clip or a saved voice."
        ),
    ],
    model: Model = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the name alone.")] = False,
) -> None:
    """Tell which of some people a recording is of: scores of all of them, then a name, or nobody.

    \b
    Example:
      vconv speakers identify clip.wav --enrolled people/
    """
    with _silent_libraries():
        from vconv.inference import load, speakers
        from vconv.inference.population import population_of

        folder = model or _default_model()
        converter, population = load(folder, threads=threads), population_of(folder)
        ranked = speakers.identify(converter, population, clip, speakers.enroll(converter, enrolled))
    best, decision = ranked[0]
    if not quiet:
        for place, (name, other) in enumerate(ranked, 1):
            print(f"{place:>3}  {other.score:6.3f}  {name}")
        reached = "reaches" if decision.same else "is below"
        print(f"the best score {reached} the threshold {decision.threshold:.3f}:")
    print(best if decision.same else "nobody")


@speakers_app.command("new")
def new_voice(
    output: VoiceFile,
    seed: Annotated[int, typer.Option(min=0, help="Another number is another voice.")] = 0,
    model: Model = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw a voice that nobody has, register and all; the same for the same seed.

    It is no more alike to any speaker of the training corpus than these are to one another.

    \b
    Examples:
      vconv speakers new --seed 7 -o somebody.npz
      vconv convert speech.wav --target somebody.npz
    """
    _check_arrays_file(output, overwrite)
    with _silent_libraries():
        from vconv.inference import speakers
        from vconv.inference.population import population_of

        population = population_of(model or _default_model())
        invented = speakers.invent(population, seed)
        _save_voice(invented.voice, output)
    if not quiet:
        print(
            f"wrote {output}: {speakers.hertz(invented.voice.log_f0):.0f} Hz; score {invented.nearest:.3f} with the "
            f"most alike of {len(population.speakers)} speakers, whose own nearest have {population.apart:.3f}"
        )


@speakers_app.command()
def directions(model: Model = None) -> None:
    """Show in which directions voices differ most, and what goes along with them.

    They are the principal axes of the speakers' average spectra. Registers and brightness correlate with them;
    `vconv speakers move` goes along any of them, or along --higher and --brighter, each without the other.

    \b
    Example:
      vconv speakers directions
    """
    with _silent_libraries():
        from vconv.inference import speakers
        from vconv.inference.population import ATTRIBUTES, population_of

        found = speakers.directions(population_of(model or _default_model()))
    print("  #  variance  " + "  ".join(f"{name:>13}" for name in ATTRIBUTES))
    for direction in found:
        correlations = "  ".join(f"{value:+13.2f}" for value in direction.correlations)
        print(f"{direction.number:>3}  {direction.share:8.1%}  {correlations}  {direction.name}".rstrip())


@speakers_app.command()
def move(
    voice: Annotated[Path, typer.Argument(metavar="VOICE", help="A saved voice, a clip, or a folder of clips.")],
    output: VoiceFile,
    higher: Annotated[float, typer.Option(metavar="STEP", help="Negative: lower.")] = 0.0,
    brighter: Annotated[float, typer.Option(metavar="STEP", help="Negative: darker.")] = 0.0,
    axis: Annotated[
        list[str] | None, typer.Option(metavar="NUMBER:STEP", help="Along one of `directions`, as 3:1.5. Repeatable.")
    ] = None,
    model: Model = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make a voice higher, lower, brighter or darker, in standard deviations between speakers.

    Each keeps the other as it is. The voice is no longer that of its speaker, whose speech is left out of it.

    \b
    Examples:
      vconv speakers move speaker.wav --higher 1.5 --brighter=-0.5 -o moved.npz
      vconv speakers move voice.npz --axis 3:2 -o other.npz
    """
    _check_arrays_file(output, overwrite)
    axes = dict(_axis(text) for text in axis or ())
    with _silent_libraries():
        from vconv.inference import load, speakers
        from vconv.inference.population import population_of

        folder = model or _default_model()
        population, converter = population_of(folder), load(folder, threads=threads)
        moved = speakers.move(converter.voice(voice), population, higher=higher, brighter=brighter, axes=axes)
        _save_voice(moved, output)
    if not quiet:
        print(f"wrote {output}" + (f": {speakers.hertz(moved.log_f0):.0f} Hz" if moved.log_f0 is not None else ""))


@speakers_app.command("fit")
def fit_population(
    manifest: Manifest,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.npz", help="Default: population.npz in the model folder."),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Fit what all of these commands, and vconv check, need to know of a model; replaces what an earlier run made.

    Two clips of each training speaker (a thousand of them at most) tell how voices differ. Speakers of the valid
    split without training clips set the threshold. Music and noise for the check are made here. The file belongs
    to these weights, and holds the embeddings of the speakers, rounded.

    \b
    Example:
      vconv speakers fit corpus.tsv --model my-model/
    """
    with _silent_libraries():
        from vconv.evaluation import fitting
        from vconv.inference.loading import available_cores
        from vconv.inference.population import POPULATION

        folder = model or _default_model()
        place = output or folder / POPULATION
        if place.is_dir() or place.suffix.lower() != ".npz":
            raise InputError(f"{place}: is written as .npz; name a file so with -o")
        with _progress(None, quiet) as report:
            fitted = fitting.fit(folder, manifest, threads or available_cores(), report.count)
        fitted.population.save(place)
    if not quiet:
        for line in fitted.bad:
            print(f"left out {line}")
        found = fitted.population.verification
        print(
            f"wrote {place}: {len(fitted.population.speakers)} speakers; threshold {found.threshold:.3f}, equal error "
            f"rate {found.error:.1%} on {found.clips} clips of {found.speakers} held-out speakers"
        )


@speakers_app.command("test")
def test_population(
    manifest: Manifest,
    split: Annotated[str, typer.Option(help="Which clips; speakers with training clips are left out.")] = "valid",
    other: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Recordings that are no speech, or a folder of them, to test vconv check on."
        ),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Measure how well voices are told apart, beside Resemblyzer where it is installed; needs vconv[eval].

    \b
    Examples:
      vconv speakers test corpus.tsv --model my-model/
      vconv speakers test corpus.tsv --other music/ --other noise/
    """
    with _silent_libraries():
        from vconv.evaluation import verification
        from vconv.inference.loading import available_cores

        folder = model or _default_model()
        with _progress(None, quiet) as report:
            outcome = verification.examine(
                folder, manifest, split, other or [], threads or available_cores(), report.count
            )
    width = max(len(name) for name in outcome.figures)
    for name, value in outcome.figures.items():
        print(f"{name:<{width}}  {value.value:6.2f} %  (95 % interval {value.low:.2f} to {value.high:.2f})")
    if not quiet:
        for note in outcome.notes:
            print(note)


# ---------------------------------------------------------------- what the commands share


def _summary(tally: Tally, started: float) -> str:
    """One line on what a batch has made, out of how much audio and how fast."""
    there = f"{tally.finished} files were there already" if tally.finished else ""
    if not tally.made:
        return there
    what = str(tally.last) if tally.made == 1 and not tally.errors and not there else f"{tally.made} files"
    elapsed = time.perf_counter() - started
    speed = f"{tally.seconds:.1f} s of audio in {elapsed:.1f} s, real-time factor {elapsed / tally.seconds:.3f}"
    return f"{what}: {speed}" + (f"; {there}" if there else "")


def _finish(errors: list[VconvError]) -> None:
    """Report the sources that failed, each in a line, and exit if there are any."""
    for error in errors:
        _complain(error)
    if errors:
        raise typer.Exit(max(InputError.exit_code if isinstance(e, InputError) else e.exit_code for e in errors))


def _judging(metrics: str | None, cache: Path | None, jobs: int | None) -> Options:
    """How to judge, from the options that the evaluating commands share."""
    from vconv.evaluation import cache as stored
    from vconv.evaluation.run import Options
    from vconv.inference.loading import available_cores

    return Options(
        metrics=None if metrics is None else [name.strip() for name in metrics.split(",")],
        cache=cache or stored.default_place(),
        jobs=jobs or min(available_cores(), 8),
    )


def _conclude(evaluation: Evaluation, output: Path, quiet: bool) -> None:
    """Show what was measured, and report the rows that could not be."""
    if evaluation.rows and not quiet:
        from vconv.evaluation import results

        results.show(evaluation)
        print(f"wrote {output / 'report.html'}")
    _finish([VconvError(f"{bad}") for bad in evaluation.bad])


def _save_voice(voice: Voice, place: Path) -> None:
    from vconv.inference import batch

    with batch.Folders() as folders:
        folders.make(place.parent)
        voice.save(place)


def _complain(message: object) -> None:
    tell(f"vconv: {message}")


def _check_arrays_file(path: Path, overwrite: bool, suffix: str = ".npz") -> None:
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: is written as {suffix}; name it so with -o")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name an output file in it")
    if path.exists() and not overwrite:
        raise exists_already(path)


def _default_model() -> Path:
    from vconv.inference.loading import default_model

    return default_model()


def _axis(text: str) -> tuple[int, float]:
    number, _, step = text.partition(":")
    try:
        return int(number), float(step)
    except ValueError:
        raise InputError(f"--axis {text}: expected NUMBER:STEP, for example --axis 3:1.5") from None


def _pair(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not ours or not theirs:
        raise InputError(f"--column {text}: expected OURS=THEIRS, for example --column path=file")
    return ours, theirs


class _Report:
    """Progress over files on stderr, or nothing where nobody watches."""

    def __init__(self, progress: Bar | None, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total, done="") if progress else None
        self._finished = 0
        self._seconds = 0.0

    def start(self, name: Path) -> None:
        """A file begins."""
        self._seconds = 0.0
        self._update(description=name.name, done="")

    def done(self) -> None:
        """One more file is done with."""
        self._finished += 1
        self._update(completed=self._finished)

    def advance(self, seconds: float) -> None:
        """So many more seconds of the file's audio are done."""
        self._seconds += seconds
        self._update(done=f"{self._seconds:.0f} s")

    def count(self, finished: int, total: int | None = None) -> None:
        """So many files are done, of as many if that is known."""
        self._update(completed=finished, total=total)

    def _update(self, **fields: object) -> None:
        if self._progress:
            self._progress.update(self._task, **fields)


@contextlib.contextmanager
def _progress(count: Callable[[], int] | None, quiet: bool) -> Iterator[_Report]:
    """``count`` says how many files there are, where that has to be found out."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield _Report(None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description} {task.fields[done]}", markup=False))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:
        yield _Report(progress, count() if count else None)


@contextlib.contextmanager
def _needs_extra(extra: str = "train") -> Iterator[None]:
    """Say what to install where an import finds that an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vconv":
            raise
        raise InputError(f"this command needs {error.name}; install it with: pip install 'vconv[{extra}]'") from error


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
    end_on_signals()
    # numpy multiplies only small matrices here, and starting a thread for every core takes longer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run()
    # At the interpreter's end nothing could be told any more of what does not fit into a full disk.
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.close()
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code; a failure is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_warnings_as_lines("vconv")
    if sys.stdout is None:  # closed by the caller: what is printed goes nowhere
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    elif hasattr(sys.stdout, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Without arguments typer would raise its help as an error.
        code = app(arguments or ["--help"], prog_name="vconv", standalone_mode=False) or 0
        sys.stdout.flush()
        return code
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
        _complain(unforeseen(error))
        return VconvError.exit_code


if __name__ == "__main__":
    main()
