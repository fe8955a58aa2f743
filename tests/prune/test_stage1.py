from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from prune.stage1.threshold import fraction_of, stage1, threshold


def table(entropies, keys=None, shards=None):
    n = len(entropies)
    return pa.table(
        {
            "key": keys or [f"k{i:04d}" for i in range(n)],
            "shard": shards or ["s"] * n,
            "row": pa.array(range(n), pa.int64()),
            "entropy": pa.array(entropies, pa.float64()),
        }
    )


def test_share_is_exact_where_floats_are_not():
    assert int(0.29 * 100) == 28  # the trap
    assert fraction_of(100, 0.29) == 29
    assert fraction_of(100, "0.29") == 29
    assert fraction_of(7, Fraction(1, 3)) == 2
    assert fraction_of(10_503_567, 0.15) == 1_575_535  # the paper's budget at 85 %


@given(st.integers(0, 10**7), st.integers(0, 10_000))
def test_share_equals_integer_arithmetic(n, per_10k):
    assert fraction_of(n, per_10k / 10_000) == n * per_10k // 10_000


@pytest.mark.parametrize("bad", [-0.1, 1.01, "many", float("nan"), float("inf")])
def test_share_refuses(bad):
    with pytest.raises(UserError):
        fraction_of(10, bad)


def test_keeps_the_highest_and_breaks_ties_by_key():
    pool = table([5.0, 7.0, 7.0, 7.0, 1.0], keys=["e", "d", "c", "b", "a"])
    kept = stage1(pool, 0.4)
    assert set(kept["key"].to_pylist()) == {"b", "c"}
    assert threshold(kept) == 7.0


def test_order_of_the_pool_does_not_matter_and_output_is_by_shard_and_row():
    rng = np.random.default_rng(0)
    pool = table(rng.integers(0, 20, 300) / 4, shards=[f"s{i}" for i in rng.integers(0, 3, 300)])
    kept = stage1(pool, 0.3)
    assert kept.num_rows == 90
    assert kept.equals(stage1(pool.take(rng.permutation(300)), 0.3))
    places = list(zip(kept["shard"].to_pylist(), kept["row"].to_pylist(), strict=True))
    assert places == sorted(places)
    ranked = sorted(pool.to_pylist(), key=lambda r: (-r["entropy"], r["key"]))[:90]
    assert {r["key"] for r in ranked} == set(kept["key"].to_pylist())


def test_refuses_what_has_no_answer():
    with pytest.raises(UserError, match="empty"):
        stage1(table([]), 0.3)
    with pytest.raises(UserError, match="keeps none"):
        stage1(table([1.0, 2.0]), 0.3)
    with pytest.raises(UserError, match="without an entropy"):
        stage1(table([1.0, None, 3.0]), 0.5)
    with pytest.raises(UserError, match="without an entropy"):
        stage1(table([1.0, float("nan"), 3.0]), 0.5)
