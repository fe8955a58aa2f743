"""Variants of Stage II: how a cluster's images are sampled, and how the budget is divided.

With B the budget, n_k candidates in cluster k of K, and M = sum n_k, the quota of a cluster is

    balanced        q_k = floor(B / K)                          the paper's rule (Eq. 6)
    proportional    q_k = floor(B n_k / M)                      keeps the shares of the clusters
    sqrt            q_k = floor(B sqrt(n_k) / sum_j sqrt(n_j))  between the two

and a cluster gives the first min(q_k, n_k) of its candidates in the order of

    nearest     similarity to the prototype, descending (the paper)
    farthest    similarity, ascending
    random      a hash of seed and key
    mixed       nearest, farthest, second nearest, second farthest, ...

What is then missing to B (the floors, and what small clusters leave) comes from the unpicked
candidates, whatever their cluster, in the same order applied to all of them at once. Ties go by
key throughout, so the order of the rows never matters.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prune.methods.selection import Rows, by_similarity, random_order

Sampling = Literal["nearest", "farthest", "random", "mixed"]
Allocation = Literal["balanced", "proportional", "sqrt"]


@dataclass(frozen=True)
class Picked:
    """Selected rows (positions in the candidate arrays), in no promised order.

    Attributes:
        rows: [B] int64 positions of the selected candidates, all different.
        rank: [B] int64, 0-based place of each in its cluster's order of sampling.
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
        return np.full(len(sizes), size // len(sizes), np.int64)
    total = int(sizes.sum())
    if allocation == "proportional":
        return np.asarray([size * int(n) // max(total, 1) for n in sizes], np.int64)
    if allocation == "sqrt":
        roots = np.sqrt(sizes.astype(np.float64))
        return np.floor(size * roots / max(math.fsum(roots), 1.0)).astype(np.int64)
    raise ValueError(f"allocation {allocation!r}: none of balanced, proportional, sqrt")


def pick(
    cluster: NDArray[np.int32],
    similarity: NDArray[np.float32],
    keys: pa.Array | pa.ChunkedArray,
    clusters: int,
    size: int,
    *,
    sampling: Sampling = "nearest",
    allocation: Allocation = "balanced",
    seed: int = 0,
) -> Picked:
    """Select `size` candidates by one sampling and one allocation.

    Args:
        cluster: [M] cluster of each candidate, 0 <= cluster < K.
        similarity: [M] finite similarity to its prototype.
        keys: [M] strings, unique.
        clusters: K >= 1.
        size: budget B, 0 <= B <= M.
        sampling, allocation: see the module's text; nearest and balanced is the paper's rule,
            equal to prune.methods.selection.balanced.
        seed: of sampling 'random'; not used by the others.

    Raises ValueError for a cluster out of range, a similarity that is not finite, or B > M.
    """
    count = len(cluster)
    if not 0 <= size <= count:
        raise ValueError(f"a budget of {size} cannot be met from {count} candidates")
    if count and not 0 <= int(cluster.min()) <= int(cluster.max()) < clusters:
        raise ValueError(f"clusters must be in 0..{clusters - 1}")
    place = np.empty(count, np.int64)  # of each candidate, were all of them one cluster
    place[_order(similarity, keys, sampling, seed)] = np.arange(count)
    words = np.asarray(cluster).astype(np.uint64) << np.uint64(32) | place.astype(np.uint64)
    order = np.argsort(words)  # by (cluster, place); all words differ
    sizes = np.bincount(cluster, minlength=clusters).astype(np.int64)
    rank = np.arange(count) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    if sampling == "mixed":
        rank = _alternate(rank, np.repeat(sizes, sizes))
    quota = quotas(sizes, size, allocation)
    within = rank < np.repeat(quota, sizes)
    short = size - int(np.count_nonzero(within))
    rest = np.flatnonzero(~within)
    rest = rest[np.argsort(place[order[rest]])]
    if sampling == "mixed":
        turn = np.empty(len(rest), np.int64)
        turn[_alternate(np.arange(len(rest)), np.int64(len(rest)))] = rest
        rest = turn
    taken = np.concatenate([np.flatnonzero(within), rest[:short]])
    return Picked(
        rows=order[taken], rank=rank[taken], by_quota=within[taken], quotas=quota, sizes=sizes
    )


def _order(
    similarity: NDArray[np.float32], keys: pa.Array | pa.ChunkedArray, sampling: str, seed: int
) -> Rows:
    if sampling == "random":
        return random_order(keys, derived_seed("cluster", seed))
    if sampling == "farthest":
        return by_similarity(-np.asarray(similarity, np.float32), keys)
    if sampling in ("nearest", "mixed"):
        return by_similarity(similarity, keys)
    raise ValueError(f"sampling {sampling!r}: none of nearest, farthest, random, mixed")


def _alternate(place: Rows, count: Rows | np.int64) -> Rows:
    """The turn at which each place of `count` is taken: first, last, second, last but one, ..."""
    return np.where(2 * place < count, 2 * place, 2 * (count - 1 - place) + 1)


def derived_seed(purpose: str, seed: int) -> int:
    """A seed of its own for each purpose, so that two draws with one seed are independent."""
    return int.from_bytes(hashlib.sha256(f"{purpose}|{seed}".encode()).digest()[:6])
