"""Which phone is where in a clip, and how much of it the codes tell."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SILENCE = ""  # stands at both ends of a clip
_ROUNDS = 8
_EDGE_FRAMES = 4  # of silence at each end of a trimmed clip, to begin with
_MIN_VARIANCE = 0.1  # of the variance over all frames, so that a rare phone does not shrink to a point


@dataclass(frozen=True)
class Dependence:
    """How much codes [N] tell of phones [N]."""

    information: float  # bits, corrected for the size of the sample
    entropy: float  # bits of the phones: the most that there is to tell
    purity: float  # share of frames whose phone is the commonest one of their code
    commonest: float  # share of the commonest phone: the purity of codes that tell nothing


def split_phones(ipa: str) -> list[str]:
    """IPA as phones: modifiers, marks and tie bars stay with their letter; stress, spaces and breaks go."""
    phones: list[str] = []
    tied = False
    for character in unicodedata.normalize("NFD", ipa):
        category = unicodedata.category(character)
        if category == "Mn" or character in "ːˑʰʲʷˠˤⁿˡ˞":
            if phones:
                phones[-1] += character
                tied = character in "\u0361\u035c"
        elif category in ("Ll", "Lo", "Lu"):
            if tied:
                phones[-1] += character
            else:
                phones.append(character)
            tied = False
    return phones


def align(features: Sequence[np.ndarray], phones: Sequence[Sequence[str]]) -> list[np.ndarray | None]:
    """The phone of every frame, as a number into ``inventory(phones)``: from a flat start, without a trained model.

    Each phone is one Gaussian with a diagonal covariance. Clips are cut evenly at first, then by turns the Gaussians
    are estimated and the cuts moved to where they are likeliest (Viterbi training of monophones).

    Args:
        features: [C, T] of every clip.
        phones: of every clip.

    Returns: [T] of every clip, None for one that has more phones than frames, or none.
    """
    numbers = {phone: number for number, phone in enumerate(inventory(phones))}
    chains = [np.array([numbers[p] for p in (SILENCE, *clip, SILENCE)]) for clip in phones]
    usable = [n for n, chain in enumerate(chains) if 2 < len(chain) <= features[n].shape[1]]
    labels: dict[int, np.ndarray] = {}
    for n in usable:
        labels[n] = _even_cuts(chains[n], features[n].shape[1])
    if usable:
        everything = np.concatenate([features[n] for n in usable], axis=1).astype(float)
        for _ in range(_ROUNDS):
            means, variances = _gaussians(everything, np.concatenate([labels[n] for n in usable]), len(numbers))
            labels = {n: _segment(features[n], chains[n], means, variances) for n in usable}
    return [labels.get(n) for n in range(len(features))]


def _even_cuts(chain: np.ndarray, frames: int) -> np.ndarray:
    """A first guess: a little silence at both ends, and all phones equally long."""
    edge = min(_EDGE_FRAMES, (frames - len(chain)) // 2 + 1)
    inner = frames - 2 * edge
    middle = chain[1:-1][np.arange(inner) * (len(chain) - 2) // inner]
    return np.concatenate([chain[:1].repeat(edge), middle, chain[-1:].repeat(edge)])


def inventory(phones: Sequence[Sequence[str]]) -> list[str]:
    """Silence and the phones that occur, in order."""
    return [SILENCE, *sorted({phone for clip in phones for phone in clip})]


def _gaussians(frames: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances [count, C] of frames [C, T] with the same label."""
    overall_mean, overall = frames.mean(axis=1), frames.var(axis=1) + 1e-9
    means, variances = np.tile(overall_mean, (count, 1)), np.tile(overall, (count, 1))
    for label in np.unique(labels):
        part = frames[:, labels == label]
        means[label] = part.mean(axis=1)
        variances[label] = np.maximum(part.var(axis=1), _MIN_VARIANCE * overall)
    return means, variances


def _segment(features: np.ndarray, chain: np.ndarray, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """The likeliest phone of every frame [T]: a clip goes through its chain [P], and may skip only the silences."""
    mean, variance = means[chain][:, :, None], variances[chain][:, :, None]
    scores = -0.5 * (np.square(features[None] - mean) / variance + np.log(variance)).sum(axis=1)  # [P, T]
    places, frames = scores.shape
    best = np.full(places, -np.inf)
    best[:2] = scores[:2, 0]
    moved = np.zeros((frames, places), bool)  # whether the best way came from the place before
    for frame in range(1, frames):
        before = np.concatenate([[-np.inf], best[:-1]])
        moved[frame] = before > best
        best = np.maximum(before, best) + scores[:, frame]
    place = places - 1 if best[-1] > best[-2] else places - 2
    path = np.zeros(frames, int)
    for frame in range(frames - 1, -1, -1):
        path[frame] = place
        place -= int(moved[frame, place])
    return chain[path]


def dependence(codes: np.ndarray, phones: np.ndarray, weights: np.ndarray | None = None) -> Dependence:
    """Of two label sequences [N], whose elements may count ``weights`` [N] times; the information is Miller and
    Madow's estimate."""
    shape = int(codes.max()) + 1, int(phones.max()) + 1
    counts = np.bincount(codes * shape[1] + phones, weights, shape[0] * shape[1]).reshape(shape)
    information = entropy(counts.sum(axis=1)) + entropy(counts.sum(axis=0)) - entropy(counts)
    return Dependence(
        information=float(max(information, 0.0)),
        entropy=entropy(counts.sum(axis=0)),
        purity=float(counts.max(axis=1).sum() / counts.sum()),
        commonest=float(counts.sum(axis=0).max() / counts.sum()),
    )


def entropy(counts: np.ndarray) -> float:
    """Bits of a distribution, from the counts of a sample. Small samples look too orderly; this is corrected for."""
    seen = counts[counts > 0].astype(float)
    share = seen / seen.sum()
    return float(-(share * np.log2(share)).sum() + (len(seen) - 1) / (2 * seen.sum() * np.log(2)))
