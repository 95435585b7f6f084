"""Prepare a corpus, train, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vconv.cli.app import Overwrite, Quiet, app, command
from vconv.cli.console import complain, needs_extra, progress, silent_libraries
from vconv.errors import InputError, VconvError


@command(app)
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
        typer.Option(metavar="OURS=THEIRS", help="For tsv: the table's name of a column, as path=file. Repeatable."),
    ] = None,
    mic: Annotated[str, typer.Option(help="For vctk 0.92: mic1 or mic2; the other one where it is missing.")] = "mic1",
    language: Annotated[str, typer.Option(help="Language where the source names none, such as en-us.")] = "",
    phonemize: Annotated[
        bool, typer.Option("--phonemize", help="Make phones from transcripts, with espeak-ng.")
    ] = False,
    valid_percent: Annotated[
        float, typer.Option(help="Share of speakers (one at least) and groups for validation; 0: none.")
    ] = 2.0,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="TSV", help="Speakers to keep out of training: columns speaker and split (valid, test)."),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write the clips as tar shards (WebDataset). Repeat to continue."),
    ] = None,
    shard_minutes: Annotated[float, typer.Option(min=0.1, help="Speech in a shard.")] = 60.0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes that decode; default: one a core.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the manifest of a corpus to train on.

    What cannot be used is left out and listed with the reason. Silence at the ends of clips is trimmed later,
    when training takes their features; clips of aligned groups keep theirs, which holds them aligned.

    \b
    Examples:
      vconv prepare corpus/ -o corpus.tsv
      vconv prepare vctk VCTK-Corpus-0.92/ -o vctk.tsv --held-out recipes/vctk/held_out.tsv
      vconv prepare clips.tsv --layout tsv --column path=file --column transcript=text -o corpus.tsv
      vconv prepare corpus/ -o corpus.tsv --shards shards/
    """
    with silent_libraries():
        from vconv.data.manifest import LAYOUTS, Note, Skipped, prepare, read_held_out

        unreadable: list[str] = []

        if layout is None and len(sources) > 1 and str(sources[0]) in LAYOUTS:
            layout, sources = str(sources[0]), sources[1:]

        def tell(remark: Skipped | Note) -> None:
            if isinstance(remark, Skipped) and remark.folder:
                unreadable.append(f"{remark.path}: {remark.reason}")
            elif not quiet:
                is_file = isinstance(remark, Skipped)
                print(f"skipped {remark.path}: {remark.reason}" if is_file else f"note: {remark.text}")

        with progress(None, quiet) as report:
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
    if shards is not None:
        _write_shards(output, shards, shard_minutes, jobs, quiet)
    for line in unreadable:
        complain(line)
    if unreadable:
        raise typer.Exit(VconvError.exit_code)


def _write_shards(manifest: Path, folder: Path, minutes: float, jobs: int | None, quiet: bool) -> None:
    from vconv.data.shards import write_shards
    from vconv.inference.loading import available_cores

    with silent_libraries(), progress(None, quiet) as report:
        index = write_shards(manifest, folder, minutes=minutes, jobs=jobs or available_cores(), report=report.count)
    if not quiet:
        print(f"{folder}: {index.clips} clips, {index.seconds / 3600:.2f} h in {len(index.shards)} shards")
        for reason in (reason for shard in index.shards for reason in shard.left_out):
            print(f"skipped {reason}")


@command(app)
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train, on what, and how.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting. Repeatable.")
    ] = None,
    begin_with: Annotated[
        str | None,
        typer.Option("--from", metavar="PLACE", help="Checkpoint or model folder with the first weights, or scratch."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration as YAML, and train nothing.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure a few steps on a sample: parameters, memory, hours, disk.")
    ] = False,
) -> None:
    """Train a model or a vocoder from a YAML file.

    \b
    Examples:
      vconv train recipes/folders/config.yaml --set corpus.manifest=mine.tsv --set output=runs/mine
      vconv train recipes/folders/config.yaml --from scratch --set corpus.manifest=mine.tsv
      vconv train recipes/base/stages/vocoder.yaml --from pretrained/base --set corpus.manifest=mine.tsv
      vconv train runs/mine/conversion/config.yaml --set optimizer.steps=50000 --resume
      vconv train recipes/base/shipped.yaml --print-config
      vconv train recipes/folders/config.yaml --set corpus.manifest=mine.tsv --dry-run
    """
    with needs_extra():
        from vconv import api

        if print_config:
            print(api.training_config(config, set_ or (), start_from=begin_with), end="")
        elif dry_run:
            print("\n".join(api.training_costs(config, set_ or (), start_from=begin_with, resume=resume).lines()))
        else:
            api.train(config, set_ or (), start_from=begin_with, resume=resume)


@command(app)
def export(
    conversion: Annotated[
        Path,
        typer.Argument(
            metavar="CONVERSION", help="Conversion model: a run, a checkpoint, or a model folder to take it from."
        ),
    ],
    vocoder: Annotated[
        Path, typer.Argument(metavar="VOCODER", help="Vocoder: a run, a checkpoint, or a model folder to take it from.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The model folder to write.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the conversion model. Repeatable."),
    ] = None,
    asr_encoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="ASR encoder (ONNX). Default: the path recorded in the checkpoint."),
    ] = None,
    live_asr_encoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Live ASR encoder. Default: the one beside the ASR encoder, if any."),
    ] = None,
    speaker_encoder: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Pretrained speaker encoder. Default: the path recorded in the checkpoint."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export trained weights to a model folder, for --model.

    Of a run, the best checkpoint is exported. The folder also holds the ONNX graphs.

    Of a model that learned a table of speakers, the folder `voices` holds each one's voice for `convert --target`.
    --overwrite also deletes the voices in the output's folder `voices`, which belonged to the model it replaces.

    \b
    Examples:
      vconv export runs/conversion runs/vocoder -o my-model/
      vconv export runs/conversion/checkpoint.safetensors pretrained/base -o my-model/
      vconv export pretrained/base runs/vocoder -o my-model/
      vconv export conversion.safetensors vocoder.safetensors -o my-model/ --set bottleneck.soft_temperature=0.1
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; name a folder with -o")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise InputError(f"{output}: is not empty; pass --overwrite to replace the model in it")
    with needs_extra():
        from vconv import api

        api.export_model(
            conversion,
            vocoder,
            output,
            set_ or (),
            asr_encoder=asr_encoder,
            speaker_encoder=speaker_encoder,
            live_asr_encoder=live_asr_encoder,
        )
    print(f"wrote {output}")


def _pair(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not ours or not theirs:
        raise InputError(f"--column {text}: expected OURS=THEIRS, for example --column path=file")
    return ours, theirs
