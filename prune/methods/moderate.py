"""Moderate-DS: the images neither closest to their class's median nor farthest from it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from prune.cluster.features import BLOCK, Features
from prune.methods.base import Chosen, Request, method, pool_clusters, subset
from prune.methods.ordering import by_value

COUNTERS = 1 << 27  # bytes for the counters of a median


@method(
    "moderate",
    "the median band of distances to the classes' medians (Moderate-DS, Xia et al. 2023)",
    params=("ratio", "classes"),
    reads=("assignments", "embeddings"),
    optional=("assignments",),
)
def moderate(request: Request) -> Chosen:
    """Moderate-DS (Xia et al., ICLR 2023), as its published code does it.

    The centre of a class is the coordinate-wise median of its features. All distances
    ||f_i - centre of its class||_2 are sorted together, and with keep rate r = B/N the ranks in
    [0.5 - r/2, 0.5 + r/2] N stay: a window around the median distance of the whole pool, not of
    each class. Here it is the B ranks from (N - B) // 2 on, ties by key.

    Deviations: there are no labels, so classes are pseudo-classes, the nearest centroids of the
    assignments (reference centroids or own ones), or with classes = one a single class, where the
    window is a thin shell; features are the encoder's unit vectors, not the penultimate layer of
    a model trained on labels.
    """
    pool = request.pool
    features = request.features()
    if request.options["classes"] == "assigned":
        labels, similarity = pool_clusters(request, "moderate --classes assigned", own=False)
        classes = request.clusters
    else:
        labels, similarity, classes = np.zeros(pool.num_rows, np.int32), None, 1

    def in_order() -> NDArray[np.int64]:
        distance = distances(features, labels, medians(features, labels, classes))
        return by_value(-distance, pool.column("key"))  # ascending

    order = request.once("moderate", in_order)
    start = (pool.num_rows - request.size) // 2
    rows = order[start : start + request.size]
    chosen = subset(
        pool,
        rows,
        chosen="band",
        cluster=labels[rows],
        similarity=None if similarity is None else similarity[rows],
    )
    return chosen, {"K": classes, "closer": start, "farther": pool.num_rows - request.size - start}


def medians(
    features: Features, labels: NDArray[np.int32], classes: int, counters: int = COUNTERS
) -> NDArray[np.float32]:
    """The coordinate-wise median of each class, float32 [classes, d]; 0 for an empty class.

    Exact, as numpy.median of the stored float16 numbers, in two passes and bounded memory: the
    numbers' 16 bits, made to sort like the numbers, are counted by their upper byte, and then
    those in the median's byte by their lower one. The median of an even count is the mean of the
    two in the middle.

    Args:
        features: n rows.
        labels: [n] class of each row.
        classes: number of classes.
        counters: bytes to count in; with fewer, the columns are done a few at a time.
    """
    sizes = np.bincount(labels, minlength=classes).astype(np.int64)
    middle = np.stack([np.maximum(sizes - 1, 0) // 2, sizes // 2])  # [2, classes], from 0
    out = np.empty((classes, features.dim), np.float32)
    width = max(1, min(features.dim, counters // (classes * 256 * 8 * 3)))
    for first in range(0, features.dim, width):
        columns = slice(first, min(first + width, features.dim))
        shape = (classes, columns.stop - first, 256)
        upper = np.zeros(shape, np.int64)
        for codes, spots in _codes(features, labels, columns):
            np.add.at(upper.reshape(-1), (spots + (codes >> 8)).reshape(-1), 1)
        found = np.zeros((2, *shape[:2]), np.int64)
        reached = upper.cumsum(axis=2)
        high = [_byte(reached, rank) for rank in middle]
        lower = [np.zeros(shape, np.int64) for _ in middle]
        for codes, spots in _codes(features, labels, columns):
            for byte, counts in zip(high, lower, strict=True):
                here = (codes >> 8) == byte.reshape(-1)[spots >> 8]
                np.add.at(counts.reshape(-1), (spots + (codes & 255))[here], 1)
        for i, rank in enumerate(middle):
            before = np.take_along_axis(reached, np.maximum(high[i] - 1, 0)[..., None], 2)
            below = np.where(high[i] > 0, before[..., 0], 0)
            low = _byte(lower[i].cumsum(axis=2), rank[:, None] - below)
            found[i] = high[i] << 8 | low
        values = _decode(found)
        out[:, columns] = (values[0] + values[1]) / 2
    out[sizes == 0] = 0.0
    return out


def _codes(
    features: Features, labels: NDArray[np.int32], columns: slice
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each block: codes [m, w] of its numbers, and where each one's counters begin."""
    width = columns.stop - columns.start
    for start in range(0, features.rows, BLOCK):
        rows = np.arange(start, min(start + BLOCK, features.rows))
        bits = np.ascontiguousarray(features.stored(rows)[:, columns]).view(np.uint16)
        codes = np.where(bits >> 15, ~bits, bits | np.uint16(0x8000)).astype(np.int64)
        spots = (labels[rows].astype(np.int64)[:, None] * width + np.arange(width)) * 256
        yield codes, spots


def _byte(reached: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """The byte at which the cumulative counts [.., 256] pass the rank; 255 at most."""
    while rank.ndim < reached.ndim:
        rank = rank[..., None]
    return np.minimum((reached <= rank).sum(axis=2), 255)


def _decode(codes: NDArray[np.integer]) -> NDArray[np.float32]:
    codes = codes.astype(np.uint16)
    bits = np.where(codes >> 15, codes & np.uint16(0x7FFF), ~codes)
    return bits.astype(np.uint16).view(np.float16).astype(np.float32)


def distances(
    features: Features, labels: NDArray[np.int32], centres: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[n] L2 distance of each row, as stored, to the centre of its class."""
    out = np.empty(features.rows, np.float64)
    for start in range(0, features.rows, BLOCK):
        rows = np.arange(start, min(start + BLOCK, features.rows))
        gap = features.stored(rows).astype(np.float32) - centres[labels[rows]]
        out[rows] = np.sqrt(np.einsum("ij,ij->i", gap, gap, dtype=np.float64))
    return out
