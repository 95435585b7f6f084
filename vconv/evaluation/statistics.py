"""Means with bootstrap intervals, paired comparison of two systems, equal error rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vconv.voices.verification import equal_error_point

DRAWS = 2000
WEIGHTED_DRAWS = 500  # where each takes long
SEED = 0
_FLIPS = 10_000  # of signs at random; all of them where there are fewer


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
    return _bootstrap(np.mean, np.asarray(values, float))


def ratio(counts: Sequence[tuple[float, float]]) -> Estimate:
    """Sum of the first numbers over the sum of the second ones, as for words wrong over words."""
    return _bootstrap(lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), *np.asarray(counts, float).T)


def pooled_equal_error_rate(scores: Sequence[tuple[float, float]]) -> Estimate:
    """Equal error rate of rows, each with the score of a genuine and of an impostor trial."""
    return _bootstrap(equal_error_rate, *np.asarray(scores, float).T)


def _bootstrap(statistic: Callable[..., float], *columns: np.ndarray) -> Estimate:
    """``statistic`` of columns [n], of which the same rows are drawn."""
    from scipy import stats

    count = len(columns[0])
    value = float(statistic(*columns))
    if count < 2:
        return Estimate(value, np.nan, np.nan, count)
    found = stats.bootstrap(
        columns, statistic, paired=True, n_resamples=DRAWS, method="percentile", rng=np.random.default_rng(SEED)
    )
    return Estimate(value, *map(float, found.confidence_interval), count)


def weighted_bootstrap(
    count: int, statistic: Callable[[np.ndarray], np.ndarray], centred: bool = True
) -> list[Estimate]:
    """Intervals of values [k] that are counted over rows: ``statistic`` maps how often each row is taken [n] to them.

    What is rare goes missing in a resample, so that counts of what occurs, and entropies, come out too low there.
    ``centred`` lays the interval of the draws around their own mean around the value. A draw in which a value is
    not defined (NaN) does not count for it.
    """
    value = statistic(np.ones(count, int))
    if count < 2:
        return [Estimate(float(v), np.nan, np.nan, count) for v in value]
    rng = np.random.default_rng(SEED)
    drawn = np.array([statistic(rng.multinomial(count, np.full(count, 1 / count))) for _ in range(WEIGHTED_DRAWS)])
    low, high = np.nanpercentile(drawn, (2.5, 97.5), axis=0) + (value - np.nanmean(drawn, axis=0) if centred else 0)
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
    from scipy import stats

    differences = np.asarray(first, float) - np.asarray(second, float)
    estimate = mean(differences)
    test = stats.permutation_test(
        (differences,),
        lambda flipped, axis: np.abs(flipped.mean(axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=_FLIPS,
        rng=np.random.default_rng(SEED),
    )
    return Comparison(estimate.value, estimate.low, estimate.high, float(test.pvalue), len(differences))
