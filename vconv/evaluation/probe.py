"""What a model's content code and speaker embedding hold, asked of them by fresh classifiers on a labelled corpus."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vconv import audio, features
from vconv.errors import InputError
from vconv.evaluation import metrics, phones
from vconv.evaluation.judges import EXTRA
from vconv.evaluation.results import write_text
from vconv.evaluation.statistics import equal_error_rate
from vconv.inference.engine import OnnxEngine
from vconv.inference.loading import read_config
from vconv.manifest import Clip, read_manifest

if TYPE_CHECKING:
    from rich.table import Table

    from vconv.inference.engine import Engine

CODE_RATE = features.FRAME_RATE / 2  # codes a second
MIN_CLIPS = 4  # of a speaker, to learn from some and be asked of others
MAX_SECONDS = 20.0  # of a clip: what the model takes at once
_ASKED = 4  # every fourth sentence is asked of, the others are learned from
_PHONE_FRAMES = 20_000  # that the phone classifier learns from; more take long and add little
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """Which clips of the manifest."""

    split: str = "valid"  # train, valid or all
    speakers: int = 50  # at most
    clips: int = 20  # of each, at most


@dataclass(frozen=True)
class Figure:
    """One result. ``chance`` is what knowing nothing gives, where that is known; ``better`` is 1 for higher."""

    key: str
    label: str
    value: float
    chance: float | None = None
    better: int = 0


@dataclass
class Seen:
    """What the model made of the clips that could be read."""

    clips: list[Clip] = field(default_factory=list)
    content: list[np.ndarray] = field(default_factory=list)  # [C, T / 2]
    codes: list[np.ndarray] = field(default_factory=list)  # [G, T / 2], no rows without a bottleneck
    embeddings: list[np.ndarray] = field(default_factory=list)  # [E]
    spectra: list[np.ndarray] = field(default_factory=list)  # [50, T], for the phones' places
    bad: list[str] = field(default_factory=list)


@dataclass
class Probe:
    """The results, and what could not be found out."""

    figures: list[Figure]
    clips: int
    speakers: int
    notes: list[str]
    seen: Seen


def probe(model: Path, manifest: Path, choice: Choice, threads: int, report: Report = lambda d, t: None) -> Probe:
    """Ask everything.

    Raises:
        InputError: the model or the manifest cannot be used, has too few speakers with enough clips, or the
            `eval` extra is missing.
    """
    for package in ("sklearn", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"vconv probe needs {package}; install it with: {EXTRA}")
    config, _ = read_config(model)
    chosen = choose(read_manifest(manifest), choice)
    seen = look(chosen, OnnxEngine(model, threads), report)
    if len({clip.speaker for clip in seen.clips}) < 2:
        why = f"; the first problem: {seen.bad[0]}" if seen.bad else ""
        raise InputError(f"{manifest}: fewer than 2 speakers' clips could be read{why}")
    found, notes = speaker_figures(seen), list(seen.bad)
    if config.bottleneck.kind == "identity":
        notes.append("no code figures: this model has no bottleneck and so no codes")
    else:
        found += code_figures(seen, config.bottleneck.codes)
    told = phone_figures(seen)
    if not told:
        notes.append("no phone figures: too few clips have phones; vconv prepare --phonemize makes them")
    return Probe(found + told, len(seen.clips), len({clip.speaker for clip in seen.clips}), notes, seen)


def choose(clips: Sequence[Clip], choice: Choice) -> list[Clip]:
    """Clips of speakers that have enough of them; which ones depends on names alone, not on their order.

    Raises:
        InputError: fewer than two such speakers.
    """
    if choice.split not in ("train", "valid", "all"):
        raise InputError(f"--split {choice.split}: use train, valid or all")
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        if choice.split in (clip.split, "all"):
            by_speaker.setdefault(clip.speaker, []).append(clip)
    able = {name: found for name, found in by_speaker.items() if len(found) >= MIN_CLIPS}
    if len(able) < 2:
        raise InputError(
            f"the manifest has {len(able)} speakers with {MIN_CLIPS} clips or more in the split '{choice.split}'; "
            "2 are needed (--split all takes every clip)"
        )
    names = sorted(able, key=_shuffled)[: choice.speakers]
    picked = [sorted(able[name], key=lambda clip: _shuffled(_sentence(clip)))[: choice.clips] for name in sorted(names)]
    return list(itertools.chain.from_iterable(picked))


def _sentence(clip: Clip) -> str:
    """What is said: clips of a parallel group are one sentence, and are learned from or asked of together."""
    return clip.group or clip.path.name


def _shuffled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def look(clips: Sequence[Clip], engine: Engine, report: Report = lambda d, t: None) -> Seen:
    """What the model makes of every clip; those that cannot be used are listed."""
    seen = Seen()
    for done, clip in enumerate(clips, 1):
        try:
            wave, _ = audio.read(clip.path, features.SAMPLE_RATE)
        except InputError as error:
            seen.bad.append(str(error))
            continue
        wave = audio.trim_silence(wave, features.SAMPLE_RATE)[: round(MAX_SECONDS * features.SAMPLE_RATE)]
        if len(wave) < audio.MIN_SECONDS * features.SAMPLE_RATE:
            seen.bad.append(f"{clip.path}: too little speech in it")
            continue
        mel = features.log_mel(audio.normalize(wave, features.SAMPLE_RATE))
        mel = mel[:, : mel.shape[1] // 2 * 2]
        content, codes = engine.content(mel)
        seen.clips.append(clip)
        seen.content.append(content)
        seen.codes.append(codes)
        seen.embeddings.append(engine.speaker(mel))
        seen.spectra.append(spectra(mel))
        report(done, len(clips))
    return seen


def spectra(mel: np.ndarray) -> np.ndarray:
    """What phones are placed by: cepstra, level, and how they move, each scaled over the clip: [80, T] -> [50, T].

    Scaled, they are alike for all speakers and microphones.
    """
    static = np.concatenate([metrics.mel_cepstrum(mel), mel.mean(axis=0, keepdims=True)])
    both = np.concatenate([static, np.gradient(static, axis=1)])
    return (both - both.mean(axis=1, keepdims=True)) / (both.std(axis=1, keepdims=True) + 1e-6)


# ---------------------------------------------------------------- speakers


def pooled(content: Sequence[np.ndarray]) -> np.ndarray:
    """Means and deviations over time of every clip's content: [C, T] -> [clips, 2 C]."""
    return np.stack([np.concatenate([z.mean(axis=1), z.std(axis=1)]) for z in content])


