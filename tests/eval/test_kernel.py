"""Kernel distances against torch-fidelity and against sums written out; their intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from core.errors import UserError
from eval.distances import arrays
from eval.distances.kernel import kernel_distance_of_subsets, mmd, polynomial, rbf


def two_sets(
    seed: int, n: int, m: int, d: int, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)), generator.normal(shift, 1.0, size=(m, d))


def test_equals_torch_fidelitys_polynomial_mmd() -> None:
    from torch_fidelity.metric_kid import kernel_mmd

    x, y = two_sets(0, 60, 60, 12, 0.4)
    theirs = kernel_mmd(
        x, y, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1.0,
    )  # fmt: skip
    assert mmd(x, y, polynomial)[0] == pytest.approx(theirs, rel=1e-9)


def test_subsets_give_torch_fidelitys_numbers() -> None:
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = two_sets(1, 120, 90, 12, 0.4)
    theirs = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=7, kid_subset_size=50, verbose=False
    )
    mean, deviation = kernel_distance_of_subsets(x, y, subsets=7, subset_size=50)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6)


def test_subsets_that_are_the_whole_set_are_refused() -> None:
    x, y = two_sets(1, 50, 60, 4)
    with pytest.raises(UserError, match="need more samples"):
        kernel_distance_of_subsets(x, y, subset_size=50)


def slow_mmd(x: np.ndarray, y: np.ndarray, kernel) -> float:  # type: ignore[no-untyped-def]
    within = [
        np.mean([kernel(z[i], z[j]) for i, j in itertools.permutations(range(len(z)), 2)])
        for z in (x, y)
    ]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def test_equal_the_sums_written_out() -> None:
    """CMMD is the unbiased estimate: no pair of an image with itself."""
    x, y = two_sets(2, 9, 13, 6, 0.5)
    x, y = 3 * x, 3 * y
    cmmd = slow_mmd(x, y, lambda a, b: 1000 * np.exp(-np.sum((a - b) ** 2) / (2 * 10**2)))
    assert mmd(x, y, rbf)[0] == pytest.approx(cmmd, rel=1e-9)
    cubic = slow_mmd(x, y, lambda a, b: (a @ b / 6 + 1) ** 3)
    assert mmd(x, y, polynomial)[0] == pytest.approx(cubic, rel=1e-9)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = two_sets(3, 41, 30, 5, 0.2)
    whole = mmd(x, y)
    monkeypatch.setattr(arrays, "BLOCK", 200)
    parts = mmd(x, y)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    assert parts[1].bounds() == pytest.approx(whole[1].bounds())


def test_the_variance_is_that_of_the_draws() -> None:
    """Also where both sets are of one distribution, and the first order of the variance is 0."""
    for shift in (0.0, 0.3):
        found = [mmd(*two_sets(seed, 40, 60, 8, shift)) for seed in range(300)]
        spread = np.std([value for value, _ in found])
        stated = [(interval.high - interval.low) / 3.92 for _, interval in found]
        assert np.mean(stated) == pytest.approx(spread, rel=0.15)


def test_the_value_does_not_depend_on_the_count_and_the_interval_narrows() -> None:
    values = {}
    for n in (40, 400):
        found = [mmd(*two_sets(seed, n, n, 16)) for seed in range(12)]
        values[n] = np.mean([value for value, _ in found])
        widths = [interval.high - interval.low for _, interval in found]
        assert min(widths) > 1e-4  # subsets that were the whole set had a spread of 2e-16
        values[-n] = np.mean(widths)
    assert abs(values[40]) < values[-40] / 4 and abs(values[400]) < values[-400] / 4
    assert values[-400] < values[-40] / 2


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_intervals_cover(shift: float) -> None:
    """At least nine tenths of 95 % intervals hold the value that very many images have."""
    truth = mmd(*two_sets(999, 3000, 3000, 8, shift))[0] if shift else 0.0
    held = []
    for seed in range(60):
        _, interval = mmd(*two_sets(seed, 60, 60, 8, shift))
        assert interval.over == "images"
        held.append(interval.low <= truth <= interval.high)
    assert np.mean(held) >= 0.9


def test_bad_input_is_refused() -> None:
    x, y = two_sets(5, 5, 5, 3)
    with pytest.raises(UserError, match="n >= 4"):
        mmd(x[:3], y)
    with pytest.raises(UserError, match="dimensions differ: 3 and 2"):
        mmd(x, y[:, :2])
    y[2, 1] = np.inf
    with pytest.raises(UserError, match="sample 2 are not finite"):
        mmd(x, y)
