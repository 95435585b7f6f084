"""One function for what each command does, under its name; what the commands do with files is left to them.

It is longer than other modules since it is a list: each function stands alone, and is looked up by its command.

``model`` is a model folder, None for the included one, or a ``Converter`` that is already loaded: loading takes
longer than converting a short file. ``report`` is called with the items done and their total.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vconv import model_folder
from vconv.audio import Source
from vconv.errors import VconvError
from vconv.inference.analysis import Extraction
from vconv.inference.converter import Converter, Target
from vconv.inference.loading import available_cores, describe, load
from vconv.inference.targets import Speech, clips_in
from vconv.tokens import Tokens
from vconv.voice import Voice
from vconv.voices import corpus, mixing, sampling
from vconv.voices.check import Checker, Verdict
from vconv.voices.corpus import By, Embedded
from vconv.voices.population import people_of, population_of
from vconv.voices.sampling import Decision, Direction, Invented

if TYPE_CHECKING:
    from vconv.evaluation.probe import Probe
    from vconv.evaluation.run import Evaluation, Options
    from vconv.evaluation.verification import Outcome
    from vconv.training.dry_run import Cost
    from vconv.training.finetune import Tuned
    from vconv.voices.fitting import Fit

Model = Converter | Path | str | None
Report = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


def _converter(model: Model, device: str = "cpu", threads: int | None = None) -> Converter:
    return model if isinstance(model, Converter) else load(model, device, threads)


def _folder(model: Model) -> Path:
    if isinstance(model, Converter):
        model = model.folder
    return model_folder.default_model() if model is None else Path(model)


# ---------------------------------------------------------------- conversion, voices, tokens


def convert(
    source: Source,
    target: Target | list[Target],
    *,
    pitch: float = 0.0,
    keep_pitch: bool = False,
    model: Model = None,
    device: str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """The source in the target's voice: 24 kHz float32 [N]. See ``Converter.convert``, which this calls."""
    return _converter(model, device, threads).convert(source, target, pitch=pitch, keep_pitch=keep_pitch)


def embed(
    clips: Target | Sequence[Target], *, model: Model = None, device: str = "cpu", threads: int | None = None
) -> Voice:
    """The voice of a speaker's clips, or of clips with weights such as "anna.wav:0.7" a mixture of voices.

    Raises:
        InputError: a clip cannot be used.
    """
    clips = clips if isinstance(clips, list) else [clips]
    return mixing.target_voice(_converter(model, device, threads), clips)


def embed_corpus(
    inputs: Sequence[Path | str],
    output: Path | str,
    *,
    by: By = "clip",
    model: Path | str | None = None,
    device: str = "cpu",
    jobs: int = 1,
    report: Report = _silent,
) -> Embedded:
    """The embeddings of each clip of manifests, folders and recordings, into an .npz or .parquet.

    See ``vconv.voices.corpus.embed_corpus``.

    Raises:
        InputError: the inputs, the model or the output cannot be used, or no clip could be embedded.
    """
    folder = None if model is None else Path(model)
    places = [Path(place) for place in inputs]
    return corpus.embed_corpus(places, Path(output), by=by, model=folder, device=device, jobs=jobs, report=report)


def extract(source: Source, *, model: Model = None, device: str = "cpu", threads: int | None = None) -> Extraction:
    """Content codes [G, T / 2] and F0 [T] of a recording."""
    return _converter(model, device, threads).extract(source)


