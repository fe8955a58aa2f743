"""DINOv2-style curation: deduplicate, then retrieve what is near to a curated set."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from data.formats.embeddings import Embeddings, require_same_encoder
from prune.cluster.cosine import nearest
from prune.cluster.features import Features, Source
from prune.cluster.kmeans import sample_size, spherical_kmeans
from prune.cluster.neighbours import best_cosine, components, copies, retrieved
from prune.methods.base import Chosen, Request, method, subset
from prune.methods.ordering import (
    Rows,
    by_cluster,
    by_value,
    derived_seed,
    first_of_each,
    random_order,
)

NEIGHBOURS = 64  # of an image, in the graph of copies
FIRST_K = 4  # neighbours of a query at first
MORE_THAN = 3  # curated images that a cluster must exceed


@method(
    "dinov2",
    "deduplicate, then retrieve what is near to the reference set (after DINOv2's LVD-142M)",
    params=("ratio", "retrieval", "dedup_threshold", "leak", "seed"),
    reads=("embeddings", "reference", "copies", "exclude"),
    optional=("copies", "exclude"),
    columns=("digest",),
)
def dinov2(request: Request) -> Chosen:
    """DINOv2-style curation (Oquab et al., arXiv 2304.07193, appendix A).

    1. Exact copies (equal bytes): the smallest key stays.
    2. Self-deduplication: a graph joins each image to those of its 64 nearest with a cosine above
       `dedup_threshold` (0.6) in --copies; of each connected component the smallest key stays.
    3. Relative deduplication: a component with an image whose cosine to any of --exclude (the
       evaluation images) exceeds `leak` (0.45) is dropped as a whole.
    4. Retrieval from what is left, in the space of --embeddings. sample: the k nearest of each
       reference image, with k = 4, 8, 16, ... until at least B different images are found; the B
       of highest cosine to a reference image stay. cluster: k-means of the pool into
       max(100, N/100) clusters; from each that holds more than 3 reference images, at most M at
       random, with M such that B are found.

    Deviations: the first step of the paper is a PCA hash, here the digest of the file; 0.6 and
    0.45 belong to SSCD descriptors, and with another encoder in --copies (or none given: then
    --embeddings is used) they mean something else; with a fixed k = 4 an RS reference set reaches
    about 2 % of Git-10M, so k grows; no cap M of a million; clusters are spherical and one for
    100 images in place of 100,000; where they hold too few images, clusters with fewer reference
    images are let in (`more_than` in the counts). Above 50,000 images copies are sought inside
    the cells of a coarse k-means only. Chains of similar images (sea, desert) can join into one
    large component, of which one image stays: see `largest_component`.
    """
    features = request.features()
    reference = Features(request.files["reference"])
    require_same_encoder(features.embeddings, reference.embeddings)
    left, counts = request.once("deduplicated", lambda: _deduplicated(request, features))
    if len(left) < request.size:
        raise UserError(
            f"the budget is {request.size:,} images, but {len(left):,} are left after dropping "
            f"copies (--dedup-threshold {request.options['dedup_threshold']}); raise "
            "--dedup-threshold or --ratio"
        )
    names = request.pool.take(pa.array(left))
    queries = request.once("queries", lambda: reference.take(np.arange(reference.rows)))
    found = request.once("source", lambda: features.subset(left))
    if request.options["retrieval"] == "sample":
        best = request.once("best", lambda: best_cosine(found, queries))
        rows, more = _by_sample(found, queries, best, names.column("key"), request)
        similarity = best[rows]
    else:
        rows, more = _by_cluster(found, queries, names.column("key"), request)
        similarity = None
    chosen = subset(names, rows, chosen="retrieved", similarity=similarity)
    return chosen, {**counts, "queries": len(queries), **more}


def _deduplicated(request: Request, features: Features) -> tuple[Rows, dict[str, Any]]:
    """Rows of the pool that steps 1 to 3 leave, in order, and counts."""
    pool, options = request.pool, request.options
    keys = pool.column("key")
    single = first_of_each(_codes(pool.column("digest")), keys)
    detector = request.features("copies") if "copies" in request.files else features
    detector = detector.subset(single)
    pairs = copies(detector, float(options["dedup_threshold"]), NEIGHBOURS, int(request.seed))
    group = components(pairs, len(single))
    firsts = first_of_each(group, keys.take(pa.array(single)))
    leaked = np.zeros(len(single), bool)
    if "exclude" in request.files:
        exclude = Features(request.files["exclude"])
        known = Embeddings(request.files.get("copies", request.files["embeddings"]))
        require_same_encoder(known, exclude.embeddings)
        cosines = best_cosine(detector, exclude.take(np.arange(exclude.rows)))
        leaked = np.isin(group, np.unique(group[cosines > float(options["leak"])]))
    kept = firsts[~leaked[firsts]]
    return single[np.sort(kept)], {
        "exact_copies": pool.num_rows - len(single),
        "near_copies": len(single) - len(firsts),
        "largest_component": int(np.bincount(group).max(initial=0)),
        "leaked_components": len(firsts) - len(kept),
        "candidates": len(kept),
    }


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """An integer for each distinct text."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def _by_sample(
    found: Source,
    queries: NDArray[np.float32],
    best: NDArray[np.float32],
    keys: pa.ChunkedArray,
    request: Request,
) -> tuple[Rows, dict[str, Any]]:
    k = FIRST_K
    while k * len(queries) < request.size:  # no need to look: they cannot be enough
        k *= 2
    while True:
        make = functools.partial(retrieved, found, queries, k)
        rows = np.flatnonzero(request.once(f"hits of {k}", make))
        if len(rows) >= request.size:
            order = by_value(best[rows], keys.take(pa.array(rows)))[: request.size]
            return rows[order], {"k": min(k, found.rows), "hits": len(rows)}
        k *= 2


def _by_cluster(
    found: Source, queries: NDArray[np.float32], keys: pa.ChunkedArray, request: Request
) -> tuple[Rows, dict[str, Any]]:
    seed = int(request.seed)
    # C = max(100, N/100), but no more than one for ten images of a small pool.
    count = max(1, min(max(100, found.rows // 100), found.rows // 10))

    def fit() -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        size = sample_size(count)
        clustered = spherical_kmeans(found, count, seed=seed, iterations=20, sample=size)
        curated = np.bincount(nearest(queries, clustered.centroids)[0], minlength=count)
        return clustered.labels, curated.astype(np.int64)

    labels, curated = request.once("clusters", fit)
    drawn = random_order(keys, derived_seed("dinov2", seed))
    for more_than in range(MORE_THAN, -2, -1):
        rows = drawn[curated[labels[drawn]] > more_than]
        if len(rows) >= request.size:
            break
    grouped, rank, _ = by_cluster(rows, labels, count)
    turn = np.empty(len(labels), np.int64)
    turn[grouped] = rank
    # Each cluster's first image, then each one's second, ...: the first B are those of the cap M.
    first = rows[np.argsort(turn[rows], kind="stable")][: request.size]
    cap = int(turn[first].max(initial=0)) + 1
    return first, {"clusters": count, "more_than": more_than, "cap": cap}
