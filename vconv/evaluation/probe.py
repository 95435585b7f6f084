"""What a model's content code and speaker embedding hold, asked of them by fresh classifiers on a labelled corpus."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vconv import features
from vconv.data.manifest import Clip, read_manifest
from vconv.errors import InputError
from vconv.evaluation import phones, statistics
from vconv.evaluation.judges import EXTRA
from vconv.evaluation.seen import MIN_CLIPS, Choice, Seen, choose, hear, look, pooled, sentence, shuffled
from vconv.evaluation.statistics import Estimate, equal_error_rate
from vconv.files import write_text
from vconv.frontends.asr_encoder import encoder_input
from vconv.frontends.pitch import PitchTracker
from vconv.inference.engine import OnnxEngine
from vconv.model_folder import read_config
from vconv.voice import Reference

if TYPE_CHECKING:
    from rich.table import Table

    from vconv.inference.engine import Engine

CODE_RATE = features.FRAME_RATE / 2  # codes a second
REBUILT = 100  # clips, at most, that are rebuilt: finding their F0 takes longest
_FOLDS = 4  # a quarter of the sentences is asked of, the others are learned from
DB_PER_NEPER = float(20 / np.log(10))
_PHONE_FRAMES = 20_000  # that the phone classifier learns from; more take long and add little
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Figure:
    """One result with its bootstrap 95 % interval over clips (NaN of a single clip).

    ``chance`` is what knowing nothing gives, where that is known; ``better`` is 1 for higher. ``rows`` are the values
    of single clips, where they have any: another model's on the same clips can be compared clip by clip.
    """

    key: str
    label: str
    estimate: Estimate
    chance: float | None = None
    better: int = 0
    rows: Sequence[float] = ()

    @property
    def value(self) -> float:
        return self.estimate.value


@dataclass
class Probe:
    """The results, and what could not be found out."""

    figures: list[Figure]
    clips: int
    speakers: int
    notes: list[str]
    seen: Seen


def probe(
    model: Path,
    manifest: Path,
    choice: Choice,
    threads: int,
    report: Report = lambda d, t: None,
    stages: int | None = None,
) -> Probe:
    """Ask everything; of a quantizer's codes, those of the first ``stages``.

    Raises:
        InputError: the model or the manifest cannot be used, has too few speakers with enough clips, or the
            `eval` extra is missing.
    """
    for package in ("sklearn", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"vconv probe needs {package}; install it with: {EXTRA}")
    config, _ = read_config(model)
    rows = config.bottleneck.codes_of(stages)
    chosen = choose(read_manifest(manifest), choice)
    engine = OnnxEngine(model, threads)
    hears = config.embeds_speakers
    seen = look(chosen, engine, report, hears)
    if len({clip.speaker for clip in seen.clips}) < 2:
        why = f"; the first problem: {seen.bad[0]}" if seen.bad else ""
        raise InputError(f"{manifest}: fewer than 2 speakers' clips could be read{why}")
    seen.codes = [codes[:rows] for codes in seen.codes]
    found, notes = ask(seen, config.bottleneck.code_values)
    if hears:
        found += rebuilt_figures(seen.clips, engine, config.adapter_shape, threads)
    else:
        notes.append("no embedding figures: this model has a table of speakers and hears none")
    return Probe(found, len(seen.clips), len({clip.speaker for clip in seen.clips}), [*seen.bad, *notes], seen)


def ask(seen: Seen, size: int) -> tuple[list[Figure], list[str]]:
    """Everything that can be asked of codes, each of ``size`` values, and of embeddings; and what could not be."""
    found, notes = speaker_figures(seen), []
    if seen.codes[0].shape[0]:
        found += code_figures(seen, size)
    else:
        notes.append("no code figures: this model's bottleneck has no codes")
    told = phone_figures(seen)
    if not told:
        notes.append("no phone figures: too few clips have phones; vconv prepare --phonemize makes them")
    return found + told, notes


# ---------------------------------------------------------------- speakers


def speaker_figures(seen: Seen) -> list[Figure]:
    """How well the speaker can be read: off the content, where that is a fault, and off the embedding, if any."""
    names = sorted({clip.speaker for clip in seen.clips})
    speakers = np.array([names.index(clip.speaker) for clip in seen.clips])
    folds = _folds([sentence(clip) for clip in seen.clips])
    out, read = [], [("speaker_from_code", "speaker read off the content code (%)", pooled(seen.content), -1)]
    if seen.embeddings:
        read.append(("speaker_from_embedding", "speaker read off the embedding (%)", np.stack(seen.embeddings), 1))
    for key, label, values, better in read:
        asked, right = _read_off(values, speakers, folds)
        if len(asked):
            chance = Counter(speakers[asked].tolist()).most_common(1)[0][1] / len(asked)
            out.append(Figure(key, label, statistics.mean(right), chance, better, right.tolist()))
    if not seen.embeddings:
        return out
    rate = verification(np.stack(seen.embeddings), speakers)
    return [*out, Figure("embedding_eer", "speaker verification EER of the embedding (%)", rate, 0.5, -1)]


def _folds(sentences: Sequence[str]) -> np.ndarray:
    """A number below ``_FOLDS`` for every clip, one for all clips of a sentence."""
    order = {name: place for place, name in enumerate(sorted(set(sentences), key=shuffled))}
    return np.array([order[name] % _FOLDS for name in sentences])


def _read_off(values: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which clips could be asked for their label, and whether each answer was right.

    Every clip is asked by classifiers that learned from the other folds. The answers are those of the better one of
    a linear and a small neural classifier: what a code hides from one the other may find.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers: list[np.ndarray] = []
    answers: list[list[np.ndarray]] = [[], []]
    for fold in range(_FOLDS):
        learned = folds != fold
        # Nobody recognizes a voice never heard.
        asked = np.flatnonzero(~learned & np.isin(labels, labels[learned]))
        if not len(asked) or len(np.unique(labels[learned])) < 2:
            continue
        numbers.append(asked)
        classifiers = LogisticRegression(max_iter=500), MLPClassifier((128,), max_iter=200, random_state=0)
        for place, classifier in enumerate(classifiers):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it could be trained longer
                fitted = make_pipeline(StandardScaler(), classifier).fit(values[learned], labels[learned])
            answers[place].append(fitted.predict(values[asked]) == labels[asked])
    if not numbers:
        return np.zeros(0, int), np.zeros(0, bool)
    return np.concatenate(numbers), max((np.concatenate(part) for part in answers), key=np.mean)


def verification(embeddings: np.ndarray, speakers: np.ndarray) -> Estimate:
    """Equal error rate over all pairs of clips, by cosine."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), 1)
    scores = (unit @ unit.T)[first, second]
    order = np.argsort(scores)
    first, second, same = first[order], second[order], (speakers[first] == speakers[second])[order]

    def rate(taken: np.ndarray) -> np.ndarray:
        """With each clip taken so many times: where as many genuine pairs lie below as impostors above."""
        pairs = (taken[first] * taken[second]).astype(float)
        below = np.cumsum(pairs * same) / max(1e-9, (pairs * same).sum())
        above = 1 - np.cumsum(pairs * ~same) / max(1e-9, (pairs * ~same).sum())
        closest = np.argmin(np.abs(below - above))
        return np.array([(below[closest] + above[closest]) / 2])

    (estimate,) = statistics.weighted_bootstrap(len(unit), rate)
    return replace(estimate, value=equal_error_rate(scores[order][same], scores[order][~same]))


