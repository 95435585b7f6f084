#!/usr/bin/env python3
"""Train and measure every configuration beside this file with the same small budget: a table and a plot.

    python recipes/ablations/run.py corpus.tsv -o runs/ablations --jobs 2

What is finished is skipped, so an interrupted run is simply started again. README.md says what comes of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import table
from make_pairs import make_pairs, write_pairs
from make_pairs import write_table as write_pair_table

from vconv.config_files import load_yaml
from vconv.data.manifest import VALID, Clip, read_manifest
from vconv.errors import InputError, VconvError, run_script
from vconv.evaluation.judges import JUDGES, Settings
from vconv.files import write_text
from vconv.model_folder import default_model

HERE = Path(__file__).resolve().parent
# The most telling ones first: a run that is ended early has made a table of those.
CONFIGS = (
    "vq", "no_adversary", "no_instance_norm", "identity", "no_phones", "fsq", "vae", "autoencoder", "no_parallel",
    "no_perturbation", "residual_vq", "gumbel", "binary", "alternating", "concat", "sparse", "masked",
    "speaker_information", "content_information", "cpc", "adversary_sex", "table", "cycle", "contractive",
    "layerwise",
)  # fmt: skip
KMEANS, RECORDING = "kmeans", "recording"  # no training: k-means of the mel, and the recordings themselves
CHECKPOINT = "checkpoint.safetensors"
JUDGEMENTS = "judgements.jsonl"


@dataclass(frozen=True)
class Setup:
    """Where everything is, and how much is measured."""

    manifest: Path
    output: Path
    vocoder: Path  # a checkpoint, or a model folder
    settings: tuple[str, ...] = ()  # KEY=VALUE over every configuration
    speakers: int = 40  # held-out ones, that are probed
    clips: int = 8  # of each
    pairs: int = 20  # conversions that are judged

    def folder(self, name: str) -> Path:
        return self.output / name

    @property
    def pairs_table(self) -> Path:
        return self.output / "pairs.csv"


# ---------------------------------------------------------------- the stages


class Stages:
    """Commands of one configuration, in order; what they print goes to its log.

    A stage is skipped that the very same command completed before, unless an earlier one has run now.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, False
        (folder / "stages").mkdir(parents=True, exist_ok=True)

    def run(self, name: str, command: Sequence[object], allow: Sequence[int] = (0,)) -> None:
        """Raises VconvError where the command ends with another code than those allowed."""
        mark, words = self.folder / "stages" / name, [str(word) for word in command]
        text = shlex.join(words) + "\n"
        if not self.ran and mark.is_file() and mark.read_text(encoding="utf-8") == text:
            return
        self.ran = True
        mark.unlink(missing_ok=True)
        log = self.folder / f"{name}.log"
        with log.open("w", encoding="utf-8") as file, ended_with_us(words, file) as process:
            code = process.wait()
        if code not in allow:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
            raise VconvError(f"{self.folder.name}: {name} failed: {last} (see {log})")
        write_text(mark, text)


_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


