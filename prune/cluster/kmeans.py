"""Spherical k-means: the prototypes of Stage II are unit vectors (||mu_k|| = 1).

Points and centroids live on the unit hypersphere, a point belongs to the centroid of highest
cosine similarity, and a centroid is the re-normalised sum of its points. That is not the same
as Euclidean k-means with one normalisation at the end: there, the assignment uses centroids
whose length depends on how loose the cluster is.

The work of an iteration is one matrix product (points x centroids, float32) and one pass that
sums the points of each cluster (float32 inside a chunk of rows, float64 across chunks). Chunks
are of a fixed size and in a fixed order, so the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from core.errors import UserError

CHUNK = 4096  # rows: 4096 x 1024 float32 is 16 MiB, and the scores for K = 200 are 3 MiB
SAME = 1e-6  # 1 - cosine below this is float32 rounding: the two are the same point

Floats = NDArray[np.float32]


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


def unit_rows(points: NDArray[np.floating], names: Sequence[str] | None = None) -> Floats:
    """A float32 copy of `points` [N, d] with rows of length one.

    Raises UserError naming the first row (by `names` where given) that is zero or not finite.
    """
    points = np.asarray(points)
    if points.ndim != 2:
        raise ValueError(f"expected points of shape [N, d], got {points.shape}")
    units = np.array(points, dtype=np.float32, order="C")
    lengths = np.sqrt(np.einsum("ij,ij->i", units, units, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        row = int(bad[0])
        what = "zero" if lengths[row] == 0 else "not finite"
        name = f" ({names[row]})" if names is not None else ""
        more = f", and {bad.size - 1:,} more" if bad.size > 1 else ""
        raise UserError(
            f"row {row}{name} of the embeddings is {what}{more}: it has no direction on the unit "
            "sphere; make the embeddings again"
        )
    units /= lengths[:, None].astype(np.float32)
    return units


def spherical_kmeans(
    points: NDArray[np.floating],
    clusters: int,
    *,
    seed: int = 0,
    restarts: int = 5,
    iterations: int = 100,
    initial: NDArray[np.floating] | None = None,
    names: Sequence[str] | None = None,
    watch: Callable[[int, int, float], None] | None = None,
) -> Clustering:
    """Cluster directions by cosine similarity.

    Args:
        points: [N, d]; rows are normalised first.
        clusters: K, at most the number of distinct points.
        seed: restart r draws from the generator of (seed, r).
        restarts: independent k-means++ starts, of which the lowest objective wins (the earliest
            one where they are equal).
        iterations: limit of each restart; it stops before when no label changes.
        initial: [K, d] centroids to start from, instead of k-means++ and restarts.
        names: names of the rows, for error messages.
        watch: called as (restart, iteration, objective) after each assignment.

    Raises UserError for K below 1 or above the number of distinct points, and for rows that are
    zero or not finite.
    """
    units = unit_rows(points, names)
    if clusters < 1:
        raise UserError(f"--clusters {clusters}: at least one cluster is needed")
    distinct = _distinct(units, clusters)
    if distinct < clusters:
        raise UserError(
            f"--clusters {clusters}: only {distinct} distinct points among the {len(units)} "
            f"embeddings of the reference set; ask for at most {distinct} clusters"
        )
    if initial is not None and np.shape(initial) != (clusters, units.shape[1]):
        raise ValueError(f"initial has shape {np.shape(initial)}, not {clusters, units.shape[1]}")
    best: Clustering | None = None
    objectives = []
    for restart in range(1 if initial is not None else max(1, restarts)):
        if initial is not None:
            start = unit_rows(initial)
        else:
            start = units[plus_plus(units, clusters, np.random.default_rng([seed, restart]))]
        result = _lloyd(units, start, iterations, restart, watch)
        objectives.append(result.objective)
        if best is None or result.objective < best.objective:
            best = result
    assert best is not None
    return replace(best, objectives=tuple(objectives))


def plus_plus(units: Floats, clusters: int, random: np.random.Generator) -> NDArray[np.int64]:
    """k-means++ on the sphere: each new row is drawn with probability ~ 1 - cos to the nearest.

    (1 - cos is half the squared distance of unit vectors, so this is the usual D^2 rule.)
    Rows are proposed a batch at a time from the weights at the batch's start, and a proposal is
    kept with probability (weight now) / (weight then). That is rejection sampling, so the draw is
    exactly that of the sequential rule, and the points are read once for each batch instead of
    once for each centroid.

    Returns [K] row numbers of `units` [N, d], all different rows of different directions.
    """
    chosen = [int(random.integers(len(units)))]
    weights = np.maximum(0.0, 1.0 - _product(units, units[chosen])[:, 0].astype(np.float64))
    weights[weights < SAME] = 0.0
    while len(chosen) < clusters:
        cumulative = np.cumsum(weights)
        if cumulative[-1] <= 0.0:  # what is left differs from the chosen by rounding alone
            chosen.extend(_other_rows(units, chosen, clusters - len(chosen)))
            break
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
        nearest = _product(units, units[fresh]).max(axis=1).astype(np.float64)
        weights = np.minimum(weights, np.maximum(0.0, 1.0 - nearest))
        weights[weights < SAME] = 0.0
    return np.asarray(chosen, dtype=np.int64)


def assign(
    units: Floats, centroids: Floats, sums: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int32], Floats]:
    """The nearest centroid of each point by cosine, and that cosine.

    Args:
        units: [N, d] float32 unit rows.
        centroids: [K, d] float32 unit rows.
        sums: [K, d] float64; when given, it is overwritten with the sum of each cluster's points.

    Returns labels [N] int32 (ties: the lower cluster) and cosines [N] float32.
    """
    rows, clusters = len(units), len(centroids)
    labels = np.empty(rows, np.int32)
    similarities = np.empty(rows, np.float32)
    transposed = np.ascontiguousarray(centroids.T)
    scores = np.empty((min(CHUNK, rows), clusters), np.float32)
    ones = np.ones(min(CHUNK, rows), np.float32)
    if sums is not None:
        sums[:] = 0.0
    for start in range(0, rows, CHUNK):
        chunk = units[start : start + CHUNK]
        size = len(chunk)
        np.matmul(chunk, transposed, out=scores[:size])
        nearest = scores[:size].argmax(axis=1)
        labels[start : start + size] = nearest
        similarities[start : start + size] = scores[np.arange(size), nearest]
        if sums is not None:
            # A K x rows matrix of ones, its rows in cluster order, sums each cluster in one pass.
            order = np.argsort(nearest, kind="stable")
            starts = np.concatenate([[0], np.cumsum(np.bincount(nearest, minlength=clusters))])
            sums += csr_array((ones[:size], order, starts), shape=(clusters, size)) @ chunk
    return labels, similarities


def _lloyd(
    units: Floats,
    centroids: Floats,
    iterations: int,
    restart: int,
    watch: Callable[[int, int, float], None] | None,
) -> Clustering:
    clusters = len(centroids)
    centroids = centroids.copy()
    sums = np.empty((clusters, units.shape[1]), np.float64)
    previous: NDArray[np.int32] | None = None
    converged = False
    done = 0
    while True:
        labels, similarities = assign(units, centroids, sums)
        objective = float(np.mean(1.0 - similarities.astype(np.float64)))
        if watch is not None:
            watch(restart, done, objective)
        empty = np.flatnonzero(np.bincount(labels, minlength=clusters) == 0)
        moved = previous is None or not np.array_equal(labels, previous)
        if not moved or done == iterations:
            converged = not moved
            break
        previous = labels
        if empty.size:
            previous = None if _reseed(units, labels, similarities, sums, empty) else labels
        lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))
        # A cluster whose points cancel out has no direction; it keeps the centroid it had.
        alive = lengths > 1e-9
        centroids[alive] = sums[alive] / lengths[alive, None]
        done += 1
    return Clustering(
        centroids=centroids,
        labels=labels,
        similarities=similarities,
        sizes=np.bincount(labels, minlength=clusters).astype(np.int64),
        objective=objective,
        iterations=done,
        converged=converged,
        restart=restart,
        objectives=(objective,),
    )


def _reseed(
    units: Floats,
    labels: NDArray[np.int32],
    similarities: Floats,
    sums: NDArray[np.float64],
    empty: NDArray[np.int64],
) -> bool:
    """Give each empty cluster the point that is farthest from every centroid; False: none left.

    Edits `sums` only: the point leaves the sum of its old cluster and founds the empty one. The
    farthest point of lowest row number is taken, so the choice is deterministic.
    """
    sizes = np.bincount(labels, minlength=len(sums))
    nearest = similarities.copy()
    labels = labels.copy()
    changed = False
    for cluster in empty:
        # Emptying a cluster of one to fill another gains nothing.
        candidates = np.where(sizes[labels] > 1, nearest, np.inf)
        row = int(candidates.argmin())
        if not candidates[row] < 1.0 - SAME:
            break
        old = labels[row]
        sums[old] -= units[row]
        sums[cluster] = units[row]
        sizes[old] -= 1
        sizes[cluster] += 1
        labels[row] = cluster
        np.maximum(nearest, _product(units, units[row : row + 1])[:, 0], out=nearest)
        changed = True
    return changed


def _product(units: Floats, few: Floats) -> Floats:
    """units [N, d] times the transpose of a few rows [m, d]: [N, m], a chunk of rows at a time."""
    out = np.empty((len(units), len(few)), np.float32)
    transposed = np.ascontiguousarray(few.T)
    for start in range(0, len(units), CHUNK):
        np.matmul(units[start : start + CHUNK], transposed, out=out[start : start + CHUNK])
    return out


def _distinct(units: Floats, enough: int) -> int:
    """The number of distinct rows, counted no further than `enough`."""
    seen: set[bytes] = set()
    for row in units:
        seen.add((row + 0.0).tobytes())  # + 0.0: a negative zero is the same number
        if len(seen) >= enough:
            break
    return len(seen)


def _other_rows(units: Floats, chosen: list[int], count: int) -> list[int]:
    """The first `count` rows that equal none of the chosen rows and none of each other."""
    seen = {(units[row] + 0.0).tobytes() for row in chosen}
    found: list[int] = []
    for row in range(len(units)):
        name = (units[row] + 0.0).tobytes()
        if name not in seen:
            seen.add(name)
            found.append(row)
            if len(found) == count:
                break
    return found
