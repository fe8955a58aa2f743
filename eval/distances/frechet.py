"""Frechet distance between two sets of features, in float64: value, interval, limit in n.

Frechet distance (Dowson and Landau 1982; FID when the features are Inception pool3):

    d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr (S_1 S_2)^(1/2)

The last trace is the sum of square roots of the eigenvalues of S_1^(1/2) S_2 S_1^(1/2), a
symmetric matrix, so no general matrix square root (and none of its complex results) is needed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from core.errors import UserError
from eval.distances.arrays import checked, pair
from eval.distances.bootstrap import Interval, linearised


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean [d], covariance [d, d] (unbiased, n - 1) in float64, and the number of samples."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int


def fit(features: np.ndarray) -> Gaussian:
    """Fit a Gaussian to features [n, d]. Raises UserError for n < 2 or non-finite values."""
    features = checked(features)
    return Gaussian(features.mean(axis=0), np.cov(features, rowvar=False, ddof=1), len(features))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance between two Gaussians; symmetric, at least 0."""
    if a.mean.shape != b.mean.shape:
        raise UserError(f"feature dimensions differ: {a.mean.shape[0]} and {b.mean.shape[0]}")
    values, vectors = np.linalg.eigh(np.atleast_2d(a.covariance))
    half = np.sqrt(_positive(values))[:, None] * vectors.T
    cross = np.linalg.eigvalsh(half @ np.atleast_2d(b.covariance) @ half.T)
    trace = np.sqrt(_positive(cross)).sum()
    spread = np.trace(np.atleast_2d(a.covariance)) + np.trace(np.atleast_2d(b.covariance))
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2) + spread - 2.0 * trace))


def _positive(eigenvalues: np.ndarray) -> np.ndarray:
    """Eigenvalues, in ascending order, without those that are 0 but for rounding.

    A singular covariance (n <= d) has many, and their roots would add up.
    """
    rounding = len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues[-1]
    return np.where(eigenvalues > rounding, eigenvalues, 0.0)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to features [n, d], [m, d]; at least 0.

    With fewer rows than dimensions no d x d matrix is needed: for centred rows X and Y the trace
    tr (S_1 S_2)^(1/2) is the nuclear norm of X Y^T / ((n - 1)(m - 1))^(1/2), an n x m matrix.
    """
    x, y = pair(x, y)
    if min(len(x), len(y)) > x.shape[1]:
        return frechet_distance(fit(x), fit(y))
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    trace = np.linalg.svd(_cross(a, b), compute_uv=False).sum()
    return max(0.0, _joined(x, y, a, b, float(trace)))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a / np.sqrt(len(a) - 1.0)) @ (b / np.sqrt(len(b) - 1.0)).T


def _joined(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, trace: float) -> float:
    """The distance from rows, centred rows and the trace of the root."""
    spread = (a**2).sum() / (len(a) - 1.0) + (b**2).sum() / (len(b) - 1.0)
    return float(np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + spread - 2.0 * trace)


def frechet_interval(
    x: np.ndarray, y: np.ndarray, *, level: float = 0.95
) -> tuple[float, Interval]:
    """The distance, and its interval over images at these very counts, bias included.

    A bootstrap is biased upwards here, is wider (on real features 2.0 to 2.4 times the spread
    over draws, this 1.5 to 1.9) and takes a decomposition a resample; so the interval is linearised
    (see bootstrap.linearised). With T the optimal map between the two Gaussians,
    T = S_1^(-1/2) (S_1^(1/2) S_2 S_1^(1/2))^(1/2) S_1^(-1/2), image x has the influence

        h(x) = 2 (mu_1 - mu_2).(x - mu_1) + |x - mu_1|^2 - (x - mu_1)^T T (x - mu_1)

    less its mean, and y the same with T^-1. One decomposition gives all of them.
    """
    x, y = pair(x, y)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    away = x.mean(axis=0) - y.mean(axis=0)
    if min(len(x), len(y)) > x.shape[1]:
        trace, moved_x, moved_y = _moved(a, b)
    else:
        left, values, right = np.linalg.svd(_cross(a, b), full_matrices=False)
        trace = float(values.sum())
        moved_x = (len(x) - 1.0) * (left**2 @ values)
        moved_y = (len(y) - 1.0) * (values @ right**2)
    value = max(0.0, _joined(x, y, a, b, trace))
    influences = (
        2.0 * (a @ away) + (a**2).sum(axis=1) - moved_x,
        -2.0 * (b @ away) + (b**2).sum(axis=1) - moved_y,
    )
    return value, linearised(value, influences, level)


def _moved(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """tr (S_1 S_2)^(1/2), and a^T T a and b^T T^-1 b of centred rows, from the covariances."""
    one, two = a.T @ a / (len(a) - 1.0), b.T @ b / (len(b) - 1.0)
    values, vectors = np.linalg.eigh(one)
    tiny = 1e-300  # of a model that makes one image only, all are 0
    root = np.sqrt(values.clip(min=max(values[-1] * 1e-12, tiny)))
    half = root[:, None] * vectors.T
    cross, turn = np.linalg.eigh(half @ two @ half.T)
    quarter = cross.clip(min=max(cross[-1] * 1e-12, tiny)) ** 0.25
    there = quarter[:, None] * (turn.T @ (vectors / root).T)
    back = (turn.T @ half) / quarter[:, None]
    trace = float(np.sqrt(cross.clip(min=0.0)).sum())
    return trace, ((a @ there.T) ** 2).sum(axis=1), ((b @ back.T) ** 2).sum(axis=1)


def frechet_extrapolated(
    x: np.ndarray, y: np.ndarray, *, parts: int = 4, seed: int = 0
) -> tuple[float, dict[int, float]]:
    """FD in the limit of infinitely many images (Chong and Forsyth 2020).

    Both sets are cut to equal counts n and into k disjoint parts, k = 1 to `parts`; the mean
    distance at n / k images a side is fitted by a line in 1/n, whose value at 1/n = 0 this is. The
    line holds where n / parts is well above d; below, the true curve bends, and what is left of
    the bias stays in. May be negative.

    Returns:
        (extrapolated distance, {images a side: mean distance}). Raises UserError for fewer than
        two images in a part.
    """
    x, y = pair(x, y, least=2 * parts)
    generator = np.random.default_rng(seed)
    count = min(len(x), len(y))
    x, y = (z[generator.permutation(len(z))[:count]] for z in (x, y))
    points = {}
    for k in range(1, parts + 1):
        size = count // k
        cuts = [slice(i * size, (i + 1) * size) for i in range(k)]
        points[size] = float(np.mean([frechet(x[cut], y[cut]) for cut in cuts]))
    _, intercept = np.polyfit([1.0 / size for size in points], list(points.values()), 1)
    return float(intercept), points
