"""The conversions that a table leaves to be made, timed, in a process whose memory is theirs alone."""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import vconv
from vconv.errors import InputError
from vconv.evaluation.cache import folder_digest
from vconv.evaluation.measure import Answers, Report, workers
from vconv.evaluation.pairs import BadRow, Pair, Pairs, with_converted

if TYPE_CHECKING:
    from vconv.inference import Converter


@dataclass(frozen=True)
class Engine:
    """What converts: arguments of ``vconv.load``."""

    model: Path | None = None
    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Speed:
    """What one conversion took, the target's clip included and loading the model not."""

    seconds: float
    real_time_factor: float
    memory: float | None  # peak resident set in MiB of the converting process so far; None where it is unknown


@dataclass
class Converted:
    """Pairs that all have a result, and by line what those took that were converted here."""

    pairs: Pairs
    speed: dict[int, Speed] = field(default_factory=dict)


def convert_missing(pairs: Pairs, engine: Engine, folder: Path, answers: Answers, report: Report) -> Converted:
    """Make the results that are missing, into ``folder``, under names that change with what they are made of.

    A result of an earlier run whose time is in the cache stays.

    Raises:
        InputError: the model or the folder cannot be used.
        VconvError: the converting process died.
    """
    open_pairs = [pair for pair in pairs.good if pair.converted is None]
    if not open_pairs:
        return Converted(pairs)
    model = _model_digest(engine)
    done = Converted(Pairs(bad=list(pairs.bad), seconds=pairs.seconds))
    to_make: list[tuple[Pair, Path, str]] = []
    for pair in pairs.good:
        if pair.converted is not None:
            done.pairs.good.append(pair)
            continue
        key = "|".join(("conversion", model, answers.digest(pair.source), answers.digest(pair.target)))
        tag = hashlib.sha256(key.encode()).hexdigest()[:10]
        to_make.append((pair, folder / f"{pair.source.stem}_as_{pair.target.stem}_{tag}.wav", key))
    _reuse(to_make, answers, done)
    if to_make:
        _convert(to_make, engine, folder, answers, done, report)
    done.pairs.good.sort(key=lambda pair: pair.line)
    done.pairs.bad.sort(key=lambda row: row.line)
    return done


def make_folder(folder: Path) -> None:
    """A folder for results, if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder ({error.strerror}); choose another with -o") from error


def _model_digest(engine: Engine) -> str:
    from vconv.model_folder import default_model

    folder = default_model() if engine.model is None else engine.model
    if not folder.is_dir():
        raise InputError(f"{folder}: no such model folder; check --model")
    files = folder_digest(folder, (".json", ".onnx", ".safetensors"))
    code = folder_digest(Path(vconv.__file__).parent, (".py",))  # which somebody may be working on
    return f"{code} {engine.device} {engine.threads} {files}"  # the time depends on the threads


def _reuse(to_make: list[tuple[Pair, Path, str]], answers: Answers, done: Converted) -> None:
    """Move what is there already from ``to_make`` to ``done``."""
    for item in list(to_make):
        pair, place, key = item
        known = answers.cache.get(key)
        if known is not None and place.is_file():
            to_make.remove(item)
            done.pairs.good.append(with_converted(pair, place))
            done.speed[pair.line] = Speed(**known)


def _convert(
    to_make: list[tuple[Pair, Path, str]],
    engine: Engine,
    folder: Path,
    answers: Answers,
    done: Converted,
    report: Report,
) -> None:
    make_folder(folder)
    with workers(1, _start_worker, engine) as pool:
        pool.submit(_warm_up, to_make[0][0].target).result()
        for count, (pair, place, key) in enumerate(to_make, 1):
            try:
                speed = pool.submit(_convert_in_worker, pair.source, pair.target, place).result()
            except InputError as error:
                done.pairs.bad.append(BadRow(pair.line, str(error)))
            else:
                answers.cache.put(key, vars(speed))
                done.pairs.good.append(with_converted(pair, place))
                done.speed[pair.line] = speed
            report(count, len(to_make))


# ---------------------------------------------------------------- in the process


_engine: Engine | None = None
_converter: Converter | None = None


def _start_worker(engine: Engine) -> None:
    global _engine
    _engine = engine


def _loaded() -> Converter:
    """The converter, loaded at the first call: an error here reaches the caller, one in the initializer would not."""
    global _converter
    if _converter is None:
        assert _engine is not None
        _converter = vconv.load(_engine.model, _engine.device, _engine.threads)
    return _converter


def _warm_up(target: Path) -> None:
    """Load the model and what else is loaded at first use, which is not to count as the first clip's time."""
    converter = _loaded()
    try:
        converter.voice(str(target))
    except InputError:
        return  # it will be said of the pair


def _convert_in_worker(source: Path, target: Path, place: Path) -> Speed:
    started = time.perf_counter()
    seconds_of_audio = _loaded().convert_file(str(source), str(target), place)
    seconds = time.perf_counter() - started
    return Speed(seconds, seconds / seconds_of_audio, peak_memory())


def peak_memory() -> float | None:
    """Peak resident set of this process in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent held when it started this process
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