def speaker_figures(seen: Seen) -> list[Figure]:
    """How well the speaker can be read: off the content, where that is a fault, and off the embedding."""
    names = sorted({clip.speaker for clip in seen.clips})
    speakers = np.array([names.index(clip.speaker) for clip in seen.clips])
    asked = _asked([_sentence(clip) for clip in seen.clips])
    asked &= np.isin(speakers, speakers[~asked])  # nobody recognizes a voice never heard
    chance = Counter(speakers[asked].tolist()).most_common(1)[0][1] / asked.sum() if asked.any() else None
    out = []
    for key, label, values, better in (
        ("speaker_from_code", "speaker read off the content code (%)", pooled(seen.content), -1),
        ("speaker_from_embedding", "speaker read off the embedding (%)", np.stack(seen.embeddings), 1),
    ):
        if asked.any() and len(np.unique(speakers[~asked])) > 1:
            out.append(Figure(key, label, _accuracy(values, speakers, asked), chance, better))
    rate = verification(np.stack(seen.embeddings), speakers)
    return [*out, Figure("embedding_eer", "speaker verification EER of the embedding (%)", rate, 0.5, -1)]


def _asked(sentences: Sequence[str]) -> np.ndarray:
    """Which clips are asked of: every fourth sentence in shuffled order, with all that say it."""
    order = {name: place for place, name in enumerate(sorted(set(sentences), key=_shuffled))}
    return np.array([order[name] % _ASKED == 0 for name in sentences])


