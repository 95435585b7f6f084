"""``python -m vconv.benchmarks.prepare``: time and memory of preparing a corpus of very many files."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from vconv.benchmarks.speed import EXAMPLES, Run, machine, run_vconv
from vconv.errors import VconvError
from vconv.inference.loading import available_cores

CLIPS = [EXAMPLES / "source.flac", EXAMPLES / "target.flac"]
FILES_A_SPEAKER = 500


def make_links(folder: Path, clips: Sequence[Path], count: int) -> None:
    """A corpus of ``count`` files, in folders of speakers, which are links to a few clips."""
    for number in range(count):
        clip = clips[number % len(clips)]
        speaker = folder / f"speaker{number // FILES_A_SPEAKER:05d}"
        if number % FILES_A_SPEAKER == 0:
            speaker.mkdir(parents=True)
        (speaker / f"{number:08d}{clip.suffix}").symlink_to(clip.resolve())


def measure(clips: Sequence[Path], count: int, jobs: int, folder: Path) -> Run:
    """Prepare a corpus of links, in a process of its own."""
    make_links(folder / str(count), clips, count)
    manifest = folder / f"{count}.tsv"
    return run_vconv("prepare", folder / str(count), "-o", manifest, "--jobs", jobs, "--quiet")


def benchmark(
    clips: Annotated[list[Path] | None, typer.Argument(help="Clips to link to; default: the examples.")] = None,
    count: Annotated[int, typer.Option(min=10, help="Files of the corpus.")] = 100_000,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
) -> None:
    """Prepare a tenth of the files and all of them, and print a Markdown table: memory should be the same."""
    clips, jobs = clips or CLIPS, jobs or available_cores()
    seconds = sum(soundfile.info(clip).duration for clip in clips) / len(clips)
    print(
        f"{machine()}\n\n`vconv prepare --jobs {jobs}` of links to {len(clips)} clips of {seconds:.1f} s on average\n"
    )
    print("| files | seconds | ms a file | peak memory of a process |\n| ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for files in (count // 10, count):
            try:
                run = measure(clips, files, jobs, Path(folder))
            except VconvError as error:
                print(f"vconv.benchmarks: {error}", file=sys.stderr)
                raise typer.Exit(error.exit_code) from error
            memory = "unknown" if run.memory is None else f"{run.memory:.0f} MiB"
            print(f"| {files} | {run.seconds:.1f} | {1000 * run.seconds / files:.2f} | {memory} |", flush=True)


if __name__ == "__main__":
    typer.run(benchmark)