# ---------------------------------------------------------------- codes and phones


def code_figures(seen: Seen, size: int) -> list[Figure]:
    """Use of the codebooks, and the rate of the code; ``size`` is the number of codes of a group."""
    counts = [_counts(clips) for clips in zip(*seen.codes)]

    def use(taken: np.ndarray) -> np.ndarray:
        """Share of the codes in use, perplexity and bits a second, with each clip taken so many times."""
        books = [taken @ clips for clips in counts]
        bits = np.array([min(phones.entropy(book), float(np.log2(size))) for book in books])
        used = np.mean([np.count_nonzero(book) / size for book in books])
        return np.array([used, np.mean(2.0**bits), bits.sum() * CODE_RATE])

    usage, perplexity, rate = statistics.weighted_bootstrap(len(seen.codes), use)
    usage = replace(usage, high=float(np.minimum(usage.high, 1.0)))
    return [
        Figure("code_usage", "codes in use (%)", usage, None, 1),
        Figure("perplexity", f"perplexity of a codebook, of {size}", perplexity, None, 1),
        Figure("bits_per_second", "bits a second", rate),
    ]


def _counts(clips: Sequence[np.ndarray]) -> np.ndarray:
    """How often each clip's codes [T] have each of the values that occur at all: [clips, values]"""
    values = np.unique(np.concatenate(clips))
    return np.array([np.bincount(np.searchsorted(values, codes), minlength=len(values)) for codes in clips])


