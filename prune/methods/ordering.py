"""Orders of images that depend on neither the order of their rows nor the machine.

Equal values are ordered by key (by Unicode code point), a unique name.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.hashing import hash_keys

Rows = NDArray[np.int64]
Keys: TypeAlias = pa.Array | pa.ChunkedArray


def by_value(values: NDArray[np.floating], keys: Keys, size: int | None = None) -> Rows:
    """The first `size` positions (all by default) in order of (value descending, key).

    Raises ValueError for a value that is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"the value of row {bad[0]} is not finite")
    return first(-values, keys, len(values) if size is None else size)


def random_order(keys: Keys, seed: int, size: int | None = None, threads: int = 1) -> Rows:
    """The first `size` positions (all by default) in a uniformly random order of the keys.

    The order is that of a hash of seed and key (core.hashing), ties by key: it depends on the set
    of keys and the seed alone, and a smaller subset is part of a larger.
    """
    hashes = hash_keys(keys, f"random|{seed}", threads)
    return first(hashes, keys, len(keys) if size is None else size)


def derived_seed(purpose: str, seed: int) -> int:
    """A seed of its own for each purpose, so that two draws with one seed are independent."""
    return int.from_bytes(hashlib.sha256(f"{purpose}|{seed}".encode()).digest()[:6])


def first(values: NDArray[np.generic], keys: Keys, size: int) -> Rows:
    """The first `size` positions in ascending order of (value, key), without sorting the rest."""
    if not 0 < size < len(values):
        return ordered(values, keys)[:size]
    # Whatever is above the value in the last place cannot be among them.
    candidates = np.flatnonzero(values <= np.partition(values, size - 1)[size - 1])
    return candidates[ordered(values[candidates], keys.take(pa.array(candidates)))[:size]]


def ordered(values: NDArray[np.generic], keys: Keys) -> Rows:
    """Positions in ascending order of (value, key); keys are looked at only where values tie."""
    order = np.argsort(values)
    if len(order) < 2:
        return order.astype(np.int64)
    in_order = values[order]
    new = np.concatenate([[True], in_order[1:] != in_order[:-1]])
    run = np.cumsum(new)  # the index of the run of equal values that a place belongs to
    tied = np.flatnonzero(np.bincount(run)[run] > 1)
    if tied.size:
        rows = order[tied]
        table = pa.table({"run": run[tied], "key": keys.take(pa.array(rows))})
        by_key = pc.sort_indices(table, sort_keys=[("run", "ascending"), ("key", "ascending")])
        order[tied] = rows[by_key.to_numpy()]
    return order.astype(np.int64)


def first_of_each(group: NDArray[np.integer], keys: Keys) -> Rows:
    """The row of each group [n] whose key is the smallest, in ascending order."""
    order = ordered(np.zeros(len(group), np.uint8), keys)
    _, first = np.unique(group[order], return_index=True)
    return np.sort(order[first])


def by_cluster(
    order: Rows, cluster: NDArray[np.integer], clusters: int
) -> tuple[Rows, Rows, Rows]:
    """Rows in an order, grouped by cluster.

    Args:
        order: [m] positions.
        cluster: [n] cluster of each position, 0 <= cluster < K.
        clusters: K.

    Returns the positions [m], those of a cluster together and in the given order; the rank [m] of
    each in its cluster, from 0; and the sizes [K] of the clusters.
    """
    labels = cluster[order].astype(np.min_scalar_type(clusters))  # 16 bits sort by radix
    grouped = order[np.argsort(labels, kind="stable")]
    sizes = np.bincount(labels, minlength=clusters).astype(np.int64)
    return grouped, np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes), sizes