def encode(
    source: Source,
    *,
    stages: int | None = None,
    model: Model = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Tokens:
    """A recording as discrete tokens; see ``Converter.encode``."""
    return _converter(model, device, threads).encode(source, stages)


def decode(
    tokens: Tokens | str | Path,
    target: Target | list[Target] | None = None,
    *,
    pitch: float = 0.0,
    keep_pitch: bool = False,
    model: Model = None,
    device: str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """The speech of tokens, in the voice that they came with or the target's: 24 kHz float32 [N]."""
    return _converter(model, device, threads).decode(tokens, target, pitch=pitch, keep_pitch=keep_pitch)


def check(
    clips: Sequence[Path | str] | Path | str, *, model: Model = None, device: str = "cpu", threads: int | None = None
) -> Iterator[tuple[Path, Verdict | VconvError]]:
    """Whether recordings are speech, one after the other; folders stand for the recordings in them.

    What cannot be read, also a folder without recordings, has an error in place of the verdict.

    Raises:
        InputError: the model has no population.
    """
    population = population_of(_folder(model))
    checker = Checker(_converter(model, device, threads), population)
    paths = [clips] if isinstance(clips, Path | str) else clips
    for path in paths:
        yield from checker.all_in(Path(path))


def info(model: Model = None) -> list[tuple[str, str]]:
    """The model, its files and this installation, as (name, value) lines."""
    return describe(_folder(model))


def finetune(
    targets: Sequence[Path | str] | Path | str,
    *,
    steps: int = 120,
    seed: int = 0,
    model: Model = None,
    threads: int | None = None,
    report: Report = _silent,
) -> tuple[Voice, Tuned]:
    """A voice with an adapter trained on a minute of its speech, and the error before and after. Needs vconv[train].

    ``targets`` are clips of one speaker, or folders of them. At most ``steps`` are done; the voice fits this model
    only.

    Raises:
        InputError: a clip or the model cannot be used, or there is too little speech.
    """
    from vconv.training import finetune as tuning
    from vconv.training.texture import Foreign

    folder, threads = _folder(model), threads or available_cores()
    network = tuning.load_model(folder, threads)
    parts = [targets] if isinstance(targets, Path | str) else targets
    clips = [Speech.of(clip) for part in parts for clip in clips_in(Path(part))]  # read once
    converter = _converter(model, threads=threads)
    voice = converter.voice(clips)
    speech = [converter.speech_features(clip) for clip in clips]
    perceptual = tuning.load_perceptual(folder, network.config, [clip.wave for clip in clips])
    config = tuning.FinetuneConfig(steps=steps, seed=seed)
    foreign, population = None, converter.population
    if population is not None and voice.log_f0 is not None:
        curve = population.curve - population.log_f0 + voice.log_f0
        foreign = Foreign(population.content, np.stack([curve, population.voiced]))
    tuned = tuning.finetune(network, speech, voice.embedding, config, report, people_of(folder), perceptual, foreign)
    return dataclasses.replace(converter.voice(clips, tuned.adapter), model=converter.model), tuned


# ---------------------------------------------------------------- the space of voices


def verify(
    first: Target | list[Target], second: Target | list[Target], *, model: Model = None, threads: int | None = None
) -> Decision:
    """Whether two recordings, lists of clips or saved voices are of one speaker."""
    return sampling.verify(_converter(model, threads=threads), population_of(_folder(model)), first, second)


def identify(
    clip: Target | list[Target], enrolled: Path | str, *, model: Model = None, threads: int | None = None
) -> list[tuple[str, Decision]]:
    """Who of the people in the folder ``enrolled`` speaks: names and scores, the best first."""
    converter = _converter(model, threads=threads)
    people = sampling.enroll(converter, Path(enrolled))
    return sampling.identify(converter, population_of(_folder(model)), clip, people)


def new_voice(seed: int = 0, *, model: Model = None) -> Invented:
    """A sampled voice with its register, the same for the same seed."""
    return sampling.invent(population_of(_folder(model)), seed)


def directions(*, model: Model = None) -> list[Direction]:
    """The main directions in which voices differ."""
    return sampling.directions(population_of(_folder(model)))


def move_voice(
    voice: Target | list[Target],
    *,
    higher: float = 0.0,
    brighter: float = 0.0,
    axes: Mapping[int, float] | None = None,
    model: Model = None,
    threads: int | None = None,
) -> Voice:
    """A voice made higher, brighter, or moved along ``directions`` by number, in standard deviations."""
    start = _converter(model, threads=threads).voice(voice)
    return sampling.move(start, population_of(_folder(model)), higher=higher, brighter=brighter, axes=axes or {})


def fit_population(
    manifest: Path | str, *, model: Model = None, threads: int | None = None, report: Report = _silent
) -> Fit:
    """What ``verify``, ``new_voice``, ``check`` and their like need of a model, fitted to a corpus; not yet saved."""
    from vconv.voices import fitting

    return fitting.fit(_folder(model), Path(manifest), threads or available_cores(), report)


def measure_verification(
    manifest: Path | str,
    *,
    split: str = "valid",
    other: Sequence[Path] = (),
    model: Model = None,
    threads: int | None = None,
    report: Report = _silent,
) -> Outcome:
    """Error rates of ``verify``, and of ``check`` on recordings ``other`` than speech. Needs vconv[eval]."""
    from vconv.evaluation import verification

    return verification.examine(_folder(model), Path(manifest), split, other, threads or available_cores(), report)


# ---------------------------------------------------------------- training


def train(
    config: Path | str,
    settings: Sequence[str] = (),
    *,
    start_from: Path | str | None = None,
    resume: bool = False,
) -> Path:
    """Train what a YAML file names; the checkpoint's path. Needs vconv[train].

    Args:
        settings: "key=value" on top of the file, as "optimizer.steps=1000".
        start_from: checkpoint or model folder to begin with, or "scratch"; None takes what the file says.
        resume: continue from the last checkpoint.

    Raises:
        InputError: a bad config (the line names the key), no corpus, or a run that exists and is not resumed.
    """
    from vconv.training import run

    return run(config, _settings(settings, start_from), resume)


def training_config(config: Path | str, settings: Sequence[str] = (), *, start_from: Path | str | None = None) -> str:
    """The whole configuration of a training as YAML, defaults included."""
    from vconv.config_files import to_yaml
    from vconv.training import configuration

    return to_yaml(configuration(config, _settings(settings, start_from)))


def training_costs(
    config: Path | str, settings: Sequence[str] = (), *, start_from: Path | str | None = None, resume: bool = False
) -> Cost:
    """Parameters, memory, hours and disk of a training, from a few steps on a sample. Needs vconv[train]."""
    from vconv.training import configuration, dry_run

    return dry_run.measure(configuration(config, _settings(settings, start_from)), resume)


def _settings(settings: Sequence[str], start_from: Path | str | None) -> list[str]:
    if start_from is None:
        return [*settings]
    return [*settings, f"start_from={json.dumps('' if start_from == 'scratch' else str(start_from))}"]


def export_model(
    conversion: Path | str,
    vocoder: Path | str,
    output: Path | str,
    settings: Sequence[str] = (),
    *,
    asr_encoder: Path | None = None,
    speaker_encoder: Path | None = None,
    live_asr_encoder: Path | None = None,
) -> None:
    """Write a model folder from trained weights. Needs vconv[train]. See ``vconv.export.export``, which this calls."""
    from vconv.export import export

    vocoder = Path(model_folder.find_shipped(str(vocoder)))  # the included one lies elsewhere when installed
    export(Path(conversion), vocoder, Path(output), settings, asr_encoder, speaker_encoder, live_asr_encoder)


# ---------------------------------------------------------------- evaluation


def evaluate(
    pairs: Path | str | None = None,
    output: Path | str = "evaluation",
    *,
    source_dir: Path | None = None,
    target_dir: Path | None = None,
    language: str = "en",
    device: str = "cpu",
    model: Model = None,
    report: Report = _silent,
    **judging: Any,
) -> Evaluation:
    """Convert and judge the pairs of a table, or of two folders; ``output`` gets the report. Needs vconv[eval].

    Args:
        language: of rows without one.
        judging: metrics (names of groups, default: all that are installed), asr (a Whisper model), cache (a file;
            default: in the user's cache folder), use_cache, jobs (processes).

    Raises:
        InputError: the pairs, the model or the output cannot be used, or no judge is installed.
    """
    from vconv.evaluation import conversion, run

    options = _options(**judging)
    engine = conversion.Engine(_model_path(model), device, options.jobs)
    todo = run.read(pairs and Path(pairs), source_dir, target_dir, language)
    return run.evaluate_and_write(todo, Path(output), dataclasses.replace(options, engine=engine), report)


def probe(
    manifest: Path | str,
    output: Path | str | None = None,
    *,
    split: str = "valid",
    speakers: int = 50,
    clips: int = 20,
    stages: int | None = None,
    model: Model = None,
    threads: int | None = None,
    report: Report = _silent,
) -> Probe:
    """What classifiers read off content codes and embeddings; ``output`` gets probe.json and maps. vconv[eval]."""
    from vconv.evaluation import probe as probing

    choice = probing.Choice(split, speakers, clips)
    result = probing.probe(_folder(model), Path(manifest), choice, threads or available_cores(), report, stages)
    if output is not None:
        probing.write(result, Path(output))
    return result


def ladder(
    manifest: Path | str,
    output: Path | str = "ladder",
    *,
    split: str = "valid",
    speakers: int = 20,
    clips: int = 4,
    model: Model = None,
    report: Report = _silent,
    **judging: Any,
) -> Evaluation:
    """Where a model loses quality: recordings judged through more and more of its parts. Needs vconv[eval].

    Words are judged in the language that the manifest gives, or in English. ``judging`` as for ``evaluate``.
    """
    from vconv.data.manifest import read_manifest
    from vconv.evaluation import ladder as rungs
    from vconv.evaluation import probe, run

    options, output = _options(**judging), Path(output)
    todo = rungs.steps(read_manifest(Path(manifest)), probe.Choice(split, speakers, clips))
    run.available_judges({step.language for step in todo}, options)  # what is missing is told before the work
    made = rungs.prepare(_model_path(model), todo, output / "clips", options.jobs, report)
    return run.evaluate_and_write(made, output, options, report)


def stress(
    pairs: Path | str,
    output: Path | str = "stress",
    *,
    conditions: str | None = None,
    language: str = "en",
    model: Model = None,
    report: Report = _silent,
    **judging: Any,
) -> Evaluation:
    """Conversions of disturbed sources and of short targets, judged. Needs vconv[eval].

    ``conditions`` are names with commas between, such as "babble 15 dB,target 3 s". ``judging`` as for ``evaluate``.
    """
    from vconv.evaluation import run
    from vconv.evaluation import stress as stressing

    chosen, options, output = stressing.choose(conditions), _options(**judging), Path(output)
    todo = run.read(Path(pairs), None, None, language)
    run.available_judges({pair.language for pair in todo.good}, options)  # what is missing is told before the work
    made = stressing.prepare(_model_path(model), todo, chosen, output / "clips", options.jobs, report)
    return run.evaluate_and_write(made, output, options, report)


def _model_path(model: Model) -> Path | None:
    return None if model is None else _folder(model)


def _options(
    metrics: Sequence[str] | None = None,
    asr: Path | None = None,
    cache: Path | None = None,
    use_cache: bool = True,
    jobs: int | None = None,
) -> Options:
    """How to judge."""
    from vconv.evaluation import cache as stored
    from vconv.evaluation.judges import Settings
    from vconv.evaluation.run import Options

    return Options(
        settings=Settings(asr),
        metrics=metrics,
        cache=(cache or stored.default_place()) if use_cache else None,
        jobs=jobs or min(available_cores(), 8),
    )
