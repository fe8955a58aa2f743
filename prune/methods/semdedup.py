"""SemDeDup: drop what is most similar to another image of its cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prune.cluster.features import Features
from prune.methods.base import Chosen, Request, method, pool_clusters, subset
from prune.methods.ordering import Rows, by_cluster, by_value, derived_seed, random_order

BLOCK = 2048  # rows compared with as many others at a time
HELD = 1 << 30  # bytes of a cluster's stored rows that are held; a larger cluster is read again


@method(
    "semdedup",
    "drop the images most similar to another of their cluster (SemDeDup, Abbas et al. 2023)",
    params=("ratio", "prefer"),
    variants={"seed": 0},
    reads=("assignments", "embeddings"),
)
def semdedup(request: Request) -> Chosen:
    """SemDeDup (Abbas et al., arXiv 2303.09540).

    The pool is clustered; inside a cluster, images are put in an order of preference (hard, the
    default: the farthest from the centroid first), and an image is a semantic duplicate when its
    cosine to an image before it exceeds 1 - eps. The published method tunes eps until the wanted
    fraction is left. Here each image gets that greatest cosine once, and the B images with the
    smallest stay: the same set as with the eps that leaves B, for every B, without a search.
    `duplicate_cosine` in the counts is 1 - eps. The first image of each cluster has no image
    before it and goes last.

    Deviations: spherical k-means (theirs: k = 50,000 of LAION's 440M); the project's encoder.
    Cosines are compared to six decimals, so that copies tie and go by key. At high ratios this
    goes on from duplicates to what is merely similar, which is beyond what it was made for.
    """
    pool, keys = request.pool, request.pool.column("key")
    cluster, similarity = pool_clusters(request, "semdedup")
    features = request.features()
    preference = _preference(request.options["prefer"], similarity, keys, request.seed)

    def compare() -> tuple[NDArray[np.float64], Rows]:
        nearest = greatest_cosines(features, cluster, preference)
        return nearest, by_value(-nearest, keys)

    nearest, order = request.once("semdedup", compare)
    rows = order[: request.size]
    chosen = subset(
        pool, rows, chosen="deduplicated", cluster=cluster[rows], similarity=similarity[rows]
    )
    last = float(nearest[rows[-1]])
    return chosen, {"K": request.clusters, "duplicate_cosine": round(last, 6)}


def _preference(
    prefer: str,
    similarity: NDArray[np.float32],
    keys: pa.ChunkedArray,
    seed: int,
) -> Rows:
    """All rows, the one to be kept before another first."""
    if prefer == "random":
        return random_order(keys, derived_seed("semdedup", seed))
    return by_value(similarity if prefer == "easy" else -similarity, keys)


def greatest_cosines(
    features: Features, cluster: NDArray[np.int32], preference: Rows, held: int = HELD
) -> NDArray[np.float64]:
    """[n] greatest cosine of each image to those before it in its cluster, to six decimals.

    -1 for the first of a cluster.

    Args:
        features: n rows.
        cluster: [n] cluster of each.
        preference: [n] all rows in order of preference.
        held: bytes; see HELD.
    """
    found = np.full(features.rows, -1.0)
    members, _, sizes = by_cluster(preference, cluster, int(cluster.max(initial=-1)) + 1)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    for first, last in itertools.pairwise(bounds):
        rows = members[first:last]
        read = _reader(features, rows, held)
        for start in range(0, len(rows), BLOCK):
            block = read(start)
            best = np.full(len(block), -1.0, np.float32)
            for before in range(0, start, BLOCK):
                np.maximum(best, (block @ read(before).T).max(axis=1), out=best)
            own = np.tril(block @ block.T, -1) + np.triu(np.full((len(block),) * 2, -1.0))
            np.maximum(best, own.max(axis=1), out=best)
            found[rows[start : start + BLOCK]] = np.round(best.astype(np.float64), 6)
    return found


def _reader(
    features: Features, rows: Rows, held: int
) -> Callable[[int], NDArray[np.float32]]:
    """Function from a start to the float32 unit rows of the block there."""
    if len(rows) * features.dim * 2 > held:
        return lambda start: features.take(rows[start : start + BLOCK])
    stored = features.stored(rows)

    def read(start: int) -> NDArray[np.float32]:
        block = stored[start : start + BLOCK].astype(np.float32)
        return block / np.sqrt(np.einsum("ij,ij->i", block, block))[:, None]

    return read
