"""What is known of voices in general: a small file in the model folder, fitted once by `vconv speakers fit`.

It belongs to the weights that it was fitted for, because every set of weights has embeddings of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from vconv.config import MAX_CODE_VALUES
from vconv.errors import InputError
from vconv.model_folder import POPULATION, read_identity
from vconv.untrusted import check_finite, load_arrays
from vconv.voice import MAX_CHANNELS, save_arrays

FORMAT = 1
ATTRIBUTES = ("log_f0", "log_f0_spread", "brightness")  # of a speaker, beside the embedding
HIGHER, BRIGHTER = 0, 2  # places among them
MAX_SPEAKERS = 4096  # in a file
_STEPS = 127  # of an embedding's largest value, to which the speakers' embeddings are rounded


@dataclass(frozen=True)
class Density:
    """A Gaussian with K directions of its own and one variance for all the others.

    It is that of probabilistic PCA (Tipping and Bishop 1999, equations 6 and 12): covariance
    ``basis.T @ diag(deviations**2) @ basis`` within the span of ``basis``, ``rest**2`` outside of it.
    """

    mean: np.ndarray  # [D]
    basis: np.ndarray  # [K, D], orthonormal
    deviations: np.ndarray  # [K], standard, falling
    rest: float  # standard deviation in each other direction

    def scores(self, points: np.ndarray) -> np.ndarray:
        """Coordinates along the basis: [..., D] -> [..., K]."""
        return (points - self.mean) @ self.basis.T

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Natural logarithm of the density at [..., D], a D-th of it: nepers a dimension, [...]."""
        size, count = len(self.mean), len(self.basis)
        scores = self.scores(points)
        outside = np.maximum(np.square(points - self.mean).sum(axis=-1) - np.square(scores).sum(axis=-1), 0.0)
        distance = np.square(scores / self.deviations).sum(axis=-1) + outside / self.rest**2
        volume = 2 * np.log(self.deviations).sum() + 2 * (size - count) * np.log(self.rest)
        return -0.5 * (distance + volume + size * np.log(2 * np.pi)) / size


@dataclass(frozen=True)
class Scoring:
    """Similarity of two embeddings: the cosine of their differences from the training speakers' mean, -1 to 1.

    Whitening by what differs within a speaker (WCCN, LDA) made no difference on unseen speakers: the speaker head
    that the encoder is trained with spreads voices almost evenly over all directions already.
    """

    centre: np.ndarray  # [E]

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """Embeddings [..., E] -> unit vectors [..., E], whose products are the scores."""
        out = embeddings - self.centre
        return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Verification:
    """The threshold and the equal error rate, measured on speakers outside the training data."""

    threshold: float  # of the score, at the equal error rate
    error: float  # share of both there
    speakers: int
    clips: int


@dataclass(frozen=True)
class Calibration:
    """Logistic regression on M measures: the score of a clip for `vconv check`."""

    mean: np.ndarray  # [M], what the measures are centred on ...
    deviation: np.ndarray  # [M], and divided by
    weights: np.ndarray  # [M]
    bias: float

    def score(self, measures: np.ndarray) -> float:
        """Between 0 and 1, of measures [M]."""
        # Clipped: one measure outside of the training data must not outvote all the others.
        scaled = np.clip((measures - self.mean) / self.deviation, -6.0, 6.0)
        return float(1 / (1 + np.exp(-(scaled @ self.weights + self.bias))))


