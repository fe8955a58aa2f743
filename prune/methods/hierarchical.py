"""Hierarchical k-means curation: the budget flows evenly down a tree of clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prune.cluster.hierarchy import read_parents
from prune.methods.base import Chosen, Request, method, pool_clusters, subset
from prune.methods.ordering import Rows, by_cluster, by_value, derived_seed, random_order


@method(
    "hierarchical",
    "evenly down a tree of clusters of the pool (hierarchical k-means, Vo et al. 2024)",
    params=("ratio", "leaf", "seed"),
    reads=("assignments",),
)
def hierarchical(request: Request) -> Chosen:
    """Hierarchical k-means curation (Vo et al., arXiv 2405.15613); the tree is prune.hierarchy's.

    From the top down, a node divides its budget among its children so that all get the same
    number of images, or all they have where that is fewer; what is left over goes to larger
    children at random, one each. In a smallest cluster images are taken at random (as in the
    paper's main results), or the nearest to the centroid.

    Deviations: the cut is the greatest that does not exceed the budget, and the rest is filled
    in, so the size is exact; see also prune.hierarchy.
    """
    cluster, similarity = pool_clusters(request, "hierarchical")
    parents = read_parents(request.files["assignments"])
    keys = request.pool.column("key")
    sizes = np.bincount(cluster, minlength=request.clusters).astype(np.int64)
    budgets = descend(sizes, parents, request.size, request.seed)

    def in_order() -> Rows:
        if request.options["leaf"] == "random":
            return random_order(keys, derived_seed("hierarchical", request.seed))
        return by_value(similarity, keys)

    order, rank, _ = by_cluster(request.once("order", in_order), cluster, request.clusters)
    taken = rank < np.repeat(budgets, sizes)
    rows = order[taken]
    chosen = subset(
        request.pool,
        rows,
        chosen="quota",
        rank=rank[taken],
        cluster=cluster[rows],
        similarity=similarity[rows],
    )
    return chosen, {"K": request.clusters, "levels": len(parents) + 1}


def divide(
    sizes: NDArray[np.int64], total: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Divide `total` among children as evenly as their sizes let it be.

    min(c, size) for each, with the greatest c for which that does not exceed `total`; the rest,
    one each, to children larger than c, drawn at random. Sums to min(total, sum of sizes).
    """
    total = min(int(total), int(sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the greatest cut that fits
        middle = (low + high + 1) // 2
        if int(np.minimum(middle, sizes).sum()) <= total:
            low = middle
        else:
            high = middle - 1
    found = np.minimum(low, sizes)
    larger = np.flatnonzero(sizes > low)
    extra = random.permutation(larger)[: total - int(found.sum())]
    found[extra] += 1
    return found


def descend(
    sizes: NDArray[np.int64], parents: list[NDArray[np.int64]], total: int, seed: int
) -> NDArray[np.int64]:
    """The budget of each smallest cluster.

    Args:
        sizes: [K] images of each smallest cluster.
        parents: for each level but the topmost, from the smallest clusters up, the parent of each
            cluster.
        total: budget B.
        seed: of what is left over at a node.

    Returns [K]; sums to min(B, sum of sizes), and is at most `sizes`.
    """
    below = [np.asarray(sizes, np.int64)]  # images under each node, level by level
    for parent in parents:
        up = np.zeros(int(parent.max(initial=-1)) + 1, np.int64)
        np.add.at(up, parent, below[-1])
        below.append(up)
    budget = divide(below[-1], total, np.random.default_rng([seed, len(parents)]))
    for level in range(len(parents) - 1, -1, -1):
        down = np.zeros(len(below[level]), np.int64)
        children = np.argsort(parents[level], kind="stable")
        bounds = np.searchsorted(parents[level][children], np.arange(len(budget) + 1))
        for node, amount in enumerate(budget):
            mine = children[bounds[node] : bounds[node + 1]]
            random = np.random.default_rng([seed, level, node])
            down[mine] = divide(below[level][mine], int(amount), random)
        budget = down
    return budget