@contextmanager
def ended_with_us(words: Sequence[str], log: io.TextIOBase) -> Iterator[subprocess.Popen[bytes]]:
    """A process of one thread, which ``end_all`` ends."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=os.environ | threads)
    with _lock:
        _running.add(process)
    try:
        yield process
    finally:
        with _lock:
            _running.discard(process)


def end_all() -> None:
    """Tell the running commands to end."""
    with _lock:
        for process in _running:
            process.terminate()


def vconv(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "vconv", *arguments]


def settings_of(name: str, setup: Setup) -> tuple[list[str], dict]:
    """``KEY=VALUE`` for vconv train, and the whole of what the configuration then says."""
    own = (f"corpus.manifest={setup.manifest}", f"output={setup.folder(name) / 'training'}", *setup.settings)
    return list(own), load_yaml(HERE / f"{name}.yaml", own)


def measure_config(name: str, setup: Setup) -> None:
    """Train, export, probe.

    Raises:
        InputError: the folder holds a run of other settings.
        VconvError: a command failed.
    """
    folder = setup.folder(name)
    overrides, settings = settings_of(name, setup)
    text = json.dumps(settings, indent=1) + "\n"
    place = folder / table.SETTINGS
    if not place.is_file():
        write_text(place, text)
    elif place.read_text(encoding="utf-8") != text:
        raise InputError(f"{folder}: holds a run of other settings; delete it, or choose another output with -o")
    stages, model, training = Stages(folder), folder / "model", folder / "training"
    changes = [word for override in overrides for word in ("--set", override)]
    stages.run("train", vconv("train", HERE / f"{name}.yaml", "--resume", *changes))
    stages.run("export", vconv("export", training / CHECKPOINT, setup.vocoder, "-o", model, "--overwrite"))
    amount = ["--speakers", setup.speakers, "--clips", setup.clips]
    stages.run("probe", vconv("probe", model, setup.manifest, "-o", folder / "probe", *amount, "--threads", 1, "-q"))
    if stages.ran:  # what is judged later is another model now
        (folder / "stages" / "evaluate").unlink(missing_ok=True)


def judge_config(name: str, setup: Setup, measured: Future[None]) -> None:
    """Convert the pairs, and have the results judged, once the model is ``measured``.

    Raises:
        VconvError: a command failed.
    """
    _, settings = settings_of(name, setup)
    # A model with a table of speakers has no voice for those of the pairs. Why another has failed is said already.
    if measured.exception() is None and settings.get("model", {}).get("speaker") != "table":
        folder = setup.folder(name)
        evaluate(Stages(folder), setup, ["--model", folder / "model"], setup.pairs_table)


def measure_kmeans(setup: Setup) -> None:
    """Raises VconvError where the command failed."""
    folder = setup.folder(KMEANS)
    amount = ["--speakers", setup.speakers, "--clips", setup.clips]
    script = [sys.executable, HERE / "kmeans.py", setup.manifest, "-o", folder / "probe", *amount]
    Stages(folder).run("probe", script)


def prepare_pairs(setup: Setup) -> None:
    """The held-out pairs to convert, and the sources in the place of conversions, judged: what perfection gets.

    Raises:
        InputError: there are no two held-out speakers of English with transcripts.
        VconvError: a command failed.
    """
    clips = [clip for clip in read_manifest(setup.manifest) if clip.split == VALID and _can_be_judged(clip)]
    pairs = make_pairs(clips, setup.pairs)
    setup.output.mkdir(parents=True, exist_ok=True)
    write_pairs(setup.pairs_table, pairs)
    folder = setup.folder(RECORDING)
    stages = Stages(folder)
    rows = ([p.source.path, p.target.path, p.source.path, p.source.transcript] for p in pairs)
    write_pair_table(folder / "pairs.csv", ["source", "target", "converted", "transcript"], rows)
    evaluate(stages, setup, [], folder / "pairs.csv")


def _can_be_judged(clip: Clip) -> bool:
    """English with a transcript, which is what the judge of words knows, and a speaker who was not trained on."""
    return bool(clip.transcript) and (clip.language or "en").startswith("en") and not clip.group


def evaluate(stages: Stages, setup: Setup, model: Sequence[object], pairs: Path) -> None:
    """Judge conversions; the judgements of sources and targets are taken over from those of the recordings."""
    known, own = setup.folder(RECORDING) / JUDGEMENTS, stages.folder / JUDGEMENTS
    if known.is_file() and not own.is_file():
        shutil.copyfile(known, own)
    options = ["--metrics", "speaker,words", "--cache", own, "--jobs", 1, "-q"]
    # 1: a pair could not be judged, as one whose conversion is silent. It is listed, and the others count.
    stages.run("evaluate", vconv("evaluate", pairs, *model, "-o", stages.folder / "evaluation", *options), allow=(0, 1))


def missing_judges() -> list[str]:
    """What to say of the judges that are not installed."""
    return [problem for name in ("voice", "text") if (problem := JUDGES[name].missing(Settings()))]


# ---------------------------------------------------------------- all of them


def run(setup: Setup, names: Sequence[str], jobs: int) -> list[str]:
    """Do everything, and write the table anew whenever a configuration is done; returns what went wrong."""
    judged = not missing_judges()
    for problem in missing_judges():
        print(f"note: SIM and WER are left out: {problem}")
    setup.output.mkdir(parents=True, exist_ok=True)
    if judged:
        prepare_pairs(setup)
    pool, problems = ThreadPoolExecutor(jobs), []
    tasks = {
        pool.submit(measure_kmeans, setup) if name == KMEANS else pool.submit(measure_config, name, setup): name
        for name in names
    }
    if judged:  # last, as the table says most without it
        for task, name in list(tasks.items()):
            if name != KMEANS:
                tasks[pool.submit(judge_config, name, setup, task)] = f"{name}, judged"
    try:
        for task in as_completed(tasks):
            if error := task.exception():
                if not isinstance(error, VconvError):
                    raise error
                problems.append(str(error))
            print(f"{tasks[task]}: {'failed' if error else 'done'}", flush=True)
            write_table(setup)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        end_all()
        raise
    return problems


def write_table(setup: Setup) -> None:
    """Of all that the output holds, in the order of CONFIGS."""
    table.write([table.read_row(setup.folder(name)) for name in (*CONFIGS, KMEANS, RECORDING)], setup.output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "manifest", type=Path, help="corpus, of vconv prepare; validation speakers are what is measured"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--jobs", type=int, default=1, help="configurations at the same time, of one CPU thread each")
    parser.add_argument("--only", metavar="NAME,...", help=f"of {', '.join((*CONFIGS, KMEANS))}")
    parser.add_argument("--vocoder", type=Path, help="checkpoint, or model folder; default: the included model")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="for all; repeatable"
    )
    parser.add_argument("--speakers", type=int, default=Setup.speakers, help="held-out speakers that are probed")
    parser.add_argument("--clips", type=int, default=Setup.clips, help="of each")
    parser.add_argument("--pairs", type=int, default=Setup.pairs, help="conversions that are judged")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the commands end as well
    return run_script("ablations", lambda: compare(arguments))


def compare(arguments: argparse.Namespace) -> int:
    names = chosen(arguments.only)
    for package in ("torch", "sklearn", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"this needs {package}; install vconv[train] and vconv[eval]")
    setup = Setup(
        arguments.manifest.absolute(),
        arguments.output.absolute(),
        (arguments.vocoder or default_model()).absolute(),
        tuple(arguments.settings),
        arguments.speakers,
        arguments.clips,
        arguments.pairs,
    )
    problems = run(setup, names, max(1, arguments.jobs))
    for problem in problems:
        print(f"ablations: {problem}", file=sys.stderr)
    print(f"wrote {arguments.output / 'table.md'}, table.csv and plot.png")
    return int(bool(problems))


def chosen(only: str | None) -> list[str]:
    """Names in the order of CONFIGS, with k-means early as it needs no training.

    Raises:
        InputError: an unknown name.
    """
    every = [CONFIGS[0], KMEANS, *CONFIGS[1:]]
    wanted = every if only is None else [name.strip() for name in only.split(",")]
    for name in wanted:
        if name not in every:
            raise InputError(f"--only {name}: there is no such configuration; use some of {', '.join(every)}")
    return [name for name in every if name in wanted]


if __name__ == "__main__":
    sys.exit(main())
