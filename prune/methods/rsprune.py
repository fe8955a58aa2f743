"""RS-Prune (Stage I, then Stage II by Eq. 6), and the simplest methods beside it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.errors import UserError
from core.parallel import available_cpus
from data.formats.index import place_order
from prune.methods import selection, variants
from prune.methods.registry import Chosen, Request, assigned, method, subset
from prune.stage1.threshold import stage1


@method(
    "rsprune",
    "Stage I by entropy, then Stage II: equal quotas of the nearest to reference prototypes",
    params=("ratio", "keep"),
    clustered=True,
    variants={"sampling": "nearest", "allocation": "balanced", "seed": 0},
)
def rsprune(request: Request) -> Chosen:
    """The paper's method (Stage I, then Stage II by Eq. 6), or a variant of its Stage II.

    Raises UserError when the budget exceeds what Stage I keeps, or a survivor of Stage I has no
    assignment.
    """
    kept = request.once("Stage I", lambda: stage1(request.pool, request.keep))
    if request.size > kept.num_rows:
        raise UserError(
            f"the budget is {request.size:,} of {request.pool.num_rows:,} images, but Stage I "
            f"keeps only {kept.num_rows:,} (--keep {request.keep}); raise --keep to at least "
            f"{request.size / request.pool.num_rows:.4g}, or raise --ratio"
        )
    cluster, similarity = request.once("assigned", lambda: assigned(kept, request))
    return stage2(kept, cluster, similarity, request, **request.options)


def stage2(
    kept: pa.Table,
    cluster: NDArray[np.int32],
    similarity: NDArray[np.float32],
    request: Request,
    sampling: variants.Sampling = "nearest",
    allocation: variants.Allocation = "balanced",
) -> Chosen:
    """Divide the budget over clusters and sample each of them (see prune.methods.variants)."""
    keys = kept.column("key")
    clusters, size = request.clusters, request.size
    counts: dict[str, int] = {"candidates": kept.num_rows, "K": clusters}
    found: selection.Selection | variants.Picked
    if (sampling, allocation) == ("nearest", "balanced"):
        found = selection.balanced(cluster, similarity, keys, clusters, size)
    else:
        found = variants.pick(
            cluster,
            similarity,
            keys,
            clusters,
            size,
            sampling=sampling,
            allocation=allocation,
            seed=request.seed,
        )
    if allocation == "balanced":
        counts["q"] = size // clusters
    by_quota = int(np.count_nonzero(found.by_quota))
    rows = subset(
        kept,
        found.rows,
        rank=found.rank,
        chosen=np.where(found.by_quota, "quota", "remainder"),
        cluster=cluster[found.rows],
        similarity=similarity[found.rows],
    )
    return rows, {
        **counts,
        "quota_rows": by_quota,
        "remainder_rows": size - by_quota,
        "small_clusters": found.small,
        "empty_clusters": found.empty,
    }


@method("random", "uniform without replacement from the pool", params=("ratio", "seed"))
def random(request: Request) -> Chosen:
    """Baseline: the first B keys in an order drawn from the seed."""
    keys = request.pool.column("key")
    order = selection.random_order(keys, request.seed, request.size, available_cpus())
    return subset(request.pool, order, chosen="random"), {}


@method("entropy", "Stage I alone: the highest entropies", params=("ratio",))
def entropy(request: Request) -> Chosen:
    """Ablation: the B images of highest entropy, ties by key."""
    kept = stage1(request.pool, Fraction(request.size, request.pool.num_rows))
    order = selection.by_value(kept.column("entropy").to_numpy(), kept.column("key"))
    return subset(kept, order, chosen="entropy"), {}


@method("full", "the whole pool, nothing pruned")
def full(request: Request) -> Chosen:
    """Baseline: all N images, in the order of (shard, row)."""
    order = place_order(request.pool)
    return subset(request.pool, order, chosen="full"), {}
