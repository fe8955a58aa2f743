"""Stage II: which images make up the pruned set (Eq. 6), as pure functions of arrays.

With budget B, K clusters and candidates P_k in cluster k (the survivors of Stage I, each assigned
to its nearest prototype with cosine similarity s):

    q = floor(B / K)                                   the quota of a cluster
    S_k = the min(q, |P_k|) members of P_k of highest s
    S = union of the S_k, plus the (B - sum |S_k|) unpicked candidates of highest s, whatever
        their cluster: this fills what small clusters leave, and the remainder B mod K.

Equal similarities are ordered by key (by Unicode code point), so the result depends on neither
the order of the rows nor the machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.errors import UserError
from core.hashing import hash_keys

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """Selected rows (positions in the candidate arrays), in no promised order.

    Attributes:
        rows: [n] int64 positions of the selected candidates, all different.
        rank: [n] int64, 0-based place of each in its cluster by (similarity descending, key).
        by_quota: [n] bool, True for quota and False for the global remainder.
        quota: q = floor(B / K).
        sizes: [K] int64, candidates in each cluster.
    """

    rows: Rows
    rank: Rows
    by_quota: NDArray[np.bool_]
    quota: int
    sizes: Rows

    @property
    def small(self) -> int:
        """Clusters with fewer candidates than the quota, empty ones included."""
        return int(np.count_nonzero(self.sizes < self.quota))

    @property
    def empty(self) -> int:
        """Clusters without a candidate."""
        return int(np.count_nonzero(self.sizes == 0))


def exact(value: float | str, name: str) -> Fraction:
    """A share in decimal notation as an exact fraction: 0.85 is 17/20, not 0.84999...

    Raises UserError for what is not a number.
    """
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{name} {value}: not a number") from None


def budget(total: int, ratio: float | str) -> int:
    """B = floor(N (1 - ratio)), in exact arithmetic.

    Args:
        total: N, images in the original pool (before Stage I).
        ratio: pruning ratio, 0 <= ratio < 1: the share of N that is dropped.
    """
    share = exact(ratio, "--ratio")
    if not 0 <= share < 1:
        raise UserError(
            f"--ratio {ratio}: the share of images to drop must be in [0, 1); 0.85 drops 85 %"
        )
    return math.floor(total * (1 - share))


def balanced(
    cluster: NDArray[np.int32],
    similarity: NDArray[np.float32],
    keys: pa.Array | pa.ChunkedArray,
    clusters: int,
    size: int,
) -> Selection:
    """The paper's cluster-balanced selection (Eq. 6; see the module's text).

    Args:
        cluster: [M] cluster of each candidate, 0 <= cluster < K.
        similarity: [M] cosine to its prototype.
        keys: [M] strings, unique.
        clusters: K.
        size: budget B, 0 <= B <= M.

    Raises ValueError for a cluster out of range, a similarity that is not finite, or B > M.
    """
    count = len(cluster)
    if not 0 <= size <= count:
        raise ValueError(f"a budget of {size} cannot be met from {count} candidates")
    if count and not 0 <= int(cluster.min()) <= int(cluster.max()) < clusters:
        raise ValueError(f"clusters must be in 0..{clusters - 1}")
    order = by_similarity(similarity, keys, cluster)
    sizes = np.bincount(cluster, minlength=clusters).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(count, dtype=np.int64) - np.repeat(starts, sizes)
    quota = size // clusters  # q = floor(B / K)
    within = rank < quota
    short = size - int(np.count_nonzero(within))  # B mod K, and what small clusters leave
    places = np.flatnonzero(~within)
    rest = order[places]
    filled = places[first(_descending(similarity[rest]), _take(keys, rest), short)]
    taken = np.concatenate([np.flatnonzero(within), filled])
    return Selection(
        rows=order[taken],
        rank=rank[taken],
        by_quota=within[taken],
        quota=quota,
        sizes=sizes,
    )


def by_similarity(
    similarity: NDArray[np.float32],
    keys: pa.Array | pa.ChunkedArray,
    cluster: NDArray[np.int32] | None = None,
) -> Rows:
    """Positions in order of (cluster, similarity descending, key); one cluster by default.

    The first two go into one 64-bit number, which sorts fast; strings are compared only inside
    runs of equal numbers.
    """
    values = np.asarray(similarity, np.float32)
    _all_finite(values, "similarity")
    words = _descending(values).astype(np.uint64)
    if cluster is not None:
        words |= np.asarray(cluster).astype(np.uint64) << np.uint64(32)
    return ordered(words, keys)


def by_value(
    values: NDArray[np.float64], keys: pa.Array | pa.ChunkedArray, size: int | None = None
) -> Rows:
    """The first `size` positions (all by default) in order of (value descending, key)."""
    values = np.asarray(values, np.float64)
    _all_finite(values, "value")
    return first(-values, keys, len(values) if size is None else size)


def first(words: NDArray[np.generic], keys: pa.Array | pa.ChunkedArray, size: int) -> Rows:
    """The first `size` positions in ascending order of (word, key), without sorting the rest."""
    if not 0 < size < len(words):
        return ordered(words, keys)[:size]
    # Whatever is above the word in the last place cannot be among them.
    candidates = np.flatnonzero(words <= np.partition(words, size - 1)[size - 1])
    return candidates[ordered(words[candidates], _take(keys, candidates))[:size]]


def ordered(words: NDArray[np.generic], keys: pa.Array | pa.ChunkedArray) -> Rows:
    """Positions in ascending order of (word, key); keys are looked at only where words tie."""
    order = np.argsort(words)
    if len(order) < 2:
        return order.astype(np.int64)
    in_order = words[order]
    new = np.concatenate([[True], in_order[1:] != in_order[:-1]])
    run = np.cumsum(new)  # the number of the run of equal words that a place belongs to
    tied = np.flatnonzero(np.bincount(run)[run] > 1)
    if tied.size:
        rows = order[tied]
        table = pa.table({"run": run[tied], "key": _take(keys, rows)})
        by_key = pc.sort_indices(table, sort_keys=[("run", "ascending"), ("key", "ascending")])
        order[tied] = rows[by_key.to_numpy()]
    return order.astype(np.int64)


def random_order(
    keys: pa.Array | pa.ChunkedArray, seed: int, size: int | None = None, threads: int = 1
) -> Rows:
    """The first `size` positions (all by default) in a uniformly random order of the keys.

    The order is that of a hash of seed and key (core.hashing), ties by key: it depends on the set
    of keys and the seed alone, and a smaller subset is part of a larger.
    """
    words = hash_keys(keys, f"random|{seed}", threads)
    return first(words, keys, len(keys) if size is None else size)


def _all_finite(values: NDArray[np.floating], name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"{name} of row {bad[0]} is not finite")


def _descending(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned integers in the opposite order of the (finite) floats."""
    bits = (np.float32(0.0) - values).view(np.uint32)  # a difference: no negative zero
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def _take(keys: pa.Array | pa.ChunkedArray, rows: Rows) -> pa.Array:
    taken = keys.take(pa.array(rows))
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
