"""Frechet and kernel distance against closed forms and SciPy's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from core.errors import UserError
from eval.distances.frechet import Gaussian, fit, frechet_distance, kernel_distance


def random_gaussian(seed: int, d: int) -> Gaussian:
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(d, d))
    return Gaussian(generator.normal(size=d), root @ root.T, 1000)


def test_one_dimension_closed_form() -> None:
    a, b = (
        Gaussian(np.array([1.0]), np.array([[4.0]]), 9),
        Gaussian(np.array([3.0]), np.array([[9.0]]), 9),
    )
    assert frechet_distance(a, b) == pytest.approx((1 - 3) ** 2 + (2 - 3) ** 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_agrees_with_the_matrix_square_root(seed: int, d: int) -> None:
    a, b = random_gaussian(seed, d), random_gaussian(seed + 1, d)
    root = np.real(sqrtm(a.covariance @ b.covariance))
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6 * np.trace(a.covariance))


def test_singular_covariances_stay_real_and_zero_on_themselves() -> None:
    features = np.random.default_rng(0).normal(size=(20, 64))  # n < d
    assert frechet_distance(fit(features), fit(features)) == pytest.approx(0.0, abs=1e-6)


def test_torch_fidelity_formula_on_features() -> None:
    """The same features through torchmetrics' own formula (general eigenvalues)."""
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(300, 8)), generator.normal(0.3, 1.5, size=(400, 8))
    a, b = fit(x), fit(y)
    import torch
    from torchmetrics.image.fid import _compute_fid

    theirs = _compute_fid(
        *(torch.from_numpy(v) for v in (a.mean, a.covariance, b.mean, b.covariance))
    )
    assert frechet_distance(a, b) == pytest.approx(float(theirs), rel=1e-6)


def test_fit_refuses_what_would_give_nonsense() -> None:
    with pytest.raises(UserError, match="n >= 2"):
        fit(np.zeros((1, 4)))
    features = np.zeros((5, 4))
    features[3, 1] = np.nan
    with pytest.raises(UserError, match="sample 3"):
        fit(features)
    with pytest.raises(UserError, match="dimensions differ"):
        frechet_distance(random_gaussian(0, 3), random_gaussian(0, 4))


def test_kernel_distance_is_unbiased_around_zero_and_sees_a_shift() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(600, 16)), generator.normal(size=(600, 16))
    same, spread = kernel_distance(x, y, subsets=50, subset_size=200)
    apart, _ = kernel_distance(x, y + 0.5, subsets=50, subset_size=200)
    assert abs(same) < 3 * spread / np.sqrt(50) + 0.02
    assert apart > 10 * abs(same)
    assert kernel_distance(x[:60], y[:60]) == kernel_distance(x[:60], y[:60])  # seeded
    small, _ = kernel_distance(x[:7], y[:9])  # the subset size shrinks instead of failing
    assert np.isfinite(small)
