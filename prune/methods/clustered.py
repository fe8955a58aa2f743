"""Baselines that cluster the corpus itself and then sample its clusters.

All of them read assignments of the corpus to centroids of its own embeddings:

    python -m prune.embed --corpus C --scores S --keep 1 --encoder E --out pool
    python -m prune.centroids --embeddings pool --clusters 200 --streaming --out own
    python -m prune.assign --embeddings pool --centroids own --out clusters
    python -m prune.select --method cluster-nearest --scores S --assignments clusters --out X
"""

from __future__ import annotations

from core.errors import UserError
from prune.methods.base import (
    Chosen,
    Request,
    assigned,
    method,
    pool_clusters,
    require_own_centroids,
)
from prune.methods.rsprune import highest, stage2, survivors


@method(
    "cluster-nearest",
    "in each cluster of the pool the same fraction, nearest to the centroid (Briq et al. 2024)",
    params=("ratio",),
    reads=("assignments",),
)
def cluster_nearest(request: Request) -> Chosen:
    """Cluster-nearest (Briq et al., arXiv 2411.12523): |C| B/N images of each cluster C.

    Those nearest to the centroid stay, so every cluster keeps its fraction of the corpus: the
    allocation is proportional, not balanced.

    Deviations: the clustering is spherical k-means with a k-means++ start, where theirs is
    Euclidean with a random start (of unit rows, and inside a cluster, both order by the cosine to
    the mean); the project's encoder and K = 200 in place of CLIP or DINOv2 and K = 1,000; the up
    to K images that floor(|C| B/N) would lose go one each to the clusters of largest remainder, so
    that the size is exact and every cluster keeps the same share to within one image.
    """
    cluster, similarity = pool_clusters(request, "cluster-nearest")
    return stage2(request.pool, cluster, similarity, request, "nearest", "proportional")


@method(
    "a2mae",
    "A2-MAE-style: equal quotas of the farthest from the centroids of the pool",
    params=("ratio",),
    reads=("assignments",),
)
def a2mae(request: Request) -> Chosen:
    """A2-MAE-style, after the data construction of A2-MAE (Zhang et al., arXiv 2406.08079).

    The paper says that clustering-based pruning balances diversity and retains challenging
    examples; number of clusters, features and rule are not public. Here: spherical k-means of the
    pool (K of the centroids, 200 by default), a quota B/K for each cluster, and inside a cluster
    the farthest from its centroid, taken as the challenging ones; what small clusters leave comes
    from the farthest of all. Not a reproduction. Its prior on regions (urban or reserve) is left
    out: most corpora carry no coordinates.
    """
    cluster, similarity = pool_clusters(request, "a2mae")
    return stage2(request.pool, cluster, similarity, request, "farthest", "balanced")


@method(
    "full-set",
    "no Stage I, no reference: equal quotas over clusters of the complete pool (Table 4)",
    params=("ratio",),
    reads=("assignments",),
)
def full_set(request: Request) -> Chosen:
    """Clustering on the full unlabelled set (Table 4, first row).

    The centroids are those of all the pool's embeddings, and Eq. 6 selects from all of it. The
    paper does not say how images are picked from these clusters; its own rule is taken, so that
    the rows of that table differ in the centroids alone.
    """
    cluster, similarity = pool_clusters(request, "full-set")
    return stage2(request.pool, cluster, similarity, request)


@method(
    "entropy-set",
    "Stage I, no reference: equal quotas over clusters of its survivors in 128-d (Table 4)",
    params=("ratio", "keep"),
    reads=("assignments",),
)
def entropy_set(request: Request) -> Chosen:
    """Clustering on the entropy-pruned set, reduced to 128 dimensions (Table 4, second row).

    The centroids are those of the survivors' embeddings after
    `prune.centroids --embeddings SURVIVORS --reduce 128`, and Eq. 6 selects from the survivors.

    Deviations: the paper names MiniBatchKMeans and no method of reduction; here it is PCA, rows
    normalised again, and full Lloyd iterations.
    """
    require_own_centroids(request, "entropy-set")
    if not request.centroids.get("reduce"):
        raise UserError(
            "--assignments: entropy-set clusters embeddings of reduced dimension; make the "
            "centroids with python -m prune.centroids --reduce 128"
        )
    kept = survivors(request)
    rows = 0 if request.assignments is None else request.assignments.num_rows
    if rows != (embedded := highest(request).num_rows):
        raise UserError(
            f"--assignments: {rows:,} images were clustered, but Stage I keeps {embedded:,} "
            f"of {request.total:,} (--keep {request.keep}); embed, cluster and assign with "
            "that --keep"
        )
    cluster, similarity = request.once("assigned", lambda: assigned(kept, request))
    return stage2(kept, cluster, similarity, request)
