"""vconv speakers: the space of voices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vconv.cli.app import Model, Overwrite, Quiet, Threads, app, command
from vconv.cli.console import (
    check_arrays_file,
    default_model,
    needs_extra,
    progress,
    save_arrays_file,
    silent_libraries,
)
from vconv.errors import InputError

speakers_app = typer.Typer(
    help="Compare, identify, sample and move voices.",
    rich_markup_mode=None,
)


Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST", help="Corpus; see vconv prepare.")]


VoiceFile = Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz", help="The voice to write.")]


app.add_typer(speakers_app, name="speakers")


@speakers_app.callback(invoke_without_command=True)
def _speakers(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@command(speakers_app)
def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="Clip, folder of clips of one speaker, or saved voice.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What to compare with: a clip, folder or voice.")],
    model: Model = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the score alone.")] = False,
) -> None:
    """Compare two recordings: one speaker or two.

    The threshold comes from speakers outside the training data. The exit code stands for errors only.

    \b
    Example:
      vconv speakers verify a.wav b.wav
    """
    with silent_libraries():
        from vconv import api

        decision = api.verify(first, second, model=model, threads=threads)
    verdict = "the same speaker" if decision.same else "different speakers"
    print(
        f"{decision.score:.3f}"
        if quiet
        else f"{verdict}: score {decision.score:.3f}, threshold {decision.threshold:.3f}"
    )


@command(speakers_app)
def identify(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="Speech to identify: a clip, folder or saved voice.")],
    enrolled: Annotated[
        Path,
        typer.Option(
            "--enrolled",
            metavar="FOLDER",
            help="The known speakers: each a folder of clips, a clip or a saved voice.",
        ),
    ],
    model: Model = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the name alone.")] = False,
) -> None:
    """Identify a speaker among several.

    Prints the score of each, then a name, or nobody.

    \b
    Example:
      vconv speakers identify clip.wav --enrolled people/
    """
    with silent_libraries():
        from vconv import api

        ranked = api.identify(clip, enrolled, model=model, threads=threads)
    best, decision = ranked[0]
    if not quiet:
        for place, (name, other) in enumerate(ranked, 1):
            print(f"{place:>3}  {other.score:6.3f}  {name}")
        reached = "reaches" if decision.same else "is below"
        print(f"the best score {reached} the threshold {decision.threshold:.3f}:")
    print(best if decision.same else "nobody")


@command(speakers_app, "new")
def new_voice(
    output: VoiceFile,
    seed: Annotated[int, typer.Option(min=0, help="Each number gives another voice.")] = 0,
    model: Model = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Sample a new voice, with its register.

    One seed always gives the same voice.

    It is no more similar to any speaker of the training corpus than these are to each other.

    \b
    Examples:
      vconv speakers new --seed 7 -o somebody.npz
      vconv convert speech.wav --target somebody.npz
    """
    check_arrays_file(output, overwrite)
    with silent_libraries():
        from vconv import api
        from vconv.voices.population import population_of
        from vconv.voices.sampling import hertz

        invented, population = api.new_voice(seed, model=model), population_of(model or default_model())
        save_arrays_file(invented.voice, output, overwrite)
    if not quiet:
        nearest = f"score {invented.nearest:.3f} with the most similar of {len(population.speakers)} training speakers"
        register = f"{hertz(invented.voice.log_f0):.0f} Hz"
        print(f"wrote {output}: {register}; {nearest}; median among themselves: {population.apart:.3f}")


@command(speakers_app)
def directions(model: Model = None) -> None:
    """Show the main directions in which voices differ.

    They are the principal axes of the speakers' average spectra. Registers and brightness correlate with them;
    `vconv speakers move` goes along any of them, or along --higher and --brighter, each without the other.

    \b
    Example:
      vconv speakers directions
    """
    with silent_libraries():
        from vconv import api
        from vconv.voices.population import ATTRIBUTES

        found = api.directions(model=model)
    print("  #  variance  " + "  ".join(f"{name:>13}" for name in ATTRIBUTES))
    for direction in found:
        correlations = "  ".join(f"{value:+13.2f}" for value in direction.correlations)
        print(f"{direction.number:>3}  {direction.share:8.1%}  {correlations}  {direction.name}".rstrip())


@command(speakers_app)
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
    """Make a voice higher, lower, brighter or darker.

    Steps are standard deviations between speakers.

    Each keeps the other as it is. The voice is no longer that of its speaker, whose speech is left out of it.

    \b
    Examples:
      vconv speakers move speaker.wav --higher 1.5 --brighter=-0.5 -o moved.npz
      vconv speakers move voice.npz --axis 3:2 -o other.npz
    """
    check_arrays_file(output, overwrite)
    axes = dict(_axis(text) for text in axis or ())
    with silent_libraries():
        from vconv import api
        from vconv.voices.sampling import hertz

        moved = api.move_voice(voice, higher=higher, brighter=brighter, axes=axes, model=model, threads=threads)
        save_arrays_file(moved, output, overwrite)
    if not quiet:
        print(f"wrote {output}" + (f": {hertz(moved.log_f0):.0f} Hz" if moved.log_f0 is not None else ""))


@command(speakers_app, "fit")
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
    """Fit these commands and vconv check to a model.

    Replaces the result of an earlier run.

    Two clips of each training speaker (of a thousand at most) give the distribution of voices. Speakers of the valid
    split without training clips give the threshold. Music and noise for the check are synthesized. The file belongs
    to the model's weights, and holds the rounded embeddings of the speakers.

    \b
    Example:
      vconv speakers fit corpus.tsv --model my-model/
    """
    with silent_libraries():
        from vconv import api
        from vconv.model_folder import POPULATION

        place = output or (model or default_model()) / POPULATION
        check_arrays_file(place, overwrite=True)
        with progress(None, quiet) as report:
            fitted = api.fit_population(manifest, model=model, threads=threads, report=report.count)
        save_arrays_file(fitted.population, place, overwrite=True)
    if not quiet:
        for line in fitted.bad:
            print(f"left out {line}")
        found = fitted.population.verification
        print(
            f"wrote {place}: {len(fitted.population.speakers)} speakers; threshold {found.threshold:.3f}, equal error "
            f"rate {found.error:.1%} on {found.clips} clips of {found.speakers} held-out speakers"
        )


@command(speakers_app, "test")
def test_population(
    manifest: Manifest,
    split: Annotated[str, typer.Option(help="Which clips; speakers with training clips are left out.")] = "valid",
    other: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Recordings without speech, or a folder of them, to also measure vconv check."
        ),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Measure speaker verification; needs vconv[eval].

    Resemblyzer's error rate on the same clips is reported as well, if it is installed.

    \b
    Examples:
      vconv speakers test corpus.tsv --model my-model/
      vconv speakers test corpus.tsv --other music/ --other noise/
    """
    with needs_extra("eval"), silent_libraries():
        from vconv import api

        with progress(None, quiet) as report:
            outcome = api.measure_verification(
                manifest, split=split, other=other or (), model=model, threads=threads, report=report.count
            )
    width = max(len(name) for name in outcome.figures)
    for name, value in outcome.figures.items():
        print(f"{name:<{width}}  {value.value:6.2f} %  (95 % interval {value.low:.2f} to {value.high:.2f})")
    if not quiet:
        for note in outcome.notes:
            print(note)


def _axis(text: str) -> tuple[int, float]:
    number, _, step = text.partition(":")
    try:
        return int(number), float(step)
    except ValueError:
        raise InputError(f"--axis {text}: expected NUMBER:STEP, for example --axis 3:1.5") from None
