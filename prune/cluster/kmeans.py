"""Spherical k-means: the centroids of Stage II are unit vectors (||mu_k|| = 1, Eq. 3).

Points and centroids live on the unit hypersphere, a point belongs to the centroid of highest
cosine similarity, and a centroid is the re-normalised sum of its points. That is not the same
as Euclidean k-means with one normalisation at the end: there, the assignment uses centroids
whose length depends on how loose the cluster is.

The points are rows of a source: held in memory, or read from disk again for each iteration, so
that a pool of any size takes 12 bytes a row and a block of rows. An iteration is one matrix product
(points x centroids, float32) and one pass that sums the points of each cluster (float32 inside a
chunk of rows, float64 across chunks). Chunks are of a fixed size and in a fixed order, so the same
input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from core.errors import UserError
from prune.cluster.cosine import CHUNK, nearest, product
from prune.cluster.features import Floats, Source, unit_rows

SAME = 1e-6  # 1 - cosine below this is float32 rounding: the two are the same point
SPARE = 64  # rows farthest from every centroid that may refill empty clusters of a sampled source

Watch = Callable[[int, int, float], object]  # restart, iteration, objective


@dataclass(frozen=True)
class Clustering:
    """The best of several restarts.

    Attributes:
        centroids: [K, d] float32, unit rows.
        labels: [N] int32, the centroid of highest cosine; ties go to the lower cluster.
        similarities: [N] float32, the cosine to that centroid, in [-1, 1].
        sizes: [K] int64, points of each cluster.
        objective: mean of 1 - cosine over the points, in [0, 2]; lower is tighter.
        iterations: iterations that the best restart took.
        converged: whether its labels stopped changing before the limit.
        restart: which restart was the best.
        objectives: the objective of each restart.
    """

    centroids: Floats
    labels: NDArray[np.int32]
    similarities: Floats
    sizes: NDArray[np.int64]
    objective: float
    iterations: int
    converged: bool
    restart: int
    objectives: tuple[float, ...]


def sample_size(clusters: int) -> int:
    """Rows in the sample that a start is drawn from: bounded in memory for a large K."""
    return min(256 * clusters, max(65_536, 4 * clusters))


def spherical_kmeans(
    source: Source,
    clusters: int,
    *,
    seed: int = 0,
    restarts: int = 1,
    trials: int = 1,
    iterations: int = 100,
    sample: int | None = None,
    initial: NDArray[np.floating] | None = None,
    watch: Watch | None = None,
) -> Clustering:
    """Cluster directions by cosine similarity.

    Args:
        source: N rows of width d.
        clusters: K, at most the number of distinct points.
        seed: restart r draws from the generator of (seed, r).
        restarts: independent k-means++ starts, of which the lowest objective wins (the earliest
            one where they are equal).
        trials: of each step of a start, see `plus_plus`.
        iterations: limit of each restart; it stops before when no label changes.
        sample: for a source that is read from disk: draw the starts from a uniform sample of so
            many rows (see `sample_size`), read a block at a time, and refill empty clusters from
            the SPARE farthest rows. None: from all rows, which should be in memory.
        initial: [K, d] centroids to start from, instead of k-means++ and restarts.
        watch: called as (restart, iteration, objective) after each assignment.

    Raises UserError for K below 1 or above the number of distinct points.
    """
    if not 1 <= clusters <= source.rows:
        raise UserError(
            f"--clusters {clusters}: there are {source.rows:,} embeddings to cluster; ask for 1 to "
            "that many"
        )
    if initial is not None and np.shape(initial) != (clusters, source.dim):
        raise ValueError(f"initial has shape {np.shape(initial)}, not {clusters, source.dim}")
    starts = (
        _starts(source, clusters, seed, restarts, trials, sample)
        if initial is None
        else [unit_rows(initial)]
    )
    found = [
        _lloyd(source, start, iterations, restart, sample is not None, watch)
        for restart, start in enumerate(starts)
    ]
    objectives = tuple(one.objective for one in found)
    return replace(found[objectives.index(min(objectives))], objectives=objectives)


def _starts(
    source: Source, clusters: int, seed: int, restarts: int, trials: int, sample: int | None
) -> list[Floats]:
    """The first centroids [K, d] of each restart."""
    units = _all_rows(source) if sample is None else source.sample(sample, seed)
    distinct = len(_distinct(units, clusters))
    if distinct < clusters:
        among = f"the {source.rows:,}" if len(units) == source.rows else f"{len(units):,} sampled"
        raise UserError(
            f"--clusters {clusters}: only {distinct} distinct points among {among} embeddings; "
            f"ask for at most {distinct} clusters"
        )
    generators = [np.random.default_rng([seed, restart]) for restart in range(restarts)]
    return [units[plus_plus(units, clusters, random, trials)] for random in generators]


def _all_rows(source: Source) -> Floats:
    """All rows [N, d] at once: those of a source in memory are not copied."""
    return next(units for _, units in source.blocks(source.rows))


def plus_plus(
    units: Floats, clusters: int, random: np.random.Generator, trials: int = 1
) -> NDArray[np.int64]:
    """k-means++ on the sphere: each new row is drawn with probability ~ 1 - cos to the nearest.

    (1 - cos is half the squared distance of unit vectors, so this is the usual D^2 rule.)
    With several trials, greedy k-means++ (Arthur and Vassilvitskii 2007, section 5): so many rows
    are drawn in each step, and the one that leaves the smallest sum of 1 - cos is taken.

    With one, rows are proposed a batch at a time from the weights at the batch's start, and a
    proposal is kept with probability (weight now) / (weight then). That is rejection sampling, so
    the draw is exactly that of the sequential rule, and the points are read once for each batch
    instead of once for each centroid.

    Returns [K] row numbers of `units` [N, d], all different rows of different directions.
    """
    chosen = [int(random.integers(len(units)))]
    weights = np.maximum(0.0, 1.0 - product(units, units[chosen])[:, 0].astype(np.float64))
    weights[weights < SAME] = 0.0
    while len(chosen) < clusters:
        cumulative = np.cumsum(weights)
        if cumulative[-1] <= 0.0:  # what is left differs from the chosen by rounding alone
            chosen.extend(_distinct(units, clusters - len(chosen), chosen))
            break
        if trials > 1:
            drawn = np.searchsorted(cumulative, random.random(trials) * cumulative[-1], "right")
            drawn = np.minimum(drawn, len(units) - 1)
            left = np.maximum(0.0, 1.0 - product(units, units[drawn]).astype(np.float64))
            np.minimum(left, weights[:, None], out=left)
            left[left < SAME] = 0.0
            best = int(left.sum(axis=0).argmin())
            chosen.append(int(drawn[best]))
            weights = left[:, best]
            continue
        batch = min(16, clusters - len(chosen))
        drawn = np.searchsorted(cumulative, random.random(batch) * cumulative[-1], side="right")
        drawn = np.minimum(drawn, len(units) - 1)
        accept = random.random(batch)
        between = np.maximum(0.0, 1.0 - (units[drawn] @ units[drawn].T).astype(np.float64))
        between[between < SAME] = 0.0
        kept: list[int] = []
        for place, row in enumerate(drawn):
            then = weights[row]
            now = min([then, *between[place, kept]])
            if now > 0.0 and accept[place] * then < now:
                kept.append(place)
        if not kept:
            continue
        fresh = drawn[kept]
        chosen.extend(int(row) for row in fresh)
        closest = product(units, units[fresh]).max(axis=1).astype(np.float64)
        weights = np.minimum(weights, np.maximum(0.0, 1.0 - closest))
        weights[weights < SAME] = 0.0
    return np.asarray(chosen, dtype=np.int64)


def _lloyd(
    source: Source,
    centroids: Floats,
    iterations: int,
    restart: int,
    sampled: bool,
    watch: Watch | None,
) -> Clustering:
    """Iterate from `centroids` [K, d], which this overwrites."""
    sums = np.empty(centroids.shape, np.float64)
    labels, similarities = np.empty(source.rows, np.int32), np.empty(source.rows, np.float32)
    previous: NDArray[np.int32] | None = None
    # The objective is summed as the rows are read: this order is part of its last digit.
    span = CHUNK if sampled else source.rows
    done = 0
    while True:
        _assign_and_sum(source, centroids, labels, similarities, sums)
        parts = (similarities[n : n + span] for n in range(0, source.rows, span))
        loss = sum(float(np.sum(1.0 - part.astype(np.float64))) for part in parts)
        objective = loss / source.rows
        if watch is not None:
            watch(restart, done, objective)
        converged = previous is not None and np.array_equal(labels, previous)
        sizes = np.bincount(labels, minlength=len(centroids)).astype(np.int64)
        if converged or done == iterations:
            break
        refilled = not sizes.all() and _refill(source, labels, similarities, sums, sampled)
        previous = None if refilled else labels.copy()
        lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        # A cluster whose points cancel out has no direction; it keeps the centroid it had.
        alive = lengths > 1e-9
        centroids[alive] = sums[alive] / lengths[alive, None]
        done += 1
    return Clustering(
        centroids=centroids,
        labels=labels,
        similarities=similarities,
        sizes=sizes,
        objective=objective,
        iterations=done,
        converged=converged,
        restart=restart,
        objectives=(objective,),
    )


def _assign_and_sum(
    source: Source,
    centroids: Floats,
    labels: NDArray[np.int32],
    similarities: Floats,
    sums: NDArray[np.float64],
) -> None:
    """Overwrite the last three: of each row its nearest centroid and the cosine to it, and of each
    cluster the sum [d] of its rows."""
    sums[:] = 0.0
    for rows, units in source.blocks(CHUNK):
        near, similarities[rows] = nearest(units, centroids)
        labels[rows] = near
        # A K x rows matrix of ones, its rows in cluster order, sums each cluster in one pass.
        order = np.argsort(near, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(near, minlength=len(sums)))])
        ones = np.ones(len(near), np.float32)
        sums += csr_array((ones, order, starts), shape=(len(sums), len(near))) @ units


def _refill(
    source: Source,
    labels: NDArray[np.int32],
    similarities: Floats,
    sums: NDArray[np.float64],
    sampled: bool,
) -> bool:
    """Give each empty cluster the point that is farthest from every centroid; False: none left.

    Edits `sums` only: the point leaves the sum of its old cluster and founds the empty one. Of
    equally far points the first is taken, so the choice is deterministic.
    """
    sizes = np.bincount(labels, minlength=len(sums))
    if sampled:
        spare = np.argsort(similarities, kind="stable")[:SPARE]
        units, closest, labels = source.take(spare), similarities[spare], labels[spare]
    else:
        units, closest, labels = _all_rows(source), similarities.copy(), labels.copy()
    changed = False
    for cluster in np.flatnonzero(sizes == 0):
        # Emptying a cluster of one to fill another gains nothing.
        candidates = np.where(sizes[labels] > 1, closest, np.inf)
        row = int(candidates.argmin())
        if not candidates[row] < 1.0 - SAME:
            break
        old = labels[row]
        sums[old] -= units[row]
        sums[cluster] = units[row]
        sizes[old] -= 1
        sizes[cluster] += 1
        labels[row] = cluster
        np.maximum(closest, product(units, units[row : row + 1])[:, 0], out=closest)
        changed = True
    return changed


def _distinct(units: Floats, count: int, chosen: Sequence[int] = ()) -> list[int]:
    """The first rows, at most `count`, that equal no chosen one and no other of them."""
    # + 0.0: a negative zero is the same number
    seen = {(units[row] + 0.0).tobytes() for row in chosen}
    found: list[int] = []
    for row, unit in enumerate(units):
        if len(found) == count:
            break
        name = (unit + 0.0).tobytes()
        if name not in seen:
            seen.add(name)
            found.append(row)
    return found
