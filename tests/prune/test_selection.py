"""The allocation rule (Eq. 6) against a slow, obvious implementation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from prune.methods.allocation import allocate, budget
from prune.methods.ordering import by_value, random_order


def slow_balanced(
    cluster: list[int], similarity: list[float], keys: list[str], clusters: int, size: int
) -> dict[str, tuple[int, bool]]:
    """key -> (rank in its cluster, chosen by quota), written as the paper's text reads."""
    quota = size // clusters
    members: dict[int, list[int]] = {k: [] for k in range(clusters)}
    for i, k in enumerate(cluster):
        members[k].append(i)
    rank = {}
    chosen = {}
    for rows in members.values():
        rows.sort(key=lambda i: (-similarity[i], keys[i]))
        rank.update({i: place for place, i in enumerate(rows)})
        chosen.update(dict.fromkeys(rows[: min(quota, len(rows))], True))
    rest = [i for i in range(len(keys)) if i not in chosen]
    rest.sort(key=lambda i: (-similarity[i], keys[i]))
    for i in rest[: size - len(chosen)]:
        chosen[i] = False
    return {keys[i]: (rank[i], by_quota) for i, by_quota in chosen.items()}


@st.composite
def problems(draw):
    clusters = draw(st.integers(1, 7))
    count = draw(st.integers(0, 40))
    cluster = draw(st.lists(st.integers(0, clusters - 1), min_size=count, max_size=count))
    # Few values, so that ties, negative numbers and both zeros are common.
    value = st.sampled_from([-1.0, -0.25, -0.0, 0.0, 0.5, 0.5000001, 1.0])
    similarity = draw(st.lists(value, min_size=count, max_size=count))
    names = st.text(alphabet="aAé/0\U0001f6f0", min_size=1, max_size=4)
    keys = draw(st.lists(names, min_size=count, max_size=count, unique=True))
    size = draw(st.sampled_from([0, count, min(count, clusters - 1), count // 2]))
    return cluster, np.asarray(similarity, np.float32), keys, clusters, size


@settings(max_examples=300, deadline=None)
@given(problems())
def test_balanced_is_the_papers_rule(problem):
    cluster, similarity, keys, clusters, size = problem
    found = allocate(
        np.asarray(cluster, np.int32), similarity, pa.array(keys, pa.string()), clusters, size
    )
    assert len(found.rows) == size == len(set(found.rows.tolist()))
    got = {
        keys[row]: (int(rank), bool(by_quota))
        for row, rank, by_quota in zip(found.rows, found.rank, found.by_quota, strict=True)
    }
    assert got == slow_balanced(cluster, similarity.tolist(), keys, clusters, size)
    sizes = np.bincount(cluster, minlength=clusters)
    assert found.sizes.tolist() == sizes.tolist()
    per_cluster = np.bincount(np.asarray(cluster, int)[found.rows], minlength=clusters)
    assert (per_cluster >= np.minimum(size // clusters, sizes)).all()  # small clusters whole
    assert found.empty == (sizes == 0).sum()
    assert found.small == (sizes < size // clusters).sum()


@settings(max_examples=50, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_balanced_does_not_depend_on_row_order(problem, shuffler):
    cluster, similarity, keys, clusters, size = problem
    order = list(range(len(keys)))
    shuffler.shuffle(order)

    def run(rows: list[int]) -> set[tuple[str, int, bool]]:
        names = pa.chunked_array([pa.array([keys[i] for i in rows], pa.string())])
        found = allocate(
            np.asarray(cluster, np.int32)[rows], similarity[rows], names, clusters, size
        )
        return {
            (names[int(r)].as_py(), int(k), bool(q))
            for r, k, q in zip(found.rows, found.rank, found.by_quota, strict=True)
        }

    assert run(order) == run(list(range(len(keys))))


def test_the_papers_own_numbers():
    # Git-10M at 85 %: 10,503,567 images, B = 1,575,535 and, with K = 200, q = 7,877.
    assert budget(10_503_567, 0.85) == 1_575_535
    assert budget(10_503_567, 0.85) // 200 == 7_877


@pytest.mark.parametrize(
    ("total", "ratio", "expected"),
    # Each of these is one off when computed in binary floats.
    [(100, 0.9, 10), (10, 0.7, 3), (3000, 0.85, 450), (1000, "0.9", 100), (7, 0, 7), (1, 0.5, 0)],
)
def test_budget_is_exact(total, ratio, expected):
    assert budget(total, ratio) == expected


@pytest.mark.parametrize("ratio", [1.0, 1.5, -0.1, "much", float("nan"), float("inf")])
def test_budget_refuses(ratio):
    with pytest.raises(UserError, match="--ratio"):
        budget(10, ratio)


def test_bad_candidates_are_refused():
    keys = pa.array(["a", "b"])
    cosine = np.array([0.5, 0.5], np.float32)
    with pytest.raises(ValueError, match="cannot be met"):
        allocate(np.array([0, 0], np.int32), cosine, keys, 1, 3)
    with pytest.raises(ValueError, match="clusters must be in"):
        allocate(np.array([0, 2], np.int32), cosine, keys, 2, 1)
    with pytest.raises(ValueError, match="row 1 is not finite"):
        by_value(np.array([0.5, np.nan], np.float32), keys)
    with pytest.raises(ValueError, match="row 0 is not finite"):
        by_value(np.array([np.inf, 0.0]), keys)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30))
def test_by_value_sorts_all_floats(values):
    keys = pa.array([f"{i:02d}" for i in range(len(values))])
    order = by_value(np.asarray(values, np.float32), keys)
    assert order.tolist() == sorted(range(len(values)), key=lambda i: (-values[i], i))


def test_random_order_depends_on_the_set_of_keys_and_the_seed_alone():
    keys = [f"tile-{i}" for i in range(500)]
    one = [keys[i] for i in random_order(pa.array(keys), 0)]
    back = keys[::-1]
    assert one == [back[i] for i in random_order(pa.array(back), 0)]
    assert one != [keys[i] for i in random_order(pa.array(keys), 1)]
    # Without half the keys, the others keep their order.
    half = keys[::2]
    assert [k for k in one if k in set(half)] == [half[i] for i in random_order(pa.array(half), 0)]


def test_random_order_is_uniform():
    keys = pa.array([f"{i}" for i in range(20)])
    firsts = np.zeros(20)
    for seed in range(2000):
        firsts[random_order(keys, seed)[:5]] += 1
    expected = 2000 * 5 / 20
    chi_square = float(((firsts - expected) ** 2 / expected).sum())
    assert chi_square < 43.8  # 99.9 % of chi-square with 19 degrees of freedom
