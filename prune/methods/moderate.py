"""Moderate-DS: the images neither closest to their class's median nor farthest from it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from prune.cluster.features import BLOCK, Features
from prune.methods.base import Chosen, Request, method, pool_clusters, subset
from prune.methods.ordering import by_cluster, by_value

HELD = 1 << 30  # bytes of stored rows that are held for the medians


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
    [0.5 - r/2, 0.5 + r/2] N stay: a window around the median distance of the complete pool, not of
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
    features: Features, labels: NDArray[np.int32], classes: int, held: int = HELD
) -> NDArray[np.float32]:
    """The coordinate-wise median of each class, float32 [classes, d]; 0 for an empty class.

    Args:
        features: n rows.
        labels: [n] class of each row.
        classes: number of classes.
        held: bytes to hold at a time; the fewer, the more passes over the rows, each of which
            does some of the columns.
    """
    members, _, sizes = by_cluster(np.arange(features.rows), labels, classes)
    bounds = np.cumsum(sizes)[:-1]
    out = np.zeros((classes, features.dim), np.float32)
    width = max(1, held // (2 * features.rows + 4 * int(sizes.max())))
    for first in range(0, features.dim, width):
        columns = slice(first, first + width)
        values = np.concatenate([features.stored(rows)[:, columns] for rows in _blocks(features)])
        for k, rows in enumerate(np.split(members, bounds)):
            if len(rows):
                mine = values[rows].astype(np.float32)
                out[k, columns] = np.median(mine, axis=0, overwrite_input=True)
    return out


def distances(
    features: Features, labels: NDArray[np.int32], centres: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[n] L2 distance of each row, as stored, to the centre of its class.

    Raises UserError for an embedding that is not finite.
    """
    out = np.empty(features.rows, np.float64)
    for rows in _blocks(features):
        gap = features.stored(rows).astype(np.float32) - centres[labels[rows]]
        out[rows] = np.sqrt(np.einsum("ij,ij->i", gap, gap, dtype=np.float64))
    if not np.isfinite(out).all():
        folder = features.embeddings.folder
        raise UserError(f"{folder}: some embeddings are not finite; embed this corpus again")
    return out


def _blocks(features: Features) -> Iterator[NDArray[np.int64]]:
    for start in range(0, features.rows, BLOCK):
        yield np.arange(start, min(start + BLOCK, features.rows))
