"""Sliced Wasserstein distance of two sets of features (MIND, arXiv 2605.06797, for Inception's).

    d * mean over directions u of W_2^2(x.u, y.u),   u uniform on the unit sphere of R^d

where W_2^2 of two sets of numbers is the integral over t in (0, 1) of the squared difference of
their quantile functions: the mean squared difference of the sorted numbers where the counts are
equal. The factor d makes it comparable with a Frechet distance: two sets that differ by a shift
alone have |mu_1 - mu_2|^2 in expectation. No covariance is estimated; still, like every
Wasserstein distance of samples, it is biased upwards at small n.
"""

from __future__ import annotations

import numpy as np

from core.errors import UserError
from eval.distances.arrays import pair
from eval.distances.bootstrap import Interval, linearised

PROJECTIONS = 1000
GROUP = 100
"""Directions at a time."""


def sliced_wasserstein(
    x: np.ndarray,
    y: np.ndarray,
    *,
    projections: int = PROJECTIONS,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, Interval]:
    """d times the mean squared W_2 over random directions, and its interval over images.

    The interval is linearised (see bootstrap.linearised), at these very counts and for
    these directions: the influence of an image is its Kantorovich potential, which in one
    dimension has the slope 2 (x - T(x)) with T the monotone map to the other set.

    Args:
        x, y: features [n, d], [m, d].
        projections: directions, drawn by `seed`.
        level: of the interval.
    """
    x, y = pair(x, y)
    if projections < 1:
        raise UserError(f"{projections} projections: take at least one")
    n, m, d = len(x), len(y), x.shape[1]
    generator = np.random.default_rng(seed)
    # Quantile functions are constant between these steps; the middle of each gives its ranks.
    steps = np.union1d(np.arange(n + 1) / n, np.arange(m + 1) / m)
    middle, mass = (steps[1:] + steps[:-1]) / 2.0, np.diff(steps)[:, None]
    rank_x, rank_y = (middle * n).astype(np.intp), (middle * m).astype(np.intp)
    # Where the steps of each rank begin; several steps share it when the counts differ.
    first_x = np.searchsorted(rank_x, np.arange(n))
    first_y = np.searchsorted(rank_y, np.arange(m))
    total, potentials = 0.0, (np.zeros(n), np.zeros(m))
    for start in range(0, projections, GROUP):
        directions = generator.normal(size=(d, min(GROUP, projections - start)))
        directions /= np.linalg.norm(directions, axis=0)
        a, b = x @ directions, y @ directions
        orders = a.argsort(axis=0, kind="stable"), b.argsort(axis=0, kind="stable")
        a, b = (np.take_along_axis(z, o, axis=0) for z, o in zip((a, b), orders, strict=True))
        apart = (a[rank_x] - b[rank_y]) * mass
        total += float((apart * (a[rank_x] - b[rank_y])).sum())
        slopes = (
            2.0 * n * np.add.reduceat(apart, first_x, axis=0),
            -2.0 * m * np.add.reduceat(apart, first_y, axis=0),
        )
        for sum_, place, slope, order in zip(potentials, (a, b), slopes, orders, strict=True):
            potential = np.zeros_like(place)
            between = (slope[1:] + slope[:-1]) / 2.0 * np.diff(place, axis=0)
            np.cumsum(between, axis=0, out=potential[1:])
            potential -= potential.mean(axis=0)
            back = np.empty_like(potential)
            np.put_along_axis(back, order, potential, axis=0)
            sum_ += back.sum(axis=1)
    scale = d / projections
    value = scale * total
    return value, linearised(value, [scale * h for h in potentials], level)
