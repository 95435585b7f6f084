"""A model like the shipped one, from a manifest of `vconv prepare`: training, export and evaluation in stages.

    python recipes/base/run.py corpus.tsv runs/mine cpu

Each stage works in a folder of its own below OUT. A stage with a file DONE is skipped. One that was interrupted goes
on, or begins anew if it is no training: the same command, started again, ends with the same model. Where the settings
or the inputs of a stage have changed, its folder is kept under another name, and it runs again, as do the stages that
follow from it. README.md beside this file describes the stages.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from vconv.config_files import load_yaml, merge
from vconv.data.manifest import TEST, VALID, Clip, read_manifest, unseen
from vconv.errors import InputError, VconvError, run_script
from vconv.files import digest, write_text
from vconv.model_folder import ASR_ENCODER, LIVE_ASR_ENCODER, SHIPPED, SPEAKER_ENCODER_WEIGHTS, find_shipped
from vconv.signals import end_on_signals

HERE = Path(__file__).resolve().parent
TRAININGS = (
    "robust_frontend",
    "encoder",
    "vocoder",
    "conversion",
    "vocoder_predicted",
    "joint",
    "encoders",
    "live_asr_encoder",
)  # each a file in stages/
SETTINGS = {
    "pseudo_labels": {"clusters": 512},
    "asr_encoder": {"share": 0.5},
    "averaged": {"share": 0.7},
    "averaged_encoders": {"share": 0.7},
    "evaluate": {"pairs": 100, "split": ""},
}
CHECKPOINT, CONFIG = "checkpoint.safetensors", "config.yaml"
STARTED, DONE = "STARTED", "DONE"  # files in a stage's folder; both hold what identifies its settings and inputs

Execute = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class Setup:
    """What the stages are made from; all paths are absolute."""

    manifest: Path
    output: Path
    sizes: dict[str, Any]  # of a size file, with what --set changes
    asr_encoder: Path
    speaker_encoder: Path
    start_from: str = ""  # model folder or checkpoint, for the encoder and the vocoder

    @property
    def inputs(self) -> list[Path]:
        return [self.manifest, self.asr_encoder, self.speaker_encoder]

    def settings(self, name: str) -> dict[str, Any]:
        """Those of a stage that is no training."""
        return SETTINGS.get(name, {}) | self.sizes.get(name, {})


@dataclass(frozen=True)
class Stage:
    name: str
    needs: tuple[str, ...]  # the stages whose results it takes
    commands: tuple[tuple[str, ...], ...]
    config: dict[str, Any] = field(default_factory=dict)  # of a training, which can go on where it stopped

    def identity(self, inputs: Sequence[str], of_stages: dict[str, str]) -> str:
        """Digest of its settings and of all that it is made from."""
        parts = [self.commands, self.config, list(inputs), [of_stages[name] for name in self.needs]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- the stages


def make_stages(setup: Setup) -> list[Stage]:
    """All stages in their order."""
    place = partial(_place, setup.output)
    python = (sys.executable,)
    conversion, vocoder = place("conversion", CHECKPOINT), place("vocoder_predicted", CHECKPOINT)
    joint, averaged = place("joint", CHECKPOINT), place("averaged", CHECKPOINT)
    labels, robust = place("pseudo_labels", "corpus.tsv"), place("asr_encoder", ASR_ENCODER)
    share, clusters = setup.settings("asr_encoder")["share"], setup.settings("pseudo_labels")["clusters"]
    model = place("export", "model")
    asr_encoder = str(setup.asr_encoder)
    first = train(setup, "robust_frontend", (), {"asr_encoder": asr_encoder, "corpus": plain(setup)})
    return [
        first,
        Stage("asr_encoder", (first.name,), (
            (*python, str(HERE / "asr_encoder.py"), asr_encoder, "--trained", place(first.name, CHECKPOINT),
             "--share", str(share), "-o", robust),
        )),
        Stage("pseudo_labels", (), (
            (*python, str(HERE / "pseudo_labels.py"), str(setup.manifest), "--asr-encoder", asr_encoder,
             "--clusters", str(clusters), "-o", labels),
        )),
        train(setup, "encoder", (first.name, "asr_encoder", "pseudo_labels"), {
            "start_from": setup.start_from,
            "robust_frontend": place(first.name, CHECKPOINT),
            "speaker_encoder": str(setup.speaker_encoder),
            "corpus": labelled(setup),
        }),
        train(setup, "vocoder", (first.name,), {
            "start_from": setup.start_from,
            "loss_asr_encoder": asr_encoder,
            "corpus": plain(setup),
        }),
        train(setup, "conversion", ("encoder", "vocoder"), {
            "start_from": place("encoder", CHECKPOINT),
            "vocoder": place("vocoder", CHECKPOINT),
            "speaker_encoder": str(setup.speaker_encoder),
            "loss_asr_encoder": asr_encoder,
            "corpus": labelled(setup),
        }),
        train(setup, "vocoder_predicted", ("conversion",), {
            "start_from": place("vocoder", CHECKPOINT),
            "conversion": conversion,
            "speaker_encoder": str(setup.speaker_encoder),
            "loss_asr_encoder": asr_encoder,
            "corpus": labelled(setup),
        }),
        train(setup, "joint", ("vocoder_predicted",), {
            "conversion": conversion,
            "vocoder": vocoder,
            "speaker_encoder": str(setup.speaker_encoder),
            "loss_asr_encoder": asr_encoder,
            "corpus": labelled(setup),
        }),
        Stage("averaged", ("conversion", "vocoder_predicted", "joint"), (
            (*python, str(HERE.parent / "average.py"), conversion, vocoder, joint,
             "--share", str(setup.settings("averaged")["share"]), "-o", averaged),
        )),
        *last_stages(setup, averaged, robust, model),
        *evaluation(setup, model),
    ]  # fmt: skip


def last_stages(setup: Setup, averaged: str, robust: str, model: str) -> list[Stage]:
    """Encoders for the averaged models, where the corpus has phones; the live ASR encoder; the export."""
    place, python = partial(_place, setup.output), sys.executable
    stages, needs, trained, graph = [], ("asr_encoder", "averaged"), averaged, robust
    if any(clip.phones for clip in read_manifest(setup.manifest)):
        trained, graph = place("averaged_encoders", "encoders.safetensors"), place("averaged_encoders", ASR_ENCODER)
        share = str(setup.settings("averaged_encoders")["share"])
        stages = [
            train(setup, "encoders", ("robust_frontend", *needs), {
                "conversion": averaged,
                "asr_encoder": robust,
                "speaker_encoder": str(setup.speaker_encoder),
                "corpus": plain(setup),
            }),
            Stage("averaged_encoders", (*needs, "encoders"), (
                (python, str(HERE.parent / "average.py"), averaged, place("encoders", CHECKPOINT),
                 "--share", share, "-o", trained),
                (python, str(HERE / "asr_encoder.py"), robust, "--trained", trained, "-o", graph),
            )),
        ]  # fmt: skip
        needs = ("averaged", "averaged_encoders")
    live = place("export", LIVE_ASR_ENCODER)
    return [
        *stages,
        train(setup, "live_asr_encoder", ("robust_frontend", *needs), {
            "conversion": trained,
            "asr_encoder": graph,
            "corpus": plain(setup),
        }),
        Stage("export", (*needs, "live_asr_encoder"), (
            (python, str(HERE / "asr_encoder.py"), graph, "--live", place("live_asr_encoder", CHECKPOINT), "-o", live),
            (python, "-m", "vconv", "export", trained, averaged, "-o", model, "--asr-encoder", graph,
             "--live-asr-encoder", live),
        )),
    ]  # fmt: skip


def train(setup: Setup, name: str, needs: tuple[str, ...], inputs: dict[str, Any]) -> Stage:
    """A training: its file in stages/, the settings of the size over it, and where its inputs lie."""
    config = load_yaml(HERE / "stages" / f"{name}.yaml")
    for above in (setup.sizes.get("all", {}), setup.sizes.get(name, {}), inputs):
        config = merge(config, above)
    config["output"] = str(setup.output / name)
    launch = shlex.split(setup.sizes.get("launch", "")) or [sys.executable]
    command = (*launch, "-m", "vconv", "train", _place(setup.output, name, CONFIG), "--resume")
    return Stage(name, needs, (command,), config)


def _place(output: Path, stage: str, file: str) -> str:
    return str(output / stage / file)


def plain(setup: Setup) -> dict[str, Any]:
    """The corpus for what takes no ASR features; the first training builds the store."""
    return {"manifest": str(setup.manifest), "store": _place(setup.output, "robust_frontend", "corpus.store")}


def labelled(setup: Setup) -> dict[str, Any]:
    """The corpus with pseudo-labels, and features of the robust ASR encoder."""
    return {
        "manifest": _place(setup.output, "pseudo_labels", "corpus.tsv"),
        "store": _place(setup.output, "encoder", "corpus.store"),
        "asr_encoder": _place(setup.output, "asr_encoder", ASR_ENCODER),
    }


def evaluation(setup: Setup, model: str) -> list[Stage]:
    """Of conversions between speakers without training clips: of the split test if it has two, or else of valid.

    No stage without two.

    Raises:
        InputError: the language of one is no language code.
    """
    judging = setup.settings("evaluate")
    asked, count = judging.pop("split"), judging.pop("pairs")
    pairs, clips = _place(setup.output, "evaluate", "pairs.csv"), read_manifest(setup.manifest)
    for split in (asked,) if asked else (TEST, VALID):
        held_out = unseen(clips, split)
        if len({clip.speaker for clip in held_out}) > 1:
            judging = judged(held_out, judging)
            return [Stage("evaluate", ("export",), (
                (sys.executable, str(HERE.parent / "make_pairs.py"), str(setup.manifest), pairs, "--split", split,
                 "--count", str(count)),
                (sys.executable, "-m", "vconv", "evaluate", pairs, "--model", model,
                 "-o", _place(setup.output, "evaluate", "results"), *options(judging)),
            ))]  # fmt: skip
    return []


def judged(clips: Sequence[Clip], judging: dict[str, Any]) -> dict[str, Any]:
    """Options of ``vconv evaluate``; without words, and with a note, where its default model lacks a language.

    Raises:
        InputError: a clip's language is no language code.
    """
    from vconv.evaluation.figures import GROUPS
    from vconv.evaluation.judges import JUDGES, Settings
    from vconv.evaluation.text import language_code

    others = {language_code(clip.language or judging.get("language", "en")) for clip in clips} - {"en"}
    if not others or {"asr", "metrics"} & judging.keys():
        return judging
    print(
        f"note: words will not be judged: the default Whisper model does not know {', '.join(sorted(others))}; "
        "name a multilingual one with --set evaluate.asr=FOLDER",
        flush=True,
    )
    able = [name for name, judges in GROUPS.items() if not any(JUDGES[judge].missing(Settings()) for judge in judges)]
    return judging | {"metrics": ",".join(name for name in able if name != "words")}


def options(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def check(stages: Sequence[Stage]) -> None:
    """Raise InputError for a setting that is wrong, before the first hour rather than after it."""
    from vconv.training import build_configuration

    for stage in stages:
        if stage.config:
            build_configuration(stage.config, stage.name)


# ---------------------------------------------------------------- running them


def run_stages(stages: Sequence[Stage], setup: Setup, execute: Execute, dry: bool = False) -> None:
    """Run what is not done. Raises VconvError where a command fails."""
    inputs, of_stages = [digest(path) for path in setup.inputs], {}
    for stage in stages:
        identity = of_stages[stage.name] = stage.identity(inputs, of_stages)
        folder = setup.output / stage.name
        if _text(folder / DONE) == identity:
            print(f"== {stage.name}: complete", flush=True)
        elif dry:
            print(f"== {stage.name}: to do")
        else:
            print(f"== {stage.name}", flush=True)
            run_stage(stage, folder, identity, execute)


def run_stage(stage: Stage, folder: Path, identity: str, execute: Execute) -> None:
    if folder.exists():
        if _text(folder / STARTED) != identity:
            set_aside(folder)
        elif not stage.config:  # nothing to go on from
            shutil.rmtree(folder)
    write_text(folder / STARTED, identity)
    if stage.config:
        write_text(folder / CONFIG, config_text(stage))
    for command in stage.commands:
        execute(command)
    write_text(folder / DONE, identity)


def print_costs(stages: Sequence[Stage], setup: Setup, execute: Execute) -> None:
    """What each training costs, done or not, by `vconv train --dry-run`; raises VconvError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages:
            if stage.config:
                print(f"== {stage.name}", flush=True)
                path = Path(folder) / f"{stage.name}.yaml"
                write_text(path, config_text(without_results(stage, setup)))
                execute((sys.executable, "-m", "vconv", "train", str(path), "--dry-run"))


