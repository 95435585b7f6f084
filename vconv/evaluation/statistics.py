"""Means with bootstrap intervals, paired comparison of two systems, equal error rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vconv.voices.verification import equal_error_point

DRAWS = 2000
WEIGHTED_DRAWS = 500  # where each takes long
SEED = 0
_EXACT_PAIRS = 12  # all 2^12 flips of signs are fewer than the random ones
_RANDOM_FLIPS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, from ``count`` rows; a single row has no interval (NaN)."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """How much a system's rows lie above another's on the same pairs, with the two-sided p of a sign-flip test."""

    difference: float
    low: float
    high: float
    p: float
    count: int


def mean(values: Sequence[float]) -> Estimate:
    """Mean of the rows, with the percentile bootstrap over rows."""
    rows = np.asarray(values, float)
    return bootstrap(rows, lambda drawn: drawn.mean(axis=1))


def ratio(counts: Sequence[tuple[float, float]]) -> Estimate:
    """Sum of the first numbers over the sum of the second ones, as for words wrong over words."""

    def pooled(drawn: np.ndarray) -> np.ndarray:
        sums = drawn.sum(axis=1)
        return sums[:, 0] / sums[:, 1]

    return bootstrap(np.asarray(counts, float), pooled)


def pooled_equal_error_rate(scores: Sequence[tuple[float, float]]) -> Estimate:
    """Equal error rate of rows, each with the score of a genuine and of an impostor trial."""

    def rates(drawn: np.ndarray) -> np.ndarray:
        return np.array([equal_error_rate(rows[:, 0], rows[:, 1]) for rows in drawn])

    return bootstrap(np.asarray(scores, float), rates)


def bootstrap(rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """``statistic`` of rows [n, ...], where it maps draws [d, n, ...] to values [d]."""
    count = len(rows)
    value = float(statistic(rows[None])[0])
    if count < 2:
        return Estimate(value, np.nan, np.nan, count)
    drawn = rows[np.random.default_rng(SEED).integers(0, count, (DRAWS, count))]
    low, high = np.percentile(statistic(drawn), (2.5, 97.5))
    return Estimate(value, float(low), float(high), count)


def weighted_bootstrap(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> list[Estimate]:
    """Intervals of values [k] that are counted over rows: ``statistic`` maps how often each row is taken [n] to them.

    What is rare goes missing in a resample, so that counts of what occurs, and entropies, come out too low there.
    The interval is that of the draws around their own mean, laid around the value.
    """
    value = statistic(np.ones(count))
    if count < 2:
        return [Estimate(float(v), np.nan, np.nan, count) for v in value]
    rng = np.random.default_rng(SEED)
    drawn = np.array([statistic(rng.multinomial(count, np.full(count, 1 / count))) for _ in range(WEIGHTED_DRAWS)])
    low, high = value + np.percentile(drawn - drawn.mean(axis=0), (2.5, 97.5), axis=0)
    return [Estimate(float(v), float(a), float(b), count) for v, a, b in zip(value, low, high)]


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Where as large a share of genuine trials is rejected as of impostors is accepted, higher scores being genuine.

    Between two thresholds, where the shares cross without meeting, it is the mean of the two.
    """
    return equal_error_point(genuine, impostor)[0]


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """First minus second, row by row: mean with a bootstrap interval, and whether chance explains it.

    Under the null hypothesis that the two systems are alike, the sign of every row's difference is a coin
    flip; p is the share of flips with a mean at least as far from zero. It assumes no distribution.
    """
    differences = np.asarray(first, float) - np.asarray(second, float)
    estimate = mean(differences)
    return Comparison(estimate.value, estimate.low, estimate.high, _sign_flip_p(differences), len(differences))


def _sign_flip_p(differences: np.ndarray) -> float:
    differences = differences[differences != 0]  # a tie stays a tie, however it is flipped
    count = len(differences)
    if not count:
        return 1.0
    if count <= _EXACT_PAIRS:
        flips = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        extra = 0
    else:
        flips = np.random.default_rng(SEED).choice((-1, 1), (_RANDOM_FLIPS, count))
        extra = 1  # the observed signs are one of the possible ones
    sums = np.abs(flips @ differences)
    observed = abs(differences.sum()) * (1 - 1e-12)  # rounding must not lose the observed signs themselves
    return float((np.count_nonzero(sums >= observed) + extra) / (len(flips) + extra))
