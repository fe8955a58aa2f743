"""Spherical k-means against a slow float64 implementation, and on planted clusters."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import UserError
from prune.cluster import kmeans
from prune.cluster.config import CentroidsConfig
from prune.cluster.cosine import nearest
from prune.cluster.features import Held, unit_rows
from prune.cluster.kmeans import Clustering, plus_plus, spherical_kmeans
from tests.prune.files import make_embeddings


def clustered(points, clusters, *, restarts=5, **more) -> Clustering:
    return spherical_kmeans(Held(unit_rows(points)), clusters, restarts=restarts, **more)


def planted(clusters: int, each: int, dim: int, spread: float, seed: int = 0):
    random = np.random.default_rng(seed)
    centers = np.linalg.qr(random.standard_normal((dim, dim)))[0][:clusters]
    truth = np.repeat(np.arange(clusters), each)
    points = centers[truth] + spread * random.standard_normal((clusters * each, dim))
    lengths = random.uniform(0.1, 10.0, (len(points), 1))  # directions matter, lengths do not
    return (points * lengths).astype(np.float32), truth


def naive(points: np.ndarray, start: np.ndarray, iterations: int):
    """The definition, in float64."""
    units = points.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    centroids = start.astype(np.float64)
    previous = None
    for _ in range(iterations):
        labels = (units @ centroids.T).argmax(axis=1)
        if previous is not None and (labels == previous).all():
            break
        previous = labels
        for k in range(len(centroids)):
            total = units[labels == k].sum(axis=0)
            centroids[k] = total / np.linalg.norm(total)
    scores = units @ centroids.T
    return centroids, scores.argmax(axis=1), float((1 - scores.max(axis=1)).mean())


@pytest.mark.parametrize("chunk", [64, 4096])
def test_equals_the_naive_iteration(monkeypatch, chunk):
    monkeypatch.setattr(kmeans, "CHUNK", chunk)
    points, _ = planted(12, 40, 24, 0.12)
    start = unit_rows(points)[::40][:9]  # nine starts for twelve clusters: several iterations
    found = clustered(points, 9, initial=start)
    centroids, labels, objective = naive(points, start, 100)
    assert found.converged and found.iterations > 1
    assert (found.labels == labels).all()
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-6)
    assert found.objective == pytest.approx(objective, abs=1e-6)
    assert found.sizes.tolist() == np.bincount(labels, minlength=9).tolist()


def test_the_iteration_limit_holds():
    points, _ = planted(12, 40, 24, 0.3)
    start = unit_rows(points)[:9]
    found = clustered(points, 9, initial=start, iterations=2)
    centroids, _, objective = naive(points, start, 2)
    assert found.iterations == 2 and not found.converged
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-6)
    assert found.objective == pytest.approx(objective, abs=1e-6)


def test_recovers_planted_clusters():
    points, truth = planted(20, 30, 32, 0.05)
    found = clustered(points, 20, seed=3)
    pairs = set(zip(truth.tolist(), found.labels.tolist(), strict=True))
    assert len(pairs) == 20  # each planted cluster is one found cluster
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1.0, atol=1e-6)


def test_the_best_restart_wins():
    points, _ = planted(15, 20, 16, 0.25)
    found = clustered(points, 15, restarts=6)
    assert len(found.objectives) == 6 and len(set(found.objectives)) > 1
    assert found.objective == min(found.objectives) == found.objectives[found.restart]


def test_same_seed_same_bytes_and_other_seed_other_start():
    points, _ = planted(10, 50, 16, 0.3)
    one, two = (clustered(points, 8, seed=5, restarts=2) for _ in range(2))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.objectives == two.objectives
    assert clustered(points, 8, seed=6, restarts=2).objectives != one.objectives


def test_empty_clusters_are_seeded_with_the_farthest_point():
    points, truth = planted(4, 25, 8, 0.02)
    units = unit_rows(points)
    # All four starts in the first planted cluster: most of them lose every point at once.
    found = clustered(points, 4, initial=np.repeat(units[:1], 4, axis=0))
    assert (found.sizes == 25).all()
    assert len(set(zip(truth.tolist(), found.labels.tolist(), strict=True))) == 4


def test_as_many_clusters_as_distinct_points():
    points = np.repeat(np.eye(6, dtype=np.float32), 5, axis=0)
    found = clustered(points, 6)
    assert (found.sizes == 5).all() and found.objective == pytest.approx(0.0, abs=1e-7)
    with pytest.raises(UserError, match="only 6 distinct points among the 30"):
        clustered(points, 7)


def test_points_apart_by_rounding_alone_still_give_k_centroids():
    base = np.ones((1, 64), np.float32)
    points = np.concatenate([base, base, base])
    points[1, 0] += 1e-4
    points[2, 1] += 1e-4
    assert len(clustered(points, 3, iterations=3).centroids) == 3


def test_plus_plus_draws_by_one_minus_cosine():
    # From a first row, the second is drawn ~ 1 - cos: rows at 1 - cos of 0.2, 0.6 and 1.0.
    cosines = np.array([1.0, 0.8, 0.4, 0.0])
    units = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
    seconds = np.zeros(4)
    for seed in range(6000):
        first, second = plus_plus(units, 2, np.random.default_rng(seed))
        if first == 0:
            seconds[second] += 1
    expected = seconds.sum() * np.array([0.2, 0.6, 1.0]) / 1.8
    assert seconds[0] == 0
    assert float(((seconds[1:] - expected) ** 2 / expected).sum()) < 13.8  # 99.9 %, 2 degrees


def test_plus_plus_batches_draw_like_the_sequential_rule():
    # Three tight groups: after one row of each, all weight is gone but for the groups' spread, so
    # three draws must hit three groups, although they come from one batch of proposals.
    points, truth = planted(3, 30, 8, 0.001)
    units = unit_rows(points)
    for seed in range(50):
        rows = plus_plus(units, 3, np.random.default_rng(seed))
        assert len(set(truth[rows].tolist())) == 3


def test_ties_go_to_the_lower_cluster():
    units = unit_rows(np.array([[1.0, 0.0], [0.0, 1.0]]))
    twice = np.concatenate([units, units])
    labels, similarities = nearest(units, twice)
    assert labels.tolist() == [0, 1] and similarities.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "what"), [(0.0, "is zero"), (np.nan, "is not finite"), (np.inf, "is not finite")]
)
def test_rows_without_a_direction_are_named(value, what):
    points = np.ones((5, 3), np.float32)
    points[3] = value
    with pytest.raises(UserError, match=rf"row 3 \(sea/3.jpg\).*{what}"):
        unit_rows(points, names=[f"sea/{i}.jpg" for i in range(5)])


def test_no_clusters_is_refused():
    with pytest.raises(UserError, match=r"--clusters 0: .*ask for 1"):
        clustered(np.eye(3), 0)


def greedy_slowly(units, clusters, trials, random):
    """Greedy k-means++ as its description reads, one row and one sum at a time."""
    chosen = [int(random.integers(len(units)))]
    loss = lambda row: np.maximum(0.0, 1.0 - units @ units[row]).astype(np.float64)  # noqa: E731
    weights = loss(chosen[0])
    while len(chosen) < clusters:
        drawn = random.random(trials) * weights.sum()
        rows = [int(np.searchsorted(np.cumsum(weights), value, "right")) for value in drawn]
        after = {row: np.minimum(weights, loss(row)) for row in rows}
        chosen.append(min(rows, key=lambda row: after[row].sum()))
        weights = after[chosen[-1]]
    return chosen


@pytest.mark.parametrize("trials", [2, 5])
def test_several_trials_are_greedy_k_means_plus_plus(trials):
    units = unit_rows(np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32))
    for seed in range(5):
        rows = plus_plus(units, 15, np.random.default_rng(seed), trials)
        assert rows.tolist() == greedy_slowly(units, 15, trials, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == 15


def test_trials_tighten_many_clusters_of_few_points():
    """700 points, K = 200, as of a reference set: the start decides, Lloyd's iterations do not."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(200, 32))
    points = centres[random.integers(0, 200, 700)] + 0.5 * random.normal(size=(700, 32))
    points = points.astype(np.float32)
    plain, greedy = (
        [clustered(points, 200, restarts=2, seed=seed, trials=trials).objective for seed in (0, 1)]
        for trials in (1, 7)
    )
    assert max(greedy) < 0.9 * min(plain)
    assert greedy[0] == clustered(points, 200, restarts=2, seed=0, trials=7).objective


def test_as_many_clusters_as_points_with_trials():
    points = np.repeat(np.eye(6, dtype=np.float32), 5, axis=0)
    assert (clustered(points, 6, trials=4).sizes == 5).all()


def test_the_trials_that_are_made_are_recorded(tmp_path):
    made = make_embeddings(tmp_path / "e", np.eye(4, dtype=np.float32))

    def params(**given):
        config = CentroidsConfig(embeddings=(made,), out=tmp_path / "c", **given)
        return config.stage().params

    assert params(clusters=200)["trials"] == 7 and params(clusters=3, trials=5)["trials"] == 5
    assert "trials" not in params(trials=1)  # as before there was such a setting
