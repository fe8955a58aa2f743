"""Sliced Wasserstein distance (MIND) against a slow formula; quantiles; its interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from core.errors import UserError
from eval.distances.sliced import sliced_wasserstein


def test_equals_a_slow_formula() -> None:
    """d times the mean squared difference of sorted projections, one direction at a time."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 7)), generator.normal(0.5, 2.0, size=(40, 7))
    total = 0.0
    for u in np.random.default_rng(3).normal(size=(7, 60)).T:
        one = [sorted(float(row @ u) / float(np.linalg.norm(u)) for row in z) for z in (x, y)]
        total += sum((a - b) ** 2 for a, b in zip(*one, strict=True)) / 40
    value, _ = sliced_wasserstein(x, y, projections=60, seed=3)
    assert value == pytest.approx(7 * total / 60, rel=1e-9)


def test_unequal_counts_go_by_quantiles() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(12, 5)), generator.normal(1.0, 1.5, size=(18, 5))
    value, interval = sliced_wasserstein(x, y, projections=30)
    # 36 copies of quantiles make the counts equal and change neither distribution.
    same, _ = sliced_wasserstein(np.repeat(x, 3, axis=0), np.repeat(y, 2, axis=0), projections=30)
    assert value == pytest.approx(same, rel=1e-9)
    swapped, other = sliced_wasserstein(y, x, projections=30)
    assert swapped == pytest.approx(value, rel=1e-9)
    assert other.bounds() == pytest.approx(interval.bounds())


def test_one_dimension_against_scipy_and_a_shift_in_many() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=(50, 1))
    value, _ = sliced_wasserstein(x, x + 0.7, projections=3)
    assert value == pytest.approx(wasserstein_distance(x[:, 0], x[:, 0] + 0.7) ** 2)
    z = generator.normal(size=(200, 32))
    moved, _ = sliced_wasserstein(z, z + 0.5)
    assert moved == pytest.approx(32 * 0.25, rel=0.05)  # as a Frechet distance would be
    assert sliced_wasserstein(z, z)[0] == 0.0


def test_the_interval_is_the_jackknifes_and_covers() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(50, 6)), generator.normal(0.4, 1.3, size=(64, 6))
    value, interval = sliced_wasserstein(x, y, projections=50)

    def at(a: np.ndarray, b: np.ndarray) -> float:
        return sliced_wasserstein(a, b, projections=50)[0]

    without = [[at(np.delete(x, i, 0), y) for i in range(50)]]
    without.append([at(x, np.delete(y, i, 0)) for i in range(64)])
    half = 1.96 * sum((len(v) - 1) * np.var(v) for v in without) ** 0.5
    assert interval.high - value == pytest.approx(half, rel=0.1)
    found = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        a, b = generator.normal(size=(60, 6)), generator.normal(0.4, 1.3, size=(60, 6))
        found.append(sliced_wasserstein(a, b, projections=50))
    expected = np.mean([v for v, _ in found])
    assert np.mean([i.low <= expected <= i.high for _, i in found]) >= 0.9


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="0 projections"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 2)), projections=0)
    with pytest.raises(UserError, match="dimensions differ"):
        sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 4)))