@dataclass(frozen=True)
class Population:
    """Densities of voices and of clips, who was seen, how voices are compared and clips are checked."""

    model: str  # ``read_identity`` of its folder
    voices: Density  # of speakers
    clips: Density  # of clips, which differ within a speaker too
    attribute_mean: np.ndarray  # [A], of ATTRIBUTES
    joint: np.ndarray  # [K + A + P, K + A + P], covariance of scores in ``voices``, attributes, and axes
    axis_shares: np.ndarray  # [P], of the variance of average spectra that each of their principal axes has
    speakers: np.ndarray  # [N, E], unit embeddings of training speakers
    apart: float  # median, over these speakers, of the score with whoever is most alike
    code_bits: np.ndarray | None  # [G, K], -log2 of how often speech has a code, where the model has codes
    scoring: Scoring
    verification: Verification
    check: Calibration

    @cached_property
    def attribute_deviation(self) -> np.ndarray:
        """Standard deviations of the attributes, [A]."""
        return np.sqrt(np.diag(self.joint)[self._attributes])

    @cached_property
    def correlations(self) -> np.ndarray:
        """Of each axis with each attribute, [P, A]."""
        axes = np.sqrt(np.diag(self.joint)[self._axes])
        return self.joint[self._axes, self._attributes] / (axes[:, None] * self.attribute_deviation)

    @cached_property
    def slopes(self) -> np.ndarray:
        """What an embedding changes by, with one standard deviation more of an attribute and the others kept: [A, E].

        The conditional mean of the joint Gaussian, E[x | y] = mean_x + C_xy C_yy^-1 (y - mean_y).
        """
        among, across = self.joint[self._attributes, self._attributes], self.joint[self._attributes, : self._scores]
        return self.attribute_deviation[:, None] * np.linalg.solve(among, across) @ self.voices.basis

    @cached_property
    def axis_slopes(self) -> np.ndarray:
        """The same for the axes, each alone, as they do not go along with one another: [P, E]."""
        deviations = np.sqrt(np.diag(self.joint)[self._axes])
        return self.joint[self._axes, : self._scores] / deviations[:, None] @ self.voices.basis

    @property
    def _scores(self) -> int:
        return len(self.voices.basis)

    @property
    def _attributes(self) -> slice:
        """Of the rows of ``joint``."""
        return slice(self._scores, self._scores + len(ATTRIBUTES))

    @property
    def _axes(self) -> slice:
        return slice(self._scores + len(ATTRIBUTES), None)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random unit embedding [E] and the attributes [A] that go with it."""
        count = self._scores
        covariance = self.joint[: self._attributes.stop, : self._attributes.stop]
        both = rng.multivariate_normal(np.zeros(len(covariance)), covariance, method="cholesky")
        free = self.voices.rest * rng.standard_normal(len(self.voices.mean))
        free -= free @ self.voices.basis.T @ self.voices.basis
        embedding = self.voices.mean + both[:count] @ self.voices.basis + free
        limits = 2.5 * self.attribute_deviation
        return embedding / np.linalg.norm(embedding), self.attribute_mean + np.clip(both[count:], -limits, limits)

    # ------------------------------------------------------------ the file

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: the folder is missing or not writable, or without ``overwrite`` the file exists.
        """
        arrays: dict[str, np.ndarray] = {"format": np.int64(FORMAT), "model": np.str_(self.model)}
        arrays |= {"attribute_mean": self.attribute_mean, "axis_shares": self.axis_shares}
        arrays |= {"joint": self.joint.astype(np.float32), "apart": np.float64(self.apart)}
        arrays["speakers"] = _rounded(self.speakers)
        if self.code_bits is not None:
            arrays["code_bits"] = self.code_bits.astype(np.float16)
        for name, kind in _PARTS.items():
            for field in fields(kind):
                value = np.asarray(getattr(getattr(self, name), field.name))
                arrays[f"{name}.{field.name}"] = value.astype(np.float16) if value.ndim == 2 else value
        save_arrays(path, overwrite, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Population:
        """Read what ``save`` wrote; for any weights.

        Raises:
            InputError: the file holds no population.
        """
        remedy = _remedy(Path(path).parent)
        arrays = load_arrays(path, _largest(), "population of voices", remedy)
        check_finite(str(path), arrays)
        try:
            if int(arrays["format"]) != FORMAT:
                raise ValueError
            parts = {name: _part(kind, name, arrays) for name, kind in _PARTS.items()}
            speakers = arrays["speakers"].astype(np.float64)
            lengths = np.linalg.norm(speakers, axis=1, keepdims=True)
            if not lengths.all():
                raise ValueError
            population = cls(
                model=str(arrays["model"]),
                attribute_mean=arrays["attribute_mean"],
                joint=arrays["joint"].astype(np.float64),
                axis_shares=arrays["axis_shares"],
                speakers=speakers / lengths,
                apart=float(arrays["apart"]),
                code_bits=arrays["code_bits"].astype(np.float64) if "code_bits" in arrays else None,
                **parts,
            )
            population._check()
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: holds no population of voices; {remedy}") from error
        return population

    def _check(self) -> None:
        """Raise ValueError where the arrays do not fit together or a scale is not positive."""
        size = self.speakers.shape[1]
        count = len(self.voices.basis) + len(ATTRIBUTES) + len(self.axis_shares)
        shapes = [
            (self.joint, (count, count)),
            (self.scoring.centre, (size,)),
            (self.attribute_mean, (len(ATTRIBUTES),)),
        ]
        scales = [np.diag(self.joint), self.check.deviation]
        for density in (self.voices, self.clips):
            shapes += [(density.mean, (size,)), (density.basis, (len(density.deviations), size))]
            scales += [density.deviations, np.array(density.rest)]
        shapes += [(part, self.check.mean.shape) for part in (self.check.deviation, self.check.weights)]
        if any(array.shape != shape for array, shape in shapes) or not all((scale > 0).all() for scale in scales):
            raise ValueError
        np.linalg.cholesky(self.joint[: self._attributes.stop, : self._attributes.stop])


_PARTS = {"voices": Density, "clips": Density, "scoring": Scoring, "verification": Verification, "check": Calibration}


def _largest() -> dict[str, tuple[int, ...]]:
    """The largest shape of each array in a file."""
    size, scores = MAX_CHANNELS, 2 * MAX_CHANNELS
    own = {"format": (), "model": (), "apart": (), "attribute_mean": (len(ATTRIBUTES),), "axis_shares": (size,)}
    own |= {"joint": (scores, scores), "speakers": (MAX_SPEAKERS, size), "code_bits": (64, MAX_CODE_VALUES + 1)}
    axes = {"basis": (size, size), "rest": (), "threshold": (), "error": (), "speakers": (), "clips": (), "bias": ()}
    for name, kind in _PARTS.items():
        own |= {f"{name}.{field.name}": axes.get(field.name, (size,)) for field in fields(kind)}
    return own


def _part(kind: type, name: str, arrays: Mapping[str, np.ndarray]) -> object:
    values = {field.name: arrays[f"{name}.{field.name}"] for field in fields(kind)}
    return kind(**{key: value.astype(np.float64) if value.ndim else value.item() for key, value in values.items()})


def _rounded(embeddings: np.ndarray) -> np.ndarray:
    """Rows of any length in 8 bits: the direction is what counts."""
    return np.round(embeddings / np.abs(embeddings).max(axis=1, keepdims=True) * _STEPS).astype(np.int8)


def _remedy(folder: Path) -> str:
    return f"make it with: vconv speakers fit MANIFEST --model {folder}"


def population_of(folder: Path) -> Population:
    """The population of a model folder.

    Raises:
        InputError: there is none, or it was fitted for other weights.
    """
    path = folder / POPULATION
    if not path.is_file():
        raise InputError(f"{path}: this model has no population of voices; {_remedy(folder)}")
    population = Population.load(path)
    if population.model != read_identity(folder):
        raise InputError(f"{path}: was fitted for other weights than this model has; {_remedy(folder)}")
    return population


def people_of(folder: Path) -> np.ndarray | None:
    """Embeddings [N, E] of the speakers in a model folder's population; None where it has none of its own."""
    try:
        return population_of(folder).speakers
    except InputError:
        return None