def phone_figures(seen: Seen) -> list[Figure]:
    """How much the content tells of the phones; empty where too few clips have any."""
    said = [phones.split_phones(clip.phones) for clip in seen.clips]
    labels = phones.align(seen.spectra, said)
    known = [n for n, label in enumerate(labels) if label is not None]
    if len(known) < MIN_CLIPS:
        return []
    spoken = [labels[n][::2] for n in known]  # a code spans two frames
    asked = _folds([sentence(seen.clips[n]) for n in known]) == 0
    frames = _Frames(np.concatenate(spoken), np.repeat(np.arange(len(known)), [len(part) for part in spoken]), asked)
    content = np.concatenate([seen.content[n] for n in known], axis=1).T
    out = _phone_classifier("phone_from_code", "phone read off the content code (%)", _linear(), content, frames)
    if not seen.codes[0].shape[0]:
        return out
    codes = np.concatenate([seen.codes[n] for n in known], axis=1)
    out += _phone_classifier(
        "phone_from_pseudo_labels", "phone read off the code's numbers (%)", _counting(codes), codes.T, frames
    )

    def told(taken: np.ndarray) -> np.ndarray:
        """Share of the phone's information in one codebook, and purity, with each clip taken so many times."""
        found = [phones.dependence(group, frames.phones, taken[frames.clips]) for group in codes]
        return np.mean([(f.information / max(f.entropy, 1e-9), f.purity) for f in found], axis=0)

    share, purity = statistics.weighted_bootstrap(len(known), told)
    commonest = float(np.bincount(frames.phones).max() / len(frames.phones))
    return [
        *out,
        Figure("phone_information", "what one codebook tells of the phone (%)", share, 0.0, 1),
        Figure("phone_purity", "phone purity of one codebook's codes (%)", purity, commonest, 1),
    ]


@dataclass(frozen=True)
class _Frames:
    """Code frames of the clips whose phones are known."""

    phones: np.ndarray  # [N]
    clips: np.ndarray  # [N], the number of each one's clip
    asked: np.ndarray  # [clips], whether a clip is asked of or learned from


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))


def _counting(codes: np.ndarray) -> Any:
    """Naive Bayes on the numbers [G, N] of the codes, whatever vectors stand behind them."""
    from sklearn.naive_bayes import CategoricalNB

    return CategoricalNB(alpha=0.1, min_categories=codes.max(axis=1) + 1)


