"""Densities, axes and a calibrated score, fitted to measurements of many voices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vconv.voices.population import Calibration, Density

DIRECTIONS = 64  # of the densities, at most
AXES = 8  # of the average spectra


def fit_density(points: np.ndarray, most: int = DIRECTIONS) -> Density:
    """Probabilistic PCA of points [N, D], by its maximum likelihood (Tipping and Bishop 1999, equation 8).

    It keeps no more directions than an eighth of the points, so that each is known from several.
    """
    count, size = points.shape
    mean = points.mean(axis=0)
    _, values, basis = np.linalg.svd(points - mean, full_matrices=False)
    variances = values**2 / max(count - 1, 1)
    kept = max(1, min(most, count // 8, size - 1))
    floor = max(variances.sum() / size * 1e-3, 1e-12)
    rest = max(variances[kept:].sum() / (size - kept), floor)
    return Density(mean, basis[:kept], np.sqrt(np.maximum(variances[:kept], floor)), float(np.sqrt(rest)))


def principal_axes(rows: np.ndarray, attributes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of rows [N, V] along their first principal axes [N, P], and the axes' shares of the variance [P].

    Each is turned so that the attribute [N, A] that it goes along with most grows in it.
    """
    left, values, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    count = min(AXES, len(rows) - 1)
    places = left[:, :count] * values[:count]
    along = places.T @ ((attributes - attributes.mean(axis=0)) / (attributes.std(axis=0) + 1e-9))
    signs = np.sign(along[np.arange(count), np.abs(along).argmax(axis=1)])
    return places * np.where(signs == 0, 1, signs), values[:count] ** 2 / max(np.sum(values**2), 1e-12)


def joint_covariance(scores: np.ndarray, attributes: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Of the columns of all three: [N, K], [N, A], [N, P] -> [K + A + P, K + A + P]."""
    covariance = np.cov(np.concatenate([scores, attributes, axes], axis=1), rowvar=False)
    floor = np.full(len(covariance), 1e-9)
    floor[scores.shape[1] :] = 1e-4  # for what does not vary at all
    return covariance + np.diag(floor)


def filled_rows(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows as [N, V]; the mean of the others in place of NaN."""
    values = np.stack(rows)
    known = np.isfinite(values)
    means = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known, values, means)


def means_by_speaker(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Means over each speaker's clips: [N, V] -> [S, V]."""
    return np.stack([values[labels == label].mean(axis=0) for label in np.unique(labels)])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def calibrate(speech: np.ndarray, other: np.ndarray, penalty: float = 1.0, rounds: int = 50) -> Calibration:
    """Logistic regression of speech [N, M] against all else [N', M], as if both were as frequent.

    By Newton's method on the likelihood less ``penalty / 2`` times the squared weights.
    """
    measures = np.concatenate([speech, other])
    mean, deviation = speech.mean(axis=0), np.maximum(speech.std(axis=0), 1e-3)
    inputs = np.column_stack([np.clip((measures - mean) / deviation, -6, 6), np.ones(len(measures))])
    truth = np.r_[np.ones(len(speech)), np.zeros(len(other))]
    share = np.where(truth > 0, 0.5 / len(speech), 0.5 / len(other)) * len(measures)
    ridge = np.diag([penalty] * measures.shape[1] + [1e-6])
    weights = np.zeros(inputs.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (share * (truth - chance)) - ridge @ weights
        curve = (inputs * (share * chance * (1 - chance))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curve, slope)
        weights = weights + step
        if np.abs(step).max() < 1e-6:
            break
    return Calibration(mean, deviation, weights[:-1], float(weights[-1]))
