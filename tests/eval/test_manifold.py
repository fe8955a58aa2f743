"""Precision, recall, density, coverage against a brute-force count."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from eval.distances.manifold import class_recall, manifolds


def brute_force(generated: np.ndarray, real: np.ndarray, kr: int, kc: int) -> list[float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True))))

    def radius(z: np.ndarray, i: int, k: int) -> float:
        return sorted(distance(z[i], z[j]) for j in range(len(z)) if j != i)[k - 1]

    inside = 0
    balls = 0
    for y in generated:
        inside += any(distance(y, x) <= radius(real, i, kr) for i, x in enumerate(real))
        balls += sum(distance(y, x) <= radius(real, i, kc) for i, x in enumerate(real))
    recalled = sum(
        any(distance(x, y) <= radius(generated, j, kr) for j, y in enumerate(generated))
        for x in real
    )
    covered = sum(
        any(distance(x, y) <= radius(real, i, kc) for y in generated) for i, x in enumerate(real)
    )
    m, n = len(generated), len(real)
    return [inside / m, recalled / n, balls / (kc * m), covered / n]


@pytest.mark.parametrize(("m", "n", "shift"), [(14, 11, 0.0), (9, 15, 0.8)])
def test_equal_a_brute_force_count(m: int, n: int, shift: float) -> None:
    generator = np.random.default_rng(m)
    generated, real = generator.normal(shift, 1.0, size=(m, 3)), generator.normal(size=(n, 3))
    found = manifolds(generated, real, k_recall=2, k_coverage=4)
    names = ("precision", "recall", "density", "coverage")
    ours = [float(np.mean(getattr(found, name))) for name in names]
    assert ours == pytest.approx(brute_force(generated, real, 2, 4))
    assert 0.0 < ours[0] <= 1.0


def test_one_distribution_reaches_the_known_values() -> None:
    generator = np.random.default_rng(0)
    found = manifolds(generator.normal(size=(600, 4)), generator.normal(size=(600, 4)))
    assert found.coverage.mean() == pytest.approx(1 - 2.0**-5, abs=0.03)
    assert found.density.mean() == pytest.approx(1.0, abs=0.1)
    apart = manifolds(generator.normal(size=(60, 4)) + 50, generator.normal(size=(60, 4)))
    assert not any(v.any() for v in (apart.precision, apart.recall, apart.density, apart.coverage))


def test_class_recall_counts_by_class() -> None:
    generator = np.random.default_rng(1)
    places = {"a": 0.0, "b": 20.0, "c": 40.0}
    labels = [name for name, count in zip(places, (30, 20, 10), strict=True) for _ in range(count)]
    real = np.array([generator.normal(places[name], 1.0, size=4) for name in labels])
    generated = np.concatenate([generator.normal(c, 1.0, size=(20, 4)) for c in (0.0, 40.0)])
    found = class_recall(generated, real, labels)
    assert list(found) == ["a", "b", "c"]
    assert found["b"] == {
        "n_real": 20, "recall": 0.0, "real_share": pytest.approx(1 / 3), "generated_share": 0.0,
    }  # fmt: skip
    assert found["a"]["recall"] > 0.6 and found["a"]["generated_share"] == 0.5
    with pytest.raises(UserError, match="2 labels for 60"):
        class_recall(generated, real, ["a", "b"])


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(UserError, match="no 5-th neighbour"):
        manifolds(np.zeros((5, 2)), np.zeros((5, 2)))
