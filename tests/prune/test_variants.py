"""Every sampling with every allocation: the properties of Stage II's allocation rule."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prune.methods.allocation import allocate, quotas
from prune.methods.ordering import derived_seed, random_order

SAMPLINGS = ("nearest", "farthest", "random", "mixed")
ALLOCATIONS = ("balanced", "proportional", "sqrt")
BOTH = [(s, a) for s in SAMPLINGS for a in ALLOCATIONS]


def in_order(rows: list[int], similarity, keys: list[str], sampling: str, seed: int) -> list[int]:
    """Rows in the order in which a sampling takes them, written as its description reads."""
    if sampling == "random":
        order = random_order(pa.array(keys, pa.string()), derived_seed("cluster", seed))
        place = {int(row): n for n, row in enumerate(order)}
        return sorted(rows, key=place.__getitem__)
    sign = 1 if sampling == "farthest" else -1
    left = sorted(rows, key=lambda i: (sign * similarity[i], keys[i]))
    if sampling != "mixed":
        return left
    found = []
    while left:
        found.append(left.pop(0))
        if left:
            found.append(left.pop())
    return found


def slow_pick(cluster, similarity, keys, clusters, size, sampling, allocation, seed):
    """key -> (rank in its cluster, chosen by quota)."""
    members = [[i for i, k in enumerate(cluster) if k == c] for c in range(clusters)]
    roots = sum(math.sqrt(len(rows)) for rows in members)
    # B n_k / M: the floor, and of the rest one each by largest remainder, then size, then number.
    exact = [Fraction(size * len(rows), max(len(keys), 1)) for rows in members]
    floors = [math.floor(share) for share in exact]
    by_rest = sorted(range(clusters), key=lambda k: (floors[k] - exact[k], -len(members[k]), k))
    for k in by_rest[: size - sum(floors)]:
        floors[k] += 1
    chosen, rank = {}, {}
    for k, rows in enumerate(members):
        quota = {
            "balanced": size // clusters,
            "proportional": floors[k],
            "sqrt": math.floor(size * math.sqrt(len(rows)) / max(roots, 1)),
        }[allocation]
        order = in_order(rows, similarity, keys, sampling, seed)
        rank.update({i: place for place, i in enumerate(order)})
        chosen.update(dict.fromkeys(order[:quota], True))
    rest = [i for i in range(len(keys)) if i not in chosen]
    for i in in_order(rest, similarity, keys, sampling, seed)[: size - len(chosen)]:
        chosen[i] = False
    return {keys[i]: (rank[i], by_quota) for i, by_quota in chosen.items()}


@st.composite
def problems(draw):
    clusters = draw(st.integers(1, 7))
    count = draw(st.integers(0, 30))
    cluster = draw(st.lists(st.integers(0, clusters - 1), min_size=count, max_size=count))
    value = st.sampled_from([-1.0, -0.25, -0.0, 0.0, 0.5, 0.5000001, 1.0])
    similarity = draw(st.lists(value, min_size=count, max_size=count))
    names = st.text(alphabet="aAé/0\U0001f6f0", min_size=1, max_size=4)
    keys = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    size = draw(
        st.one_of(
            st.sampled_from([0, count, min(count, clusters - 1), min(1, count)]),
            st.integers(0, count),
        )
    )
    return cluster, np.asarray(similarity, np.float32), keys, clusters, size


def run(problem, sampling, allocation, seed=0):
    cluster, similarity, keys, clusters, size = problem
    return allocate(
        np.asarray(cluster, np.int32),
        similarity,
        pa.array(keys, pa.string()),
        clusters,
        size,
        sampling=sampling,
        allocation=allocation,
        seed=seed,
    )


def by_key(found, keys):
    return {
        keys[row]: (int(rank), bool(quota))
        for row, rank, quota in zip(found.rows, found.rank, found.by_quota, strict=True)
    }


EMPTY_CLUSTERS = ([5, 5, 5, 0], np.float32([0.5, 0.5, 0.5, 0.1]), ["c", "b", "a", "d"], 7, 4)
ONE_CLUSTER = ([0, 0, 0], np.float32([0.5, 0.5, 1]), ["c", "b", "a"], 1, 2)


@pytest.mark.parametrize(("sampling", "allocation"), BOTH)
@settings(max_examples=60, deadline=None)
@given(problem=problems(), seed=st.integers(0, 2))
@example(problem=EMPTY_CLUSTERS, seed=0)
@example(problem=ONE_CLUSTER, seed=0)
def test_allocate_is_the_rule(sampling, allocation, problem, seed):
    cluster, similarity, keys, clusters, size = problem
    found = run(problem, sampling, allocation, seed)
    assert len(found.rows) == size == len(set(found.rows.tolist()))  # exactly B, no duplicates
    expected = slow_pick(
        cluster, similarity.tolist(), keys, clusters, size, sampling, allocation, seed
    )
    assert by_key(found, keys) == expected  # order inside clusters, ties by key
    sizes = np.bincount(np.asarray(cluster, int), minlength=clusters)
    assert found.sizes.tolist() == sizes.tolist() and found.empty == (sizes == 0).sum()
    each = np.bincount(np.asarray(cluster, int)[found.rows], minlength=clusters)
    whole = sizes <= found.quotas
    assert (each[whole] == sizes[whole]).all()  # small clusters whole
    assert (each >= np.minimum(found.quotas, sizes)).all()
    assert found.quotas.sum() <= size
    if size == len(keys):
        assert sorted(found.rows) == list(range(len(keys)))  # B = N


@pytest.mark.parametrize(("sampling", "allocation"), BOTH)
@settings(max_examples=25, deadline=None)
@given(problem=problems(), shuffler=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(sampling, allocation, problem, shuffler):
    cluster, similarity, keys, clusters, size = problem
    order = list(range(len(keys)))
    shuffler.shuffle(order)
    names = [keys[i] for i in order]
    again = ([cluster[i] for i in order], similarity[order], names, clusters, size)
    assert by_key(run(problem, sampling, allocation), keys) == by_key(
        run(again, sampling, allocation), names
    )


def test_quotas_by_hand():
    sizes = np.array([100, 25, 0, 4])
    assert quotas(sizes, 34).tolist() == [8, 8, 8, 8]
    assert quotas(sizes, 34, "proportional").tolist() == [26, 7, 0, 1]  # 26.4, 6.6, 0, 1.05
    assert quotas(sizes, 34, "sqrt").tolist() == [20, 10, 0, 4]  # roots 10, 5, 0, 2
    assert quotas(np.array([0, 0]), 0, "sqrt").tolist() == [0, 0]
    # Git-10M at 85 %: N B exceeds 2^32.
    assert quotas(np.array([10_503_567, 0]), 1_575_535, "proportional").tolist() == [1_575_535, 0]


def test_samplings_by_hand():
    keys = ["a", "b", "c", "d", "e"]
    problem = ([0] * 5, np.float32([0.9, 0.7, 0.5, 0.3, 0.1]), keys, 1, 3)
    picked = {s: {keys[i] for i in run(problem, s, "balanced").rows} for s in SAMPLINGS}
    assert picked["nearest"] == {"a", "b", "c"}
    assert picked["farthest"] == {"c", "d", "e"}
    assert picked["mixed"] == {"a", "e", "b"}
    draws = {frozenset(run(problem, "random", "balanced", seed).rows) for seed in range(40)}
    assert len(draws) > 5  # of 10 possible


def test_random_inside_clusters_is_not_the_random_baseline():
    keys = [f"tile-{i}" for i in range(400)]
    problem = ([0] * 400, np.zeros(400, np.float32), keys, 1, 100)
    inside = set(run(problem, "random", "balanced").rows.tolist())
    baseline = set(random_order(pa.array(keys), 0)[:100].tolist())
    assert len(inside & baseline) < 50  # 25 expected of independent draws


def test_bad_arguments():
    problem = ([0, 2], np.float32([0.5, 0.5]), ["a", "b"], 2, 1)
    with pytest.raises(ValueError, match="clusters must be in"):
        run(problem, "nearest", "balanced")
    ok = ([0, 1], np.float32([0.5, 0.5]), ["a", "b"], 2, 3)
    with pytest.raises(ValueError, match="cannot be met"):
        run(ok, "nearest", "balanced")
    with pytest.raises(ValueError, match="none of nearest"):
        run((*ok[:4], 1), "best", "balanced")
    with pytest.raises(ValueError, match="none of balanced"):
        run((*ok[:4], 1), "nearest", "equal")
    with pytest.raises(ValueError, match="not finite"):
        run(([0], np.float32([np.nan]), ["a"], 1, 1), "farthest", "balanced")
