"""DINOv2-style curation: deduplicate, then retrieve what is near to a curated set."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from prune.methods.registry import Chosen, Request, method, subset
from prune.methods.selection import Rows, by_similarity, ordered, random_order
from prune.methods.variants import derived_seed

if TYPE_CHECKING:
    from prune.cluster.features import Features, Source

NEIGHBOURS = 64  # of an image, in the graph of copies
FIRST_K = 4  # neighbours of a query at first
MORE_THAN = 3  # curated images that a cluster must exceed


@method(
    "dinov2",
    "deduplicate, then retrieve what is near to the reference set (after DINOv2's LVD-142M)",
    params=("ratio", "retrieval", "near", "leak", "seed"),
    reads=("embeddings", "reference", "copies", "avoid"),
    may_read=("copies", "avoid"),
    columns=("digest",),
)
def dinov2(request: Request) -> Chosen:
    """DINOv2-style curation (Oquab et al., arXiv 2304.07193, appendix A).

    1. Exact copies (equal bytes): the smallest key stays.
    2. Self-deduplication: a graph joins each image to those of its 64 nearest with a cosine above
       `near` (0.6) in --copies; one image of each connected component stays, the smallest key.
    3. Relative deduplication: a component with an image whose cosine to any of --avoid (the
       evaluation images) exceeds `leak` (0.45) is dropped whole.
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
    the cells of a coarse k-means only. Chains of alike images (sea, desert) can join into one
    large component, of which one image stays: see `largest_component`.
    """
    from data.formats.embeddings import require_same_encoder
    from prune.cluster.features import Features
    from prune.cluster.neighbours import best_cosine

    for name in ("near", "leak"):
        if not -1 <= request.options[name] <= 1:  # NaN neither
            raise UserError(f"--{name} {request.options[name]}: a cosine, from -1 to 1")
    features = request.features()
    reference = Features(request.files["reference"])
    require_same_encoder(features.embeddings, reference.embeddings)
    left, counts = request.once("deduplicated", lambda: _deduplicated(request, features))
    if len(left) < request.size:
        raise UserError(
            f"the budget is {request.size:,} images, but {len(left):,} are left after dropping "
            f"copies (--near {request.options['near']}); raise --near or --ratio"
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
    from data.formats.embeddings import Embeddings, require_same_encoder
    from prune.cluster.features import Features
    from prune.cluster.neighbours import best_cosine, components, copies

    pool, options = request.pool, request.options
    by_key = ordered(np.zeros(pool.num_rows, np.uint8), pool.column("key"))
    detector = request.features("copies") if "copies" in request.files else features
    single = _first_of(_codes(pool.column("digest")), by_key)
    detector = detector.subset(single)
    pairs = copies(detector, float(options["near"]), NEIGHBOURS, int(request.seed))
    group = components(pairs, len(single))
    place = np.empty(pool.num_rows, np.int64)
    place[by_key] = np.arange(len(by_key))
    firsts = _first_of(group, np.argsort(place[single]))
    leaked = np.zeros(len(single), bool)
    if "avoid" in request.files:
        avoid = Features(request.files["avoid"])
        known = Embeddings(request.files.get("copies", request.files["embeddings"]))
        require_same_encoder(known, avoid.embeddings)
        near = best_cosine(detector, avoid.take(np.arange(avoid.rows))) > float(options["leak"])
        leaked = np.isin(group, np.unique(group[near]))
    kept = firsts[~leaked[firsts]]
    return single[np.sort(kept)], {
        "exact_copies": pool.num_rows - len(single),
        "near_copies": len(single) - len(firsts),
        "largest_component": int(np.bincount(group).max(initial=0)),
        "leaked_components": len(firsts) - len(kept),
        "candidates": len(kept),
    }


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each distinct text."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def _first_of(group: NDArray[np.integer], order: Rows) -> Rows:
    """The row of each group that comes first in `order`, as sorted row numbers."""
    _, first = np.unique(group[order], return_index=True)
    return np.sort(order[first])


def _by_sample(
    found: Source,
    queries: NDArray[np.float32],
    best: NDArray[np.float32],
    keys: pa.ChunkedArray,
    request: Request,
) -> tuple[Rows, dict[str, Any]]:
    from prune.cluster.neighbours import retrieved

    k = FIRST_K
    while k * len(queries) < request.size:  # no need to look: they cannot be enough
        k *= 2
    while True:
        make = functools.partial(retrieved, found, queries, k)
        rows = np.flatnonzero(request.once(f"hits of {k}", make))
        if len(rows) >= request.size:
            order = by_similarity(best[rows], keys.take(pa.array(rows)))[: request.size]
            return rows[order], {"k": min(k, found.rows), "hits": len(rows)}
        k *= 2


def _by_cluster(
    found: Source, queries: NDArray[np.float32], keys: pa.ChunkedArray, request: Request
) -> tuple[Rows, dict[str, Any]]:
    from prune.cluster.cosine import nearest
    from prune.cluster.kmeans import sample_size, spherical_kmeans

    seed = int(request.seed)
    # C = max(100, N/100), but no more than one for ten images of a small pool.
    count = max(1, min(max(100, found.rows // 100), found.rows // 10))

    def fit() -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        size = sample_size(count)
        clustered = spherical_kmeans(found, count, seed=seed, iterations=20, sample=size)
        curated = np.bincount(nearest(queries, clustered.centroids)[0], minlength=count)
        return clustered.labels, curated.astype(np.int64)

    labels, curated = request.once("clusters", fit)
    place = np.empty(len(labels), np.int64)
    place[random_order(keys, derived_seed("dinov2", seed))] = np.arange(len(labels))
    for more_than in range(MORE_THAN, -2, -1):
        rows = np.flatnonzero(curated[labels] > more_than)
        if len(rows) >= request.size:
            break
    order = rows[np.lexsort((place[rows], labels[rows]))]
    sizes = np.bincount(labels[order], minlength=count)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Everybody's first image, then everybody's second, ...: the first B are those of the cap M.
    first = np.lexsort((place[order], turn))[: request.size]
    cap = int(turn[first].max(initial=0)) + 1
    return order[first], {"clusters": count, "more_than": more_than, "cap": cap}
