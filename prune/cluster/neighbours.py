"""Nearest neighbours by cosine, in blocks: copies inside a pool, and what lies near a query."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prune.cluster.cosine import cosines
from prune.cluster.features import BLOCK, Floats, Source
from prune.cluster.kmeans import sample_size, spherical_kmeans

EXACT = 50_000  # pools up to this size are compared with themselves exactly
CELL = 25_000  # rows of a cell, on average, in larger ones
SCORES = 1 << 25  # cosines held at a time (float32: 128 MiB)

Rows = NDArray[np.int64]


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
        for part, found in cosines(held, held.T, max(1, SCORES // max(1, len(rows)))):
            found[np.arange(len(found)), np.arange(part.start, part.stop)] = -2.0  # not itself
            some = np.flatnonzero(found.max(axis=1) > threshold)  # most have no copy
            near = found[some]
            crowded = np.flatnonzero(np.count_nonzero(near > threshold, axis=1) > k)
            for row in crowded:
                near[row, np.argsort(-near[row], kind="stable")[k:]] = -2.0
            one, other = np.nonzero(near > threshold)
            left.append(rows[part.start + some[one]])
            right.append(rows[other])
    none = [np.empty(0, np.int64)]
    return np.concatenate(left or none), np.concatenate(right or none)


def cells(source: Source, seed: int, exact: int = EXACT) -> list[Rows]:
    """The rows to compare with each other: all, or those of each cell of a coarse k-means."""
    if source.rows <= exact:
        return [np.arange(source.rows)]
    count = -(-source.rows // CELL)
    sample = sample_size(count)
    labels = spherical_kmeans(source, count, seed=seed, iterations=10, sample=sample).labels
    order = np.argsort(labels, kind="stable")
    bounds = np.cumsum(np.bincount(labels, minlength=count))[:-1]
    return [rows for rows in np.split(order, bounds) if len(rows)]


def components(pairs: tuple[Rows, Rows], count: int) -> NDArray[np.int32]:
    """[count] index of the connected component that each row belongs to."""
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int32)


def best_cosine(source: Source, queries: Floats) -> Floats:
    """[n] greatest cosine of each row to any of the unit `queries` [q, d]."""
    best = np.full(source.rows, -1.0, np.float32)
    for rows, found, _ in _products(source, queries):
        best[rows] = np.maximum(best[rows], found.max(axis=1))
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
    for rows, found, part in _products(source, queries):
        # After a few blocks little gets past the k-th best so far: merge only what does.
        least = top[part].min(axis=1)
        query, row = np.nonzero((found > least).T)
        active, counts = np.unique(query, return_counts=True)
        if not len(active):
            continue
        line = np.repeat(np.arange(len(active)), counts)
        spot = k + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        values = np.full((len(active), k + int(counts.max())), -2.0, np.float32)
        numbers = np.full(values.shape, -1, np.int64)
        at = active + part.start
        values[:, :k], numbers[:, :k] = top[at], where[at]
        values[line, spot], numbers[line, spot] = found[row, query], rows[row]
        order = np.argpartition(-values, k - 1, axis=1)[:, :k]
        top[at] = np.take_along_axis(values, order, 1)
        where[at] = np.take_along_axis(numbers, order, 1)
    chosen = np.zeros(source.rows, bool)
    chosen[where[where >= 0]] = True
    return chosen


def _products(source: Source, queries: Floats) -> Iterator[tuple[Rows, Floats, slice]]:
    """(rows, cosines [rows, queries], which queries) for blocks of both."""
    step = max(1, SCORES // (4 * BLOCK))
    for rows, block in source.blocks():
        for start in range(0, len(queries), step):
            part = slice(start, min(start + step, len(queries)))
            for _, found in cosines(block, queries[part].T):
                yield rows, found, part
