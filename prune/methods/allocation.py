"""Stage II: which candidates make up the pruned set (Eqs. 5 and 6), as pure functions of arrays.

With budget B, K clusters and candidates P_k in cluster k (the survivors of Stage I, each assigned
to its nearest centroid with cosine similarity s):

    q = floor(B / K)                                   the quota of a cluster
    S_k = the min(q, |P_k|) members of P_k of highest s
    S = union of the S_k, plus the (B - sum |S_k|) unpicked candidates of highest s, whatever
        their cluster: this fills what small clusters leave, and the remainder B mod K.

Ties go by key. The variants put another order in place of 'highest s' (in both lines):

    nearest     s descending (the paper)
    farthest    s ascending
    random      a hash of seed and key
    mixed       nearest, farthest, second nearest, second farthest, ...

and another quota q_k in place of q, with n_k = |P_k| and M = sum n_k:

    balanced        q_k = floor(B / K)                          the paper
    proportional    q_k = B n_k / M by largest remainders       keeps the clusters' fractions
    sqrt            q_k = floor(B sqrt(n_k) / sum_j sqrt(n_j))  between the two
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from prune.methods.ordering import Keys, Rows, by_cluster, by_value, derived_seed, random_order

Sampling = Literal["nearest", "farthest", "random", "mixed"]
Allocation = Literal["balanced", "proportional", "sqrt"]


@dataclass(frozen=True)
class Selection:
    """Selected rows (positions in the candidate arrays), in no promised order.

    Attributes:
        rows: [B] int64 positions of the selected candidates, all different.
        rank: [B] int64, 0-based place of each in its cluster's order.
        by_quota: [B] bool, True for quota and False for the global remainder.
        quotas: [K] int64, q_k; it may exceed a cluster's size.
        sizes: [K] int64, candidates n_k of each cluster.
    """

    rows: Rows
    rank: Rows
    by_quota: NDArray[np.bool_]
    quotas: Rows
    sizes: Rows

    @property
    def small(self) -> int:
        """Clusters with fewer candidates than their quota, empty ones included."""
        return int(np.count_nonzero(self.sizes < self.quotas))

    @property
    def empty(self) -> int:
        """Clusters without a candidate."""
        return int(np.count_nonzero(self.sizes == 0))


def budget(total: int, ratio: float | str) -> int:
    """B = floor(N (1 - ratio)), with the ratio as the decimal number that was written.

    Args:
        total: N, images in the original pool (before Stage I).
        ratio: pruning ratio, 0 <= ratio < 1: the fraction of N that is dropped. 0.85 is 17/20,
            not 0.84999...

    Raises UserError for a ratio that is no number or out of its range.
    """
    try:
        dropped = Fraction(str(ratio))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--ratio {ratio}: not a number") from None
    if not 0 <= dropped < 1:
        raise UserError(
            f"--ratio {ratio}: the fraction of images to drop must be in [0, 1); 0.85 drops 85 %"
        )
    return math.floor(total * (1 - dropped))


def quotas(sizes: Rows, size: int, allocation: Allocation = "balanced") -> Rows:
    """The quota q_k of each cluster; their sum is at most the budget.

    Args:
        sizes: [K] candidates n_k of each cluster, K >= 1.
        size: budget B >= 0.
        allocation: one of the rules above.

    Raises ValueError for another rule.
    """
    sizes = np.asarray(sizes, np.int64)
    if allocation == "balanced":
        return np.full(len(sizes), size // len(sizes), np.int64)  # q = floor(B / K)
    if allocation == "proportional":
        total = max(int(sizes.sum()), 1)
        found, remainder = np.divmod(size * sizes, total)  # below 2^63 up to 3e9 images
        # What the floors lose goes by largest remainder, then larger cluster, then lower number.
        left = size * bool(sizes.any()) - int(found.sum())
        found[np.lexsort((-sizes, -remainder))[:left]] += 1
        return found
    if allocation == "sqrt":
        roots = np.sqrt(sizes.astype(np.float64))
        return np.floor(size * roots / max(math.fsum(roots), 1.0)).astype(np.int64)
    raise ValueError(f"allocation {allocation!r}: none of balanced, proportional, sqrt")


def allocate(
    cluster: NDArray[np.int32],
    similarity: NDArray[np.float32],
    keys: Keys,
    clusters: int,
    size: int,
    *,
    sampling: Sampling = "nearest",
    allocation: Allocation = "balanced",
    seed: int = 0,
) -> Selection:
    """Select B candidates: by the paper's cluster-balanced rule (Eq. 6), or by a variant of it.

    Args:
        cluster: [M] cluster of each candidate, 0 <= cluster < K.
        similarity: [M] cosine s to its centroid, finite.
        keys: [M] strings, unique.
        clusters: K >= 1.
        size: budget B, 0 <= B <= M.
        sampling, allocation: see the module's text; the defaults are the paper's rule.
        seed: of sampling 'random'; not used by the others.

    Raises ValueError for a cluster out of range, a similarity that is not finite, or B > M.
    """
    count = len(cluster)
    if not 0 <= size <= count:
        raise ValueError(f"a budget of {size} cannot be met from {count} candidates")
    if count and not 0 <= int(cluster.min()) <= int(cluster.max()) < clusters:
        raise ValueError(f"clusters must be in 0..{clusters - 1}")
    order = _order(similarity, keys, sampling, seed)  # of all candidates, whatever their cluster
    grouped, rank, sizes = by_cluster(order, cluster, clusters)
    if sampling == "mixed":
        rank = _alternate(rank, np.repeat(sizes, sizes))
    q = quotas(sizes, size, allocation)
    within = rank < np.repeat(q, sizes)
    picked = grouped[within]  # the union of the S_k
    left = np.ones(count, bool)
    left[picked] = False
    rest = order[left[order]]
    if sampling == "mixed":
        turns = np.empty_like(rest)
        turns[_alternate(np.arange(len(rest)), np.int64(len(rest)))] = rest
        rest = turns
    rows = np.concatenate([picked, rest[: size - len(picked)]])
    rank_of = np.empty(count, np.int64)
    rank_of[grouped] = rank
    by_quota = np.arange(size) < len(picked)
    return Selection(rows=rows, rank=rank_of[rows], by_quota=by_quota, quotas=q, sizes=sizes)


def _order(
    similarity: NDArray[np.float32], keys: Keys, sampling: Sampling, seed: int
) -> Rows:
    if sampling == "random":
        return random_order(keys, derived_seed("cluster", seed))
    if sampling == "farthest":
        return by_value(-similarity, keys)
    if sampling in ("nearest", "mixed"):
        return by_value(similarity, keys)
    raise ValueError(f"sampling {sampling!r}: none of nearest, farthest, random, mixed")


def _alternate(place: Rows, count: Rows | np.int64) -> Rows:
    """The turn at which each place of `count` is taken: first, last, second, last but one, ..."""
    return np.where(2 * place < count, 2 * place, 2 * (count - 1 - place) + 1)
