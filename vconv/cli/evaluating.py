"""Measure a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vconv.errors import VconvError

if TYPE_CHECKING:
    from typing import Any

    from vconv.evaluation.run import Evaluation

from vconv.cli.app import Device, Jobs, JudgementCache, Metrics, Model, Quiet, Threads, app, command
from vconv.cli.console import finish, needs_extra, progress, silent_libraries

Asr = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Whisper model for faster-whisper; default: tiny.en, English only."),
]
Language = Annotated[
    str, typer.Option(metavar="CODE", help="Language of rows without one, such as fr or zh; needs --asr.")
]

Results = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="What an earlier run left there is replaced.")
]
Split = Annotated[str, typer.Option(help="Which clips: train, valid, test or all.")]
Speakers = Annotated[int, typer.Option(min=2, help="Speakers, at most.")]
Clips = Annotated[int, typer.Option(min=4, help="Clips of each speaker, at most.")]


@command(app)
def evaluate(
    pairs: Annotated[Path | None, typer.Argument(metavar="PAIRS.csv", help="Table of the pairs; see above.")] = None,
    source_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="In place of a table: recordings to convert ...")
    ] = None,
    target_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="... each to the voice of one of these clips, in turn.")
    ] = None,
    output: Results = Path("evaluation"),
    metrics: Metrics = None,
    asr: Asr = None,
    language: Language = "en",
    cache: JudgementCache = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the cache.")] = False,
    jobs: Jobs = None,
    model: Model = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Evaluate conversions; needs vconv[eval].

    The judges are networks that had no part in training.

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
    with needs_extra("eval"), silent_libraries():
        from vconv import api

        with progress(None, quiet) as report:
            evaluation = api.evaluate(
                pairs,
                output,
                source_dir=source_dir,
                target_dir=target_dir,
                language=language,
                device=device,
                model=model,
                report=report.count,
                use_cache=not no_cache,
                **_judging(metrics, cache, jobs, asr),
            )
    _conclude(evaluation, output, quiet)


@command(app)
def probe(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder.")],
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Labelled corpus; see vconv prepare.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="For probe.json and maps.")] = Path(
        "probe"
    ),
    split: Split = "valid",
    speakers: Speakers = 50,
    clips: Clips = 20,
    stages: Annotated[
        int | None, typer.Option(help="Use the codes of the first N quantizer stages; default: all.")
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Probe content codes and embeddings; needs vconv[eval].

    Fresh classifiers read the speaker off the code (lower is better) and off the embedding (higher is
    better), and the phone off the code. Phones are placed in time by a flat-start alignment, which is rough:
    compare models by it, not papers.

    \b
    Example:
      vconv probe my-model/ corpus.tsv -o probe/
    """
    with needs_extra("eval"), silent_libraries():
        from rich.console import Console

        from vconv import api
        from vconv.evaluation.probe import table

        with progress(None, quiet) as report:
            result = api.probe(
                manifest,
                output,
                split=split,
                speakers=speakers,
                clips=clips,
                stages=stages,
                model=model,
                threads=threads,
                report=report.count,
            )
    if not quiet:
        Console(width=None if sys.stdout.isatty() else 200).print(table(result))
        for note in result.notes:
            print(note)
        print(f"wrote {output / 'probe.json'} and maps beside it")


@command(app)
def ladder(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Corpus; see vconv prepare.")],
    output: Results = Path("ladder"),
    split: Split = "valid",
    speakers: Speakers = 20,
    clips: Clips = 4,
    metrics: Metrics = None,
    asr: Asr = None,
    cache: JudgementCache = None,
    jobs: Jobs = None,
    model: Model = None,
    quiet: Quiet = False,
) -> None:
    """Find where a model loses quality; needs vconv[eval].

    The same recordings are judged as they are, through the vocoder alone (and with the recording's magnitudes,
    phase or spectral envelope in its copy), converted to their own speaker (from the clip itself, then from
    another), and converted to another speaker. What falls from one rung to the next is what that part costs.

    \b
    Example:
      vconv ladder corpus.tsv --model my-model/ -o ladder/
    """
    with needs_extra("eval"), silent_libraries():
        from vconv import api

        with progress(None, quiet) as report:
            evaluation = api.ladder(
                manifest,
                output,
                split=split,
                speakers=speakers,
                clips=clips,
                model=model,
                report=report.count,
                **_judging(metrics, cache, jobs, asr),
            )
    _conclude(evaluation, output, quiet)


@command(app)
def stress(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS.csv", help="Table of the pairs, as for vconv evaluate.")],
    output: Results = Path("stress"),
    conditions: Annotated[
        str | None, typer.Option(help='Some of them, as "babble 15 dB,target 3 s"; default: all.')
    ] = None,
    metrics: Metrics = None,
    asr: Asr = None,
    language: Language = "en",
    cache: JudgementCache = None,
    jobs: Jobs = None,
    model: Model = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate with noise and short targets; needs vconv[eval].

    Each pair is converted from the source as it is and disturbed, and with less of the target; the results
    are judged against the clean source and the whole target, and compared.

    \b
    Example:
      vconv stress pairs.csv --model my-model/ -o stress/
    """
    with needs_extra("eval"), silent_libraries():
        from vconv import api

        with progress(None, quiet) as report:
            evaluation = api.stress(
                pairs,
                output,
                conditions=conditions,
                language=language,
                model=model,
                report=report.count,
                **_judging(metrics, cache, jobs, asr),
            )
    _conclude(evaluation, output, quiet)


def _judging(metrics: str | None, cache: Path | None, jobs: int | None, asr: Path | None) -> dict[str, Any]:
    """How to judge, from the options that the evaluating commands share."""
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    return {"metrics": names, "asr": asr, "cache": cache, "jobs": jobs}


def _conclude(evaluation: Evaluation, output: Path, quiet: bool) -> None:
    """Show what was measured, and report the rows that could not be."""
    if evaluation.rows and not quiet:
        from vconv.evaluation import results

        results.show(evaluation)
        print(f"wrote {output / 'report.html'}")
    finish([VconvError(f"{bad}") for bad in evaluation.bad])
