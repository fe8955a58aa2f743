"""Nearest neighbours by cosine, in blocks: copies inside a pool, and what lies near a query."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from prune.cluster.features import Source
from prune.cluster.kmeans import assign
from prune.cluster.pool_kmeans import cluster_pool

EXACT = 50_000  # pools up to this size are compared with themselves exactly
CELL = 25_000  # rows of a cell, on average, in larger ones
SCORES = 1 << 25  # cosines held at a time (float32: 128 MiB)

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


def copies(
    source: Source, threshold: float, k: int = 64, seed: int = 0, exact: int = EXACT
) -> tuple[Rows, Rows]:
    """Pairs (i, j), i != j, where j is among the k nearest of i and their cosine is above.

    Up to `exact` rows each is compared with all others. In a larger pool rows are compared inside
    the cells of a coarse k-means, so pairs across a border between cells are missed.

    Args:
        source: n rows.
        threshold: least cosine, exclusive.
        k: neighbours of a row.
        seed: of the coarse k-means.
        exact: see above.

    Returns two [pairs] arrays of row numbers.
    """
    left, right = [], []
    for rows in cells(source, seed, exact):
        held = source.take(rows)
        step = max(1, SCORES // max(1, len(rows)))
        for start in range(0, len(rows), step):
            cosines = held[start : start + step] @ held.T
            size = len(cosines)
            cosines[np.arange(size), np.arange(start, start + size)] = -2.0  # not itself
            some = np.flatnonzero(cosines.max(axis=1) > threshold)  # most have no copy
            cosines = cosines[some]
            crowded = np.flatnonzero(np.count_nonzero(cosines > threshold, axis=1) > k)
            for row in crowded:
                cosines[row, np.argsort(-cosines[row], kind="stable")[k:]] = -2.0
            one, other = np.nonzero(cosines > threshold)
            left.append(rows[start + some[one]])
            right.append(rows[other])
    none = [np.empty(0, np.int64)]
    return np.concatenate(left or none), np.concatenate(right or none)


def cells(source: Source, seed: int, exact: int = EXACT) -> list[Rows]:
    """The rows to compare with each other: all, or those of each cell of a coarse k-means."""
    if source.rows <= exact:
        return [np.arange(source.rows)]
    count = -(-source.rows // CELL)
    centroids = cluster_pool(source, count, seed=seed, iterations=10).centroids
    labels = np.concatenate([assign(block, centroids)[0] for _, block in source.blocks()])
    order = np.argsort(labels, kind="stable")
    bounds = np.cumsum(np.bincount(labels, minlength=count))[:-1]
    return [rows for rows in np.split(order, bounds) if len(rows)]


def components(pairs: tuple[Rows, Rows], count: int) -> NDArray[np.int32]:
    """[count] number of the connected component that each row belongs to."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int32)


def best_cosine(source: Source, queries: Floats) -> Floats:
    """[n] greatest cosine of each row to any of the unit `queries` [q, d]."""
    best = np.full(source.rows, -1.0, np.float32)

    def take(rows: Rows, cosines: Floats, _: slice) -> None:
        best[rows] = np.maximum(best[rows], cosines.max(axis=1))

    _products(source, queries, take)
    return best


def retrieved(source: Source, queries: Floats, k: int) -> NDArray[np.bool_]:
    """[n] whether each row is among the k rows nearest to one of the `queries` [q, d].

    Memory: q x k cosines and row numbers. Which of several equal rows is the k-th is not promised,
    but the same each time.
    """
    if k >= source.rows:
        return np.ones(source.rows, bool)
    top = np.full((len(queries), k), -2.0, np.float32)
    where = np.full((len(queries), k), -1, np.int64)

    def take(rows: Rows, cosines: Floats, part: slice) -> None:
        # After a few blocks little gets past the k-th best so far: merge only what does.
        least = top[part].min(axis=1)
        query, row = np.nonzero((cosines > least).T)
        active, counts = np.unique(query, return_counts=True)
        if not len(active):
            return
        line = np.repeat(np.arange(len(active)), counts)
        spot = k + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        values = np.full((len(active), k + int(counts.max())), -2.0, np.float32)
        numbers = np.full(values.shape, -1, np.int64)
        at = active + part.start
        values[:, :k], numbers[:, :k] = top[at], where[at]
        values[line, spot], numbers[line, spot] = cosines[row, query], rows[row]
        order = np.argpartition(-values, k - 1, axis=1)[:, :k]
        top[at] = np.take_along_axis(values, order, 1)
        where[at] = np.take_along_axis(numbers, order, 1)

    _products(source, queries, take)
    found = np.zeros(source.rows, bool)
    found[where[where >= 0]] = True
    return found


def _products(
    source: Source, queries: Floats, take: Callable[[Rows, Floats, slice], None]
) -> None:
    """Call take(rows, cosines [rows, queries], which queries) for blocks of both."""
    step = max(1, SCORES // (4 * 4096))
    for rows, block in source.blocks():
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            take(rows, block @ queries[part].T, part)
