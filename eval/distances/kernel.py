"""Kernel distances: the unbiased squared MMD of two sets of features (Gretton et al. 2012).

    MMD^2 = 1/(n (n-1)) sum_{i != j} k(x_i, x_j) + 1/(m (m-1)) sum_{i != j} k(y_i, y_j)
            - 2/(n m) sum_{i, j} k(x_i, y_j)

Its expectation is 0 for two sets of one distribution, whatever their counts; so a value may be
negative. Two kernels are in use:

    polynomial   (x.y / d + 1)^3; KID for Inception features (Binkowski et al. 2018)
    rbf          exp(-|x - y|^2 / (2 sigma^2)), sigma = 10, times 1000; CMMD for CLIP embeddings
                 (Jayasumana et al. 2024, arXiv 2401.09603, whose code gives the biased V-statistic)

Sums run over blocks of rows, so all rows are used and no n x n matrix is held.

The interval over images comes from the variance of a U-statistic (Hoeffding 1948), both orders:

    4 Var f(x) / n + 4 Var f(y) / m + 2 v_xx / (n (n-1)) + 2 v_yy / (m (m-1)) + 4 v_xy / (n m)

with f(z) = E k(z, x) - E k(z, y) and v the variance of k without its row and column means. For two
sets of one distribution f is constant and only the v remain. The sample's f varies by
v_xx / (n-1) + v_xy / m more than the true one, which is taken off. A bootstrap keeps that excess,
and adds its own: on real features, 60 to 500 images a side, it was 1.4 to 2.0 times as wide as
the draws were spread; this is 1.0 to 1.3 times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.errors import UserError
from eval.distances.arrays import blocks, pair, squared_distances
from eval.distances.bootstrap import Interval, normal

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
SIGMA, SCALE = 10.0, 1000.0


def polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(a.b / d + 1)^3 of rows: [n, m]."""
    product = a @ b.T / a.shape[1] + 1.0
    return product * product * product


def rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1000 exp(-|a - b|^2 / 200) of rows: [n, m]."""
    return SCALE * np.exp(squared_distances(a, b) / (-2.0 * SIGMA**2))


def mmd(
    x: np.ndarray, y: np.ndarray, kernel: Kernel = polynomial, *, level: float = 0.95
) -> tuple[float, Interval]:
    """Unbiased MMD^2 of all rows, and its interval over images (see the module's top).

    Args:
        x, y: features [n >= 4, d], [m >= 4, d] (the variance needs four).
        kernel: polynomial or rbf.
        level: of the interval.
    """
    x, y = pair(x, y, least=4)
    n, m = len(x), len(y)
    (rows_x, v_xx), (rows_y, v_yy) = _within(x, kernel), _within(y, kernel)
    across, along, v_xy = _between(x, y, kernel)
    f_x, f_y = np.var(rows_x - across, ddof=1), np.var(rows_y - along, ddof=1)
    first = (
        4.0 * max(0.0, f_x - v_xx / (n - 1) - v_xy / m) / n
        + 4.0 * max(0.0, f_y - v_yy / (m - 1) - v_xy / n) / m
    )
    second = 2.0 * v_xx / (n * (n - 1)) + 2.0 * v_yy / (m * (m - 1)) + 4.0 * v_xy / (n * m)
    value = float(rows_x.mean() + rows_y.mean() - 2.0 * across.mean())
    return value, normal(value, first + second, level, "variance of a U-statistic")


def _within(x: np.ndarray, kernel: Kernel) -> tuple[np.ndarray, float]:
    """Mean of k(x_i, x_j) over the others j, [n], and the variance of k without row means."""
    n, squares, sums = len(x), 0.0, np.empty(len(x))
    for rows in blocks(n, n):
        values = kernel(x[rows], x)
        values[np.arange(len(values)), np.arange(rows.start, rows.stop)] = 0.0
        sums[rows] = values.sum(axis=1)
        squares += float((values**2).sum())
    means = sums / (n - 1)
    mean = means.mean()
    effects = (means - mean) * (n - 1) / (n - 2)
    left = squares - n * (n - 1) * mean**2 - 2.0 * (n - 2) * (effects**2).sum()
    return means, max(0.0, float(left)) / (n * (n - 3))


def _between(
    x: np.ndarray, y: np.ndarray, kernel: Kernel
) -> tuple[np.ndarray, np.ndarray, float]:
    """Means of k(x_i, y_j) over j [n] and over i [m], and the variance of k without both."""
    n, m, squares = len(x), len(y), 0.0
    across, along = np.empty(n), np.zeros(m)
    for rows in blocks(n, m):
        values = kernel(x[rows], y)
        across[rows] = values.mean(axis=1)
        along += values.sum(axis=0) / n
        squares += float((values**2).sum())
    mean = across.mean()
    left = squares - n * m * mean**2
    left -= m * ((across - mean) ** 2).sum() + n * ((along - mean) ** 2).sum()
    return across, along, max(0.0, float(left)) / ((n - 1) * (m - 1))


def kernel_distance_of_subsets(
    x: np.ndarray, y: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """KID as it is commonly reported: mean and standard deviation over random subsets.

    The same draws, and so the same numbers, as torch-fidelity's with its default seed. The
    deviation is one of subsets, no interval of the mean.

    Raises UserError when a set is not larger than a subset: each would be the whole set.
    """
    x, y = pair(x, y)
    if subset_size < 4 or min(len(x), len(y)) <= subset_size:
        raise UserError(
            f"subsets of {subset_size} from {len(x)} and {len(y)} samples: need more samples than "
            "that and at least 4; take a smaller subset_size, or `mmd`, which uses all rows"
        )
    generator = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = x[generator.choice(len(x), subset_size, replace=False)]
        b = y[generator.choice(len(y), subset_size, replace=False)]
        values.append(mmd(a, b)[0])
    return float(np.mean(values)), float(np.std(values))
