"""RS-Prune: Stage I by entropy, then Stage II by Eq. 6."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import UserError
from core.parallel import available_cpus
from prune.methods.allocation import Allocation, Sampling, allocate
from prune.methods.base import Chosen, Request, assigned, method, subset
from prune.methods.ordering import random_order
from prune.stage1.threshold import stage1


@method(
    "rsprune",
    "Stage I by entropy, then Stage II: equal quotas of the nearest to reference centroids",
    params=("ratio", "keep"),
    variants={"sampling": "nearest", "allocation": "balanced", "seed": 0},
    reads=("assignments",),
)
def rsprune(request: Request) -> Chosen:
    """The paper's method, or a variant of its Stage II (see prune.methods.allocation).

    Raises UserError when a survivor of Stage I has no assignment.
    """
    kept = survivors(request)
    cluster, similarity = request.once("assigned", lambda: assigned(kept, request))
    return stage2(kept, cluster, similarity, request, **request.options)


@method(
    "random-survivors",
    "Stage I by entropy, then uniform: what clustering is to be measured against",
    params=("ratio", "keep", "seed"),
)
def random_survivors(request: Request) -> Chosen:
    """Control: the first B of Stage I's survivors in an order drawn from the seed.

    Not in the paper. What RS-Prune gains over it is due to Stage II; what it gains over Random, to
    Stage I. Raises UserError when the budget exceeds the survivors.
    """
    kept = survivors(request)
    order = random_order(kept.column("key"), request.seed, request.size, available_cpus())
    return subset(kept, order, chosen="random"), {"candidates": kept.num_rows}


def survivors(request: Request) -> pa.Table:
    """What Stage I keeps of the pool. Raises UserError when the budget exceeds it."""
    kept = highest(request)
    without = ""
    if request.whole is not None:
        kept = request.once("distinct", lambda: kept.filter(pc.invert(kept.column("copy"))))
        without = " without copies"
    if request.size > kept.num_rows:
        enough = math.ceil(10_000 * request.size / request.total) / 10_000  # rounded, it may not be
        raise UserError(
            f"the budget is {request.size:,} of {request.total:,} images, but Stage I "
            f"keeps only {kept.num_rows:,}{without} (--keep {request.keep}); raise --keep to at "
            f"least {enough:g}, or raise --ratio"
        )
    return kept


def highest(request: Request) -> pa.Table:
    """What Stage I keeps of the original pool, copies included."""
    pool = request.pool if request.whole is None else request.whole
    return request.once("Stage I", lambda: stage1(pool, request.keep))


def stage2(
    kept: pa.Table,
    cluster: NDArray[np.int32],
    similarity: NDArray[np.float32],
    request: Request,
    sampling: Sampling = "nearest",
    allocation: Allocation = "balanced",
) -> Chosen:
    """Divide the budget over the clusters and sample each of them (Eq. 6).

    Args:
        kept: [M] candidates.
        cluster, similarity: [M] of each.
        request: budget, number of clusters and seed.
        sampling, allocation: see prune.methods.allocation.
    """
    clusters, size = request.clusters, request.size
    found = allocate(
        cluster,
        similarity,
        kept.column("key"),
        clusters,
        size,
        sampling=sampling,
        allocation=allocation,
        seed=request.seed,
    )
    by_quota = int(np.count_nonzero(found.by_quota))
    rows = subset(
        kept,
        found.rows,
        rank=found.rank,
        chosen=pc.if_else(pa.array(found.by_quota), "quota", "remainder"),
        cluster=cluster[found.rows],
        similarity=similarity[found.rows],
    )
    return rows, {
        "candidates": kept.num_rows,
        "K": clusters,
        **({"q": size // clusters} if allocation == "balanced" else {}),
        "quota_rows": by_quota,
        "remainder_rows": size - by_quota,
        "small_clusters": found.small,
        "empty_clusters": found.empty,
    }
