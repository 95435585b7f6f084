"""From pairs of clips to a finished evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vconv.errors import InputError
from vconv.evaluation import conversion, figures, pairs
from vconv.evaluation.cache import Cache
from vconv.evaluation.figures import GROUPS, Contest, Row
from vconv.evaluation.judges import JUDGES, Settings, check_languages
from vconv.evaluation.languages import by_language
from vconv.evaluation.measure import Answers, Report
from vconv.evaluation.pairs import BadRow, Pairs
from vconv.evaluation.report import write_report
from vconv.evaluation.results import write_results
from vconv.evaluation.statistics import Estimate
from vconv.evaluation.text import language_code


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        metrics: groups of ``figures.GROUPS``; None takes all whose packages are installed.
        cache: where judges' answers are kept; None keeps nothing.
        jobs: processes that judge at the same time.
    """

    engine: conversion.Engine = conversion.Engine()
    settings: Settings = Settings()
    metrics: Sequence[str] | None = None
    cache: Path | None = None
    jobs: int = 1


@dataclass
class Evaluation:
    """What came out. ``missing``: which judges could not run, and what to install."""

    rows: list[Row]
    bad: list[BadRow]
    missing: list[str]
    judges: dict[str, str]  # versions
    answers: Answers
    systems: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    languages: dict[str, dict[str, dict[str, Estimate]]] = field(default_factory=dict)  # by language, then system
    contests: list[Contest] = field(default_factory=list)


def evaluate(todo: Pairs, folder: Path, options: Options, report: Report = lambda done, total: None) -> Evaluation:
    """Convert what is missing, into ``folder``/converted, ask the judges and count.

    Raises:
        InputError: no judge can run, or an option, the model or the folder cannot be used.
        VconvError: a worker process died.
    """
    if folder.exists() and not folder.is_dir():  # seen before the work
        raise InputError(f"{folder}: is a file; name a folder with -o")
    judges, missing = available_judges({pair.language for pair in todo.good}, options)
    answers = Answers(options.settings, Cache(options.cache))
    made = conversion.convert_missing(pairs.drop_unusable(todo), options.engine, folder / "converted", answers, report)
    usable = pairs.drop_unusable(made.pairs)  # a result may be silent, too
    answers.ask(figures.questions(usable.good, judges), options.jobs, report)
    if "warp" in judges:
        answers.ask(figures.warp_questions(usable.good, answers), options.jobs, report)
    rows, judged = figures.make_rows(usable, answers, judges, made.speed)
    return Evaluation(
        rows=rows,
        bad=judged.bad,
        missing=missing,
        judges={name: JUDGES[name].version(options.settings) for name in judges},
        answers=answers,
        systems={name: figures.estimates(part) for name, part in figures.by_system(rows).items()},
        languages=by_language(rows),
        contests=figures.contests(rows, answers),
    )


def read(table: Path | None, source_folder: Path | None, target_folder: Path | None, language: str = "en") -> Pairs:
    """The pairs of a table, or of two folders. ``language`` holds where the table names none.

    Raises:
        InputError: neither or both are given, or they cannot be read.
    """
    if table is not None and source_folder is None and target_folder is None:
        return pairs.read_pairs(table, language_code(language))
    if table is None and source_folder is not None and target_folder is not None:
        return pairs.pair_folders(source_folder, target_folder, language_code(language))
    raise InputError("what to evaluate? Give either PAIRS.csv or both --source-dir and --target-dir")


def evaluate_and_write(
    todo: Pairs, folder: Path, options: Options, report: Report = lambda done, total: None
) -> Evaluation:
    """``evaluate``, and ``write`` if there is anything to write.

    Raises:
        InputError, VconvError: as the two do.
    """
    evaluation = evaluate(todo, folder, options, report)
    if evaluation.rows:
        write(evaluation, folder, report)
    return evaluation


def write(evaluation: Evaluation, folder: Path, report: Report = lambda done, total: None) -> None:
    """rows.csv, summary.csv, results.json and report.html, replacing those of an earlier run.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_results(evaluation, folder)
    write_report(evaluation, folder / "report.html", report)


def available_judges(languages: Iterable[str], options: Options) -> tuple[list[str], list[str]]:
    """Judges that can run on speech in these languages (codes), and a note on each of the others.

    Raises:
        InputError: a requested metric is missing, or a language needs another ASR model.
    """
    wanted = GROUPS if options.metrics is None else options.metrics
    unknown = [name for name in wanted if name not in GROUPS]
    if unknown:
        raise InputError(f"--metrics {unknown[0]}: there is no such metric; use {', '.join(GROUPS)}")
    judges, missing = [], []
    for name in (judge for group in wanted for judge in GROUPS[group]):
        problem = JUDGES[name].missing(options.settings)
        if problem:
            missing.append(problem)
        else:
            judges.append(name)
    if missing and options.metrics is not None:
        raise InputError(missing[0])
    if "text" in judges:
        check_languages(languages, options.settings)
    if "f0" not in judges and "warp" in judges:
        judges.remove("warp")
    return judges, missing
