"""Spherical k-means of embeddings that do not fit into memory.

The clustering is that of prune.cluster.kmeans; the rows are read from memory-mapped parts once
for each iteration, so memory is that of a block of rows and of K sums, whatever N is. There is one
start: k-means++ on a uniform sample of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from prune.cluster.features import Source
from prune.cluster.kmeans import SAME, assign, plus_plus

SPARE = 64  # rows farthest from every centroid, kept to refill empty clusters

Floats = NDArray[np.float32]


def sample_size(clusters: int) -> int:
    """Rows in the sample that the start is drawn from: bounded in memory for a large K."""
    return min(256 * clusters, max(65_536, 4 * clusters))


@dataclass(frozen=True)
class PoolClustering:
    """What a clustering of a pool came to.

    Attributes:
        centroids: [K, d] float32, unit rows.
        sizes: [K] int64, rows of each cluster.
        objective: mean of 1 - cosine to the nearest centroid, in [0, 2].
        iterations: how many were made.
        converged: whether the labels stopped changing before the limit.
    """

    centroids: Floats
    sizes: NDArray[np.int64]
    objective: float
    iterations: int
    converged: bool


def cluster_pool(
    features: Source,
    clusters: int,
    *,
    seed: int = 0,
    iterations: int = 100,
    watch: Callable[[int, float], None] | None = None,
) -> PoolClustering:
    """Cluster the rows of `features` by cosine similarity.

    Args:
        features: n rows of width d.
        clusters: K, 1 <= K <= n.
        seed: of the sample and of the start.
        iterations: limit; it stops before when no label changes.
        watch: called as (iteration, objective) after each pass over the rows.

    Raises UserError for a K that cannot be had.
    """
    if not 1 <= clusters <= features.rows:
        raise UserError(
            f"--clusters {clusters}: there are {features.rows:,} embeddings to cluster; ask for "
            "1 to that many"
        )
    sample = features.sample(sample_size(clusters), seed)
    if clusters > len(np.unique(sample, axis=0)):
        raise UserError(
            f"--clusters {clusters}: fewer distinct points in a sample of {len(sample):,} "
            "embeddings; ask for fewer"
        )
    centroids = sample[plus_plus(sample, clusters, np.random.default_rng([seed, 0]))].copy()
    del sample
    previous = b""
    done = 0
    while True:
        sums = np.zeros((clusters, centroids.shape[1]), np.float64)
        some = np.empty_like(sums)
        sizes = np.zeros(clusters, np.int64)
        labels_digest = hashlib.sha256()
        loss = 0.0
        spare: list[tuple[float, int, Floats, int]] = []
        for rows, units in features.blocks():
            labels, similarities = assign(units, centroids, some)
            sums += some
            sizes += np.bincount(labels, minlength=clusters)
            labels_digest.update(labels.tobytes())
            loss += float(np.sum(1.0 - similarities.astype(np.float64)))
            for far in np.argsort(similarities, kind="stable")[:SPARE].tolist():
                entry = (float(similarities[far]), int(rows[far]), units[far].copy())
                spare.append((*entry, int(labels[far])))
            spare = sorted(spare, key=lambda entry: entry[:2])[:SPARE]
        objective = loss / features.rows
        if watch is not None:
            watch(done, objective)
        same = labels_digest.digest() == previous
        if same or done == iterations:
            break
        previous = labels_digest.digest()
        if _refill(sums, sizes, spare):
            previous = b""
        lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        alive = lengths > 1e-9  # a cluster whose points cancel out keeps the centroid it had
        centroids[alive] = (sums[alive] / lengths[alive, None]).astype(np.float32)
        done += 1
    return PoolClustering(centroids, sizes, objective, done, same)


def _refill(
    sums: NDArray[np.float64],
    sizes: NDArray[np.int64],
    spare: list[tuple[float, int, Floats, int]],
) -> bool:
    """Found each empty cluster anew at the spare row farthest from all centroids by then.

    Edits `sums`. Returns whether any was.
    """
    nearest = np.asarray([entry[0] for entry in spare], np.float32)
    rows = np.stack([entry[2] for entry in spare])
    counts = sizes.copy()
    changed = False
    for cluster in np.flatnonzero(sizes == 0):
        free = np.asarray([counts[entry[3]] > 1 for entry in spare])
        row = int(np.where(free, nearest, np.inf).argmin())
        if not free[row] or nearest[row] >= 1.0 - SAME:
            break
        old = spare[row][3]
        sums[old] -= rows[row]
        sums[cluster] = rows[row]
        counts[old] -= 1
        counts[cluster] += 1
        nearest = np.maximum(nearest, rows @ rows[row])  # the row itself becomes 1
        changed = True
    return changed