def without_results(stage: Stage, setup: Setup) -> Stage:
    """A training that needs no result of another stage and costs the same: the shipped networks stand for them."""
    config = merge(stage.config, {"corpus": {"manifest": str(setup.manifest)}})
    if "asr_encoder" in config["corpus"]:
        config["corpus"]["asr_encoder"] = str(setup.asr_encoder)
    if "pseudo_labels" in config.get("losses", {}):
        config["losses"]["pseudo_labels"] = 0.0  # one more head on the code
    if "vocoder" in config:
        config["vocoder"] = SHIPPED
    if config["task"] in ("joint", "encoders", "live_asr_encoder"):  # the others do without
        config["conversion"] = SHIPPED
    if config["task"] in ("encoders", "live_asr_encoder"):
        config["asr_encoder"] = str(setup.asr_encoder)
    return replace(stage, config=config)


def config_text(stage: Stage) -> str:
    import yaml

    return f"# Written by {Path(__file__).name}; changes here are lost.\n" + yaml.safe_dump(stage.config, width=110)


def set_aside(folder: Path) -> None:
    """Rename a folder that was made with other settings or inputs: hours of work are not to be deleted."""
    number = 1
    while (kept := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    folder.rename(kept)
    print(f"{folder}: was made with other settings or inputs; it is now {kept}", flush=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@contextmanager
def alone(output: Path) -> Iterator[IO[str]]:
    """Wait until nobody else works in the folder: a command of a killed run may still be at work. Yields the lock."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{output}: another run is at work here; waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def run_command(command: Sequence[str], lock: IO[str] | None = None) -> None:
    """Run to its end. The command inherits the lock, and keeps it where this process is killed.

    Raises:
        VconvError: it fails.
    """
    process = subprocess.Popen(command, pass_fds=[lock.fileno()] if lock else [])
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        raise VconvError(f"exit code {code} of: {shlex.join(command)}; the same command goes on from here")


# ---------------------------------------------------------------- the command line


def read_setup(arguments: argparse.Namespace) -> Setup:
    """Raises InputError for a size or a setting that does not exist, or a missing file."""
    size = Path(arguments.size)
    if not size.suffix:
        size = HERE / "sizes" / f"{size}.yaml"
    sizes = load_yaml(size, arguments.set)
    known = {"launch", "all", *TRAININGS, *SETTINGS}
    if unknown := sorted(sizes.keys() - known):
        raise InputError(f"{size}: unknown stage '{unknown[0]}'; use {', '.join(sorted(known))}")
    files = [Path(find_shipped(str(path))).absolute() for path in (arguments.asr_encoder, arguments.speaker_encoder)]
    start = Path(find_shipped(arguments.start_from)).absolute() if arguments.start_from else ""
    return Setup(arguments.manifest.absolute(), arguments.output.absolute(), sizes, *files, str(start))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="of vconv prepare")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder for all that is made")
    parser.add_argument(
        "size", nargs="?", default="cpu", help="short, cpu (default), gpu, gpus: a file in sizes/; or another YAML file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE",
        help="change one setting, for example conversion.optimizer.steps=20000; all.KEY for all trainings; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="start_from", default="", metavar="PLACE",
        help=f"model folder to begin the encoder and the vocoder with, such as {SHIPPED}; default: from scratch",
    )  # fmt: skip
    parser.add_argument("--asr-encoder", default=f"{SHIPPED}/{ASR_ENCODER}", metavar="FILE", help="ONNX")
    parser.add_argument("--speaker-encoder", default=f"{SHIPPED}/{SPEAKER_ENCODER_WEIGHTS}", metavar="FILE")
    parser.add_argument("--dry-run", action="store_true", help="list the stages and whether each is complete")
    parser.add_argument("--cost", action="store_true", help="measure what each training takes, and train nothing")
    return parser


def make(arguments: argparse.Namespace) -> None:
    setup = read_setup(arguments)
    stages = make_stages(setup)
    check(stages)
    report = f", its report {setup.output}/evaluate/results/report.html"
    if not any(stage.name == "evaluate" for stage in stages):
        report = "; it was not evaluated"
        print(
            "note: the model will not be evaluated: that takes two speakers who are kept out of the training; "
            "keep out more with vconv prepare --valid-percent",
            flush=True,
        )
    if arguments.dry_run:
        run_stages(stages, setup, _refuse, dry=True)
        return
    if arguments.cost:
        print_costs(stages, setup, run_command)
        return
    end_on_signals()
    with alone(setup.output) as lock:
        run_stages(stages, setup, partial(run_command, lock=lock))
    print(f"== done: the model is {setup.output}/export/model{report}")


def _refuse(command: Sequence[str]) -> None:
    raise AssertionError(command)


def main(words: Sequence[str] | None = None) -> int:
    return run_script("run", lambda: make(parser().parse_args(words)))


if __name__ == "__main__":
    raise SystemExit(main())