def _accuracy(values: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> float:
    """Of the better of a linear and a small neural classifier: what a code hides from one the other may find."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for classifier in (LogisticRegression(max_iter=500), MLPClassifier((128,), max_iter=200, random_state=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it could be trained longer
            fitted = make_pipeline(StandardScaler(), classifier).fit(values[~asked], labels[~asked])
        found.append(float(fitted.score(values[asked], labels[asked])))
    return max(found)


def verification(embeddings: np.ndarray, speakers: np.ndarray) -> float:
    """Equal error rate over all pairs of clips, by cosine."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    above = np.triu_indices(len(unit), 1)
    scores, same = (unit @ unit.T)[above], (speakers[:, None] == speakers)[above]
    return equal_error_rate(scores[same], scores[~same])


# ---------------------------------------------------------------- codes and phones


def code_figures(seen: Seen, size: int) -> list[Figure]:
    """Use of the codebooks, and the rate of the code; ``size`` is the number of codes of a group."""
    codes = np.concatenate(seen.codes, axis=1)
    counts = [np.bincount(group, minlength=size) for group in codes]
    bits = [min(phones.entropy(c), float(np.log2(size))) for c in counts]
    return [
        Figure("code_usage", "codes in use (%)", float(np.mean([np.mean(c > 0) for c in counts])), None, 1),
        Figure("perplexity", f"perplexity of a codebook, of {size}", float(np.mean(2.0 ** np.array(bits))), None, 1),
        Figure("bits_per_second", "bits a second", float(sum(bits) * CODE_RATE)),
    ]


def phone_figures(seen: Seen) -> list[Figure]:
    """How much the content tells of the phones; empty where too few clips have any."""
    said = [phones.split_phones(clip.phones) for clip in seen.clips]
    labels = phones.align(seen.spectra, said)
    known = [n for n, label in enumerate(labels) if label is not None]
    if len(known) < MIN_CLIPS:
        return []
    per_frame = [labels[n][::2] for n in known]  # a code spans two frames
    flat = np.concatenate(per_frame)
    out = _phone_classifier(seen, known, per_frame)
    if not seen.codes[0].shape[0]:
        return out
    groups = np.concatenate([seen.codes[n] for n in known], axis=1)
    told = [phones.dependence(group, flat) for group in groups]
    share = float(np.mean([found.information / found.entropy for found in told]))
    purity = float(np.mean([found.purity for found in told]))
    return [
        *out,
        Figure("phone_information", "what one codebook tells of the phone (%)", share, 0.0, 1),
        Figure("phone_purity", "phone purity of one codebook's codes (%)", purity, told[0].commonest, 1),
    ]


def _phone_classifier(seen: Seen, known: Sequence[int], labels: Sequence[np.ndarray]) -> list[Figure]:
    """The phone of a single frame, read off all the content of that frame."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    asked_clips = _asked([_sentence(seen.clips[n]) for n in known])
    asked = np.repeat(asked_clips, [len(label) for label in labels])
    frames, flat = np.concatenate([seen.content[n] for n in known], axis=1).T, np.concatenate(labels)
    learned = np.flatnonzero(~asked)
    learned = np.random.default_rng(0).permutation(learned)[:_PHONE_FRAMES]
    if not asked.any() or len(np.unique(flat[learned])) < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it could be trained longer
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(frames[learned], flat[learned])
    chance = float(np.bincount(flat[asked]).max() / asked.sum())
    value = float(fitted.score(frames[asked], flat[asked]))
    return [Figure("phone_from_code", "phone read off the content code (%)", value, chance, 1)]


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
        "figures": {f.key: {"value": f.value, "chance": f.chance, "better": f.better} for f in result.figures},
        "notes": result.notes,
    }
    write_text(folder / "probe.json", json.dumps(content, indent=1) + "\n")
    draw_maps(result.seen, folder)


def table(result: Probe) -> Table:
    """For the terminal."""
    from rich.table import Table

    out = Table(f"{result.clips} clips of {result.speakers} speakers")
    out.add_column("value", justify="right")
    out.add_column("chance", justify="right")
    for figure in result.figures:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[figure.better]
        out.add_row(figure.label + arrow, _text(figure, figure.value), _text(figure, figure.chance))
    return out


def _text(figure: Figure, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if figure.label.endswith("(%)") else f"{value:.1f}"
