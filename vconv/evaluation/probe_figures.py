"""Figures of a probe: what classifiers read off embeddings and codes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vconv import features
from vconv.evaluation import phones, statistics
from vconv.evaluation.seen import MIN_CLIPS, Seen, pooled, sentence
from vconv.evaluation.statistics import Estimate, equal_error_rate
from vconv.files import name_digest

CODE_RATE = features.FRAME_RATE / 2  # codes a second
_FOLDS = 4  # a quarter of the sentences is for testing, the others are for training
_PHONE_FRAMES = 20_000  # that the phone classifier learns from; more take long and add little


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


def speaker_figures(seen: Seen) -> list[Figure]:
    """How well the speaker can be read: off the content, where that is a fault, and off the embedding, if any."""
    names = sorted({clip.speaker for clip in seen.clips})
    speakers = np.array([names.index(clip.speaker) for clip in seen.clips])
    folds = _folds([sentence(clip) for clip in seen.clips])
    out, read = [], [("speaker_from_code", "speaker accuracy from the content code (%)", pooled(seen.content), -1)]
    if seen.embeddings:
        read.append(("speaker_from_embedding", "speaker accuracy from the embedding (%)", np.stack(seen.embeddings), 1))
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
    order = {name: place for place, name in enumerate(sorted(set(sentences), key=name_digest))}
    return np.array([order[name] % _FOLDS for name in sentences])


def _read_off(values: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which clips could be tested, and whether each prediction was right.

    Every clip is tested with classifiers trained on the other folds. The predictions are those of the better one of
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
        # A label without training clips cannot be predicted.
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
    """How much of the phones the content holds; empty where too few clips have any."""
    said = [phones.split_phones(clip.phones) for clip in seen.clips]
    labels = phones.align(seen.spectra, said)
    known = [n for n, label in enumerate(labels) if label is not None]
    if len(known) < MIN_CLIPS:
        return []
    spoken = [labels[n][::2] for n in known]  # a code spans two frames
    asked = _folds([sentence(seen.clips[n]) for n in known]) == 0
    frames = _Frames(np.concatenate(spoken), np.repeat(np.arange(len(known)), [len(part) for part in spoken]), asked)
    content = np.concatenate([seen.content[n] for n in known], axis=1).T
    out = _phone_classifier("phone_from_code", "phone accuracy from the content code (%)", _linear(), content, frames)
    if not seen.codes:
        return out
    codes = np.concatenate([seen.codes[n] for n in known], axis=1)
    out += _phone_classifier(
        "phone_from_pseudo_labels", "phone accuracy from code indices (%)", _counting(codes), codes.T, frames
    )

    def told(taken: np.ndarray) -> np.ndarray:
        """Share of the phone's information in one codebook, and purity, with each clip taken so many times."""
        found = [phones.dependence(group, frames.phones, taken[frames.clips]) for group in codes]
        return np.mean([(f.information / max(f.entropy, 1e-9), f.purity) for f in found], axis=0)

    share, purity = statistics.weighted_bootstrap(len(known), told)
    commonest = float(np.bincount(frames.phones).max() / len(frames.phones))
    return [
        *out,
        Figure("phone_information", "phone information per codebook (%)", share, 0.0, 1),
        Figure("phone_purity", "phone purity of one codebook's codes (%)", purity, commonest, 1),
    ]


@dataclass(frozen=True)
class _Frames:
    """Code frames of the clips whose phones are known."""

    phones: np.ndarray  # [N]
    clips: np.ndarray  # [N], the number of each one's clip
    asked: np.ndarray  # [clips], whether a clip is for testing or for training


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
