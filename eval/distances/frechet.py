"""Frechet distance and kernel distance between two sets of features, in float64.

Frechet distance (Dowson and Landau 1982; FID when the features are Inception pool3):

    d^2 = |mu_1 - mu_2|^2 + tr(S_1) + tr(S_2) - 2 tr (S_1 S_2)^(1/2)

The last trace is the sum of square roots of the eigenvalues of S_1^(1/2) S_2 S_1^(1/2), a
symmetric matrix, so no general matrix square root (and none of its complex results) is needed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean [d], covariance [d, d] (unbiased, n - 1) in float64, and the number of samples."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int


def fit(features: np.ndarray) -> Gaussian:
    """Fit a Gaussian to features [n, d]. Raises UserError for n < 2 or non-finite values."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"features of shape {features.shape}: need [n >= 2, d]")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise UserError(f"features of sample {bad[0]} are not finite ({len(bad)} such samples)")
    return Gaussian(features.mean(axis=0), np.cov(features, rowvar=False, ddof=1), len(features))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance between two Gaussians; symmetric, at least 0."""
    if a.mean.shape != b.mean.shape:
        raise UserError(f"feature dimensions differ: {a.mean.shape[0]} and {b.mean.shape[0]}")
    values, vectors = np.linalg.eigh(np.atleast_2d(a.covariance))
    # Rounding makes the zero eigenvalues of a singular covariance (n <= d) slightly negative.
    half = np.sqrt(values.clip(min=0.0))[:, None] * vectors.T
    cross = np.linalg.eigvalsh(half @ np.atleast_2d(b.covariance) @ half.T)
    trace = np.sqrt(cross.clip(min=0.0)).sum()
    spread = np.trace(np.atleast_2d(a.covariance)) + np.trace(np.atleast_2d(b.covariance))
    return max(0.0, float(np.sum((a.mean - b.mean) ** 2) + spread - 2.0 * trace))


def kernel_distance(
    x: np.ndarray, y: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance (KID for Inception features; Binkowski et al. 2018): mean and std.

    Unbiased MMD^2 with the kernel (x.y / d + 1)^3 over random subsets; unlike the Frechet
    distance its expectation does not depend on the number of samples. The subset size shrinks
    to the smaller set.

    Args:
        x, y: features [n, d], [m, d].
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    size = min(subset_size, len(x), len(y))
    if size < 2:
        raise UserError(f"kernel distance needs two samples on each side, got {len(x)}, {len(y)}")
    generator = np.random.default_rng(seed)
    dimension = x.shape[1]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / dimension + 1.0) ** 3

    values = []
    for _ in range(subsets):
        a = x[generator.choice(len(x), size, replace=False)]
        b = y[generator.choice(len(y), size, replace=False)]
        aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
        within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (size * (size - 1))
        values.append(within - 2.0 * ab.mean())
    return float(np.mean(values)), float(np.std(values))
