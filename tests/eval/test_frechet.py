"""Frechet distance against closed forms, SciPy, clean-fid, torch-fidelity and the jackknife."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from core.errors import UserError
from eval.distances.frechet import (
    Gaussian,
    fit,
    frechet,
    frechet_distance,
    frechet_extrapolated,
    frechet_interval,
)


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


def test_fit_refuses_what_would_give_nonsense() -> None:
    with pytest.raises(UserError, match="n >= 2"):
        fit(np.zeros((1, 4)))
    features = np.zeros((5, 4))
    features[3, 1] = np.nan
    with pytest.raises(UserError, match="sample 3"):
        fit(features)
    with pytest.raises(UserError, match="dimensions differ"):
        frechet_distance(random_gaussian(0, 3), random_gaussian(0, 4))


@pytest.mark.parametrize(("n", "m"), [(30, 40), (200, 50), (50, 200), (200, 240)])
def test_both_routes_agree(n: int, m: int) -> None:
    """Fewer rows than dimensions: the nuclear norm of the cross products is the same number."""
    generator = np.random.default_rng(3)
    scale = np.linspace(1.0, 2.0, 64)
    x, y = generator.normal(size=(n, 64)) * scale, generator.normal(0.2, 1.0, size=(m, 64))
    expected = frechet_distance(fit(x), fit(y))
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_interval(x, y)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [40, 150])
def test_the_reference_implementations_agree_on_features(n: int) -> None:
    """scipy's general root, clean-fid's and torch-fidelity's functions; n = 40 is singular."""
    from cleanfid.fid import frechet_distance as cleanfid_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(n, 64)), generator.normal(0.3, 1.5, size=(n + 7, 64))
    moments = [(z.mean(axis=0), np.cov(z, rowvar=False)) for z in (x, y)]
    (mu1, sigma1), (mu2, sigma2) = moments
    ours = frechet(x, y)
    root = np.trace(np.real(sqrtm(sigma1 @ sigma2)))
    by_scipy = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2) - 2 * root
    assert ours == pytest.approx(by_scipy, rel=1e-6)
    theirs = fid_statistics_to_metric(
        *({"mu": mu, "sigma": sigma} for mu, sigma in moments), verbose=False
    )
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours == pytest.approx(cleanfid_distance(mu1, sigma1, mu2, sigma2), rel=1e-6)


@pytest.mark.parametrize("n", [40, 90])
def test_influences_are_the_derivatives_by_an_images_weight(n: int) -> None:
    """The linearised variance equals the jackknife's, which leaves out one image at a time."""
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(n, 30)), generator.normal(0.5, 1.2, size=(n + 5, 30))
    value, interval = frechet_interval(x, y)
    without_x = [frechet(np.delete(x, i, axis=0), y) for i in range(len(x))]
    without_y = [frechet(x, np.delete(y, i, axis=0)) for i in range(len(y))]
    jackknife = sum((len(v) - 1) * np.var(v) for v in (without_x, without_y))
    half = 1.96 * jackknife**0.5
    assert interval.over == "images"
    assert value - interval.low == pytest.approx(half, rel=0.1)
    assert interval.high - value == pytest.approx(half, rel=0.1)


def test_intervals_cover_the_distance_at_their_counts() -> None:
    """Of 60 draws of two different distributions, at least nine tenths of 95 % intervals hold."""
    generator = np.random.default_rng(6)
    scale = np.linspace(0.3, 1.5, 24)
    found = []
    for _ in range(60):
        x, y = generator.normal(size=(80, 24)) * scale, generator.normal(0.3, 1.2, size=(80, 24))
        found.append(frechet_interval(x, y))
    expected = np.mean([value for value, _ in found])
    held = [interval.low <= expected <= interval.high for _, interval in found]
    assert np.mean(held) >= 0.9
    # Nor are they idle: about as wide as the draws are spread.
    widths = [interval.high - interval.low for _, interval in found]
    assert np.mean(widths) < 2.0 * 3.92 * np.std([value for value, _ in found])


def test_extrapolation_takes_the_bias_of_small_n_away() -> None:
    generator = np.random.default_rng(7)
    limits = []
    for _ in range(10):
        x, y = generator.normal(size=(640, 16)), generator.normal(size=(700, 16))
        limit, points = frechet_extrapolated(x, y)
        assert sorted(points) == [160, 213, 320, 640]  # equal on both sides
        assert points[640] < points[160]
        limits.append(limit)
    assert abs(np.mean(limits)) < 0.2 * points[640]
    assert frechet_extrapolated(x, y) == (limit, points)  # seeded
    far, _ = frechet_extrapolated(x, y + 1.0)
    assert far == pytest.approx(16.0, rel=0.1)
    with pytest.raises(UserError, match="n >= 8"):
        frechet_extrapolated(x[:7], y)
