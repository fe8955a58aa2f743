"""The fast forms of the selection's steps against slow, obvious definitions of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.hashing import hash_keys
from data.formats import join
from data.formats.index import by_place, place_order
from data.formats.tables import read_part, read_parts, write_part
from prune.methods.base import Request, assigned
from prune.methods.ordering import by_value, random_order
from prune.stage1.threshold import fraction_of, stage1

NAMES = st.text(alphabet="aAé/0\U0001f6f0", min_size=1, max_size=4)
VALUES = st.sampled_from([0.0, -0.0, 0.25, 5.0, 5.000000000001, 7.0, 8.0])


def slow_stage1(pool: pa.Table, keep: float) -> pa.Table:
    """Sort everything, take the first, sort those again."""
    order = pc.sort_indices(pool, sort_keys=[("entropy", "descending"), ("key", "ascending")])
    kept = pool.take(order[: fraction_of(pool.num_rows, keep)])
    return kept.sort_by([("shard", "ascending"), ("row", "ascending")])


@st.composite
def pools(draw):
    keys = draw(st.lists(NAMES, min_size=1, max_size=40, unique=True))
    count = len(keys)
    few = st.sampled_from(["b", "a", "é", "a0", ""])
    places = draw(
        st.lists(st.tuples(few, st.integers(0, 99)), min_size=count, max_size=count, unique=True)
    )
    return pa.table(
        {
            "key": keys,
            "shard": [shard for shard, _ in places],
            "row": pa.array([row for _, row in places], pa.int64()),
            "entropy": draw(st.lists(VALUES, min_size=count, max_size=count)),
        }
    )


def encoded(table: pa.Table) -> pa.Table:
    """The table with its shards dictionary-encoded, in chunks with dictionaries of their own."""
    shards = [table["shard"][i : i + 3].combine_chunks() for i in range(0, table.num_rows, 3)]
    column = pa.chunked_array([chunk.dictionary_encode() for chunk in shards])
    return table.set_column(1, "shard", column)


@settings(max_examples=200, deadline=None)
@given(pools(), st.sampled_from([0.1, 0.3, 0.5, 0.99, 1.0]))
def test_stage1_is_the_sorted_tables_head(pool, keep):
    if fraction_of(pool.num_rows, keep) == 0:
        return
    slow = slow_stage1(pool, keep)
    assert stage1(pool, keep).equals(slow)
    fast = stage1(encoded(pool), keep)
    assert fast.set_column(1, "shard", fast["shard"].cast(pa.string())).equals(slow)


@settings(max_examples=100, deadline=None)
@given(pools())
def test_order_of_places(pool):
    slow = pc.sort_indices(pool, sort_keys=[("shard", "ascending"), ("row", "ascending")])
    assert place_order(pool).tolist() == place_order(encoded(pool)).tolist() == slow.to_pylist()
    assert by_place(pool).equals(pool.take(slow))
    assert by_place(by_place(pool)).equals(pool.take(slow))


@settings(max_examples=200, deadline=None)
@given(pools(), st.integers(0, 45))
def test_first_of_an_order_is_the_orders_head(pool, size):
    keys, values = pool["key"], pool["entropy"].to_numpy()
    whole = sorted(range(len(keys)), key=lambda i: (-values[i], keys[i].as_py()))
    assert by_value(values, keys).tolist() == whole
    assert by_value(values, keys, size).tolist() == whole[:size]
    hashed = hash_keys(keys, "random|3").tolist()
    whole = sorted(range(len(keys)), key=lambda i: (hashed[i], keys[i].as_py()))
    assert random_order(keys, 3).tolist() == whole
    assert random_order(keys, 3, size).tolist() == whole[:size]


def assignments(pool: pa.Table, order: list[int]) -> pa.Table:
    cluster = pa.array(np.arange(pool.num_rows), pa.int32())
    similarity = pa.array(np.linspace(0, 1, pool.num_rows), pa.float32())
    table = pool.drop_columns(["entropy"])
    table = table.append_column("cluster", cluster).append_column("similarity", similarity)
    return table.take(order)


@settings(max_examples=100, deadline=None)
@given(pools(), st.randoms(use_true_random=False), st.booleans(), st.booleans())
def test_assignments_are_joined_in_any_order(pool, random, shuffled, codes):
    rows = sorted(random.sample(range(pool.num_rows), random.randint(1, pool.num_rows)))
    kept = by_place(pool.take(rows))
    order = place_order(pool).tolist()
    if shuffled:
        random.shuffle(order)
    table = assignments(pool, order)
    request = Request(
        pool=pool, size=1, assignments=encoded(table) if codes else table, clusters=40
    )
    cluster, similarity = assigned(kept, request)
    expected = {pool["key"][i].as_py(): i for i in range(pool.num_rows)}
    assert cluster.tolist() == [expected[key] for key in kept["key"].to_pylist()]
    assert similarity.dtype == np.float32 and len(similarity) == len(cluster)
    # By numbers alone, without the join by text.
    assert join._by_place(kept, table) is not None


def test_assignments_of_another_listing_are_refused():
    pool = pa.table(
        {
            "key": ["a", "b", "c"],
            "shard": ["s", "s", "t"],
            "row": pa.array([0, 1, 0], pa.int64()),
            "entropy": [1.0, 2.0, 3.0],
        }
    )
    table = assignments(pool, [0, 1, 2])

    def check(changed: pa.Table) -> None:
        assigned(pool, Request(pool=pool, size=1, assignments=changed))

    with pytest.raises(UserError, match=r"2 of the 3 .* not among the 1 assignments.*'a'"):
        check(table.slice(1, 1))
    with pytest.raises(UserError, match=r"3 of the 3 .* not among the 0 assignments"):
        check(table.slice(0, 0))
    other = table.set_column(0, "key", pa.array(["b", "a", "c"]))
    with pytest.raises(UserError, match=r"elsewhere in the corpus .*column 'row'"):
        check(other)
    moved = table.set_column(1, "shard", pa.array(["s", "u", "t"]))
    with pytest.raises(UserError, match=r"elsewhere in the corpus .*column 'shard'"):
        check(encoded(moved))


def test_parts_read_as_codes_and_as_text_are_the_same(tmp_path):
    for n in range(5):
        shard = ["a", f"s{n}"]
        write_part(tmp_path, n, pa.table({"shard": shard, "row": [n, n + 1]}))
    text, codes = read_parts(tmp_path), read_parts(tmp_path, ["shard", "row"], ["shard"])
    assert pa.types.is_dictionary(codes["shard"].type)
    assert codes["shard"].num_chunks == text["shard"].num_chunks == 1
    assert codes["shard"].cast(pa.string()).equals(text["shard"])
    assert text["row"].to_pylist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    one = read_part(tmp_path / "part-00003.parquet", ["shard"], ["shard"])
    assert one["shard"].to_pylist() == ["a", "s3"]