def _phone_classifier(key: str, label: str, classifier: Any, values: np.ndarray, frames: _Frames) -> list[Figure]:
    """The phone of a single frame, read off what there is of that frame: values [N, C]."""
    asked = frames.asked[frames.clips]
    learned = np.flatnonzero(~asked)
    learned = np.random.default_rng(0).permutation(learned)[:_PHONE_FRAMES]
    if not asked.any() or len(np.unique(frames.phones[learned])) < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could be trained longer
        classifier.fit(values[learned], frames.phones[learned])
    right = classifier.predict(values[asked]) == frames.phones[asked]
    chance = float(np.bincount(frames.phones[asked]).max() / asked.sum())
    # A clip's frames hang together: it is clips that are drawn.
    clips = frames.clips[asked]
    counts = [(float(right[clips == clip].sum()), float((clips == clip).sum())) for clip in np.unique(clips)]
    return [Figure(key, label, statistics.ratio(counts), chance, 1, [found / all_ for found, all_ in counts])]


# ---------------------------------------------------------------- what both rebuild


def rebuilt_figures(
    clips: Sequence[Clip], engine: Engine, adapter_shape: tuple[int, int], threads: int = 1
) -> list[Figure]:
    """How far the mel is from a clip's own that is made of its content and F0 and of another clip's voice.

    The other clip is the speaker's next one. Nothing where no speaker has two.
    """
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    able = [clip for clip in clips if len(by_speaker[clip.speaker]) > 1]
    tracker, adapter, errors = PitchTracker(threads), np.zeros(adapter_shape, np.float32), []
    for clip in sorted(able, key=lambda clip: shuffled(str(clip.path.name) + clip.speaker))[:REBUILT]:
        own = by_speaker[clip.speaker]
        wave, heard = hear(clip.path), hear(own[(own.index(clip) + 1) % len(own)].path)
        (mel, asr_features), (voice, voice_asr_features) = (
            encoder_input(w, engine.asr_features) for w in (wave, heard)
        )
        pitch = np.stack(features.continuous_log_f0(tracker(wave)))[:, : mel.shape[1]]
        reference = Reference(engine.content(voice, voice_asr_features)[0], voice)
        made = engine.decode(
            engine.content(mel, asr_features)[0], pitch, engine.speaker(heard, voice), reference, adapter
        )
        errors.append(float(np.abs(made - mel).mean()) * DB_PER_NEPER)
    if not errors:
        return []
    return [Figure("rebuilt_error", "error of a rebuilt mel (dB)", statistics.mean(errors), None, -1, errors)]


# ---------------------------------------------------------------- results


def write(result: Probe, folder: Path) -> None:
    """probe.json, and maps of embeddings and codes as PNG.

    Raises:
        InputError: the folder cannot be written to.
    """
    from vconv.evaluation.maps import draw_maps

    content: dict[str, Any] = {
        "clips": result.clips,
        "speakers": result.speakers,
        "figures": {f.key: as_json(f) for f in result.figures},
        "notes": result.notes,
    }
    write_text(folder / "probe.json", json.dumps(content, indent=1) + "\n")
    draw_maps(result.seen, folder)


def as_json(figure: Figure) -> dict[str, Any]:
    """Unknown bounds are null."""
    low, high = ((None if np.isnan(bound) else bound) for bound in (figure.estimate.low, figure.estimate.high))
    rows = [round(float(value), 4) for value in figure.rows]
    return {
        "value": figure.value,
        "low": low,
        "high": high,
        "chance": figure.chance,
        "better": figure.better,
        "rows": rows,
    }


def table(result: Probe) -> Table:
    """For the terminal."""
    from rich.table import Table

    out = Table(f"{result.clips} clips of {result.speakers} speakers")
    for name in ("value", "95 % interval", "chance"):
        out.add_column(name, justify="right")
    for figure in result.figures:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[figure.better]
        low, high = (_text(figure, bound) for bound in (figure.estimate.low, figure.estimate.high))
        between = f"{low} to {high}" if low else ""
        out.add_row(figure.label + arrow, _text(figure, figure.value), between, _text(figure, figure.chance))
    return out


def _text(figure: Figure, value: float | None) -> str:
    if value is None or np.isnan(value):
        return ""
    if figure.label.endswith("(%)"):
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if figure.label.endswith("(dB)") else f"{value:.1f}"
