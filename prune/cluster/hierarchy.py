"""Hierarchical k-means of a pool: clusters, clusters of their centroids, and so on.

Follows the description in Vo et al., "Automatic Data Curation for Self-Supervised Learning: A
Clustering-Based Approach" (arXiv 2405.15613). k-means puts more centroids where data are dense.
Clustering the centroids again, and clustering again only what is closest to the centroids
(resampling), flattens that step by step, so that the topmost clusters spread over concepts
rather than over images.

Deviations: directions and cosines (spherical k-means) in place of Euclidean distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.atomic import atomic_path
from core.errors import UserError
from core.parts import Tick, make_parts
from core.stage import Result, Stage, fingerprint, read_manifest
from data.formats.tables import write_part
from prune.cluster.assign import assignment
from prune.cluster.config import HierarchyConfig
from prune.cluster.cosine import nearest_of
from prune.cluster.features import Features, Floats, Held, Projected, Source
from prune.cluster.kmeans import sample_size, spherical_kmeans
from prune.cluster.whitening import fit_whitening

TREE = "parents.npz"

Level = tuple[Floats, NDArray[np.int32], Floats]  # centroids [K, d], labels [n], cosines [n]


def hierarchy(config: HierarchyConfig, stage: Stage) -> Result:
    """Cluster a pool level by level; write assignments to the smallest clusters, and the tree.

    A stopped run continues after its last finished level. Raises UserError when there are fewer
    embeddings than clusters.
    """
    features = Features(config.embeddings)
    sizes = config.levels or default_levels(features.rows)
    if sizes[0] > features.rows:
        raise UserError(
            f"--levels {sizes[0]}: there are only {features.rows:,} embeddings to cluster"
        )
    stage.open()

    def make(left: list[int], tick: Tick) -> Iterator[tuple[int, Level]]:
        for level in left:
            below = _read_level(config.out, level - 1)
            source = _pool(config, features, sizes[0]) if below is None else Held(below[0])
            yield (
                level,
                resampled(
                    source,
                    sizes[level],
                    seed=config.seed + 1000 * level,
                    iterations=config.iterations,
                    resamplings=config.resamplings,
                    watch=lambda _: tick(1),
                ),
            )

    def finished(level: int) -> Level | None:
        return _read_level(config.out, level)

    def write(level: int, made: Level) -> Level:
        _save(_level_path(config.out, level), *made)
        return made

    found = make_parts(
        [config.resamplings] * len(sizes), finished, make, write, name="k-means", unit="round"
    )
    _, leaves, similarity = found[0]
    parts, start = [], 0
    for index, (_, table) in enumerate(features.embeddings.parts()):
        here = slice(start, start + table.num_rows)
        start += table.num_rows
        assigned = assignment(table, leaves[here], similarity[here])
        parts.append(write_part(config.out, index, assigned).name)
    parents = {f"level_{n}": above[1].astype(np.int64) for n, above in enumerate(found[1:])}
    _save(config.out / TREE, **parents)
    images = np.bincount(leaves, minlength=sizes[0])
    result = stage.finish(
        {
            "rows": features.rows,
            "clusters": sizes[0],
            "levels": list(sizes),
            "sizes": images.tolist(),
            "encoder": features.embeddings.encoder,
            "centroids": {"embeddings": stage.inputs["embeddings"], "levels": list(sizes)},
        },
        [*parts, TREE],
        line=(
            f"{features.rows:,} images into {' and '.join(f'{n:,}' for n in sizes)} clusters, the "
            f"smallest of {images.min():,} to {images.max():,} images"
        ),
    )
    for level in range(len(sizes)):
        _level_path(config.out, level).unlink()
    return result


def default_levels(rows: int) -> tuple[int, ...]:
    """Levels for a pool of `rows` images."""
    return tuple(max(low, rows // n) for low, n in ((100, 500), (20, 5000), (5, 50_000)))


def resampled(
    source: Source,
    clusters: int,
    *,
    seed: int,
    iterations: int,
    resamplings: int,
    watch: Callable[[int], object] = lambda round_: None,
) -> Level:
    """k-means, then rounds of k-means of the rows closest to each centroid.

    A round takes the r rows closest to each centroid, r being half the mean size of a cluster,
    and clusters those alone. All rows belong to the nearest centroid of the last round.

    Returns centroids [K, d], labels [n] and cosines [n].
    """
    closest = max(1, source.rows // clusters // 2)
    sample = sample_size(clusters)
    first = spherical_kmeans(source, clusters, seed=seed, iterations=iterations, sample=sample)
    found, labels, cosines = first.centroids, first.labels, first.similarities
    for round_ in range(resamplings):
        watch(round_)
        order = np.lexsort((-cosines, labels))
        sizes = np.bincount(labels, minlength=clusters)
        turn = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = np.sort(order[turn < closest])
        if len(rows) < clusters:  # empty clusters: nothing to start the next round with
            break
        found = spherical_kmeans(
            source.subset(rows),
            clusters,
            seed=seed + 1 + round_,
            iterations=iterations,
            sample=sample,
        ).centroids
        labels, cosines = nearest_of(source, found)
    return found, labels, cosines


def _pool(config: HierarchyConfig, features: Features, clusters: int) -> Source:
    if not config.whiten:
        return features
    fitted = fit_whitening(features.sample(sample_size(clusters), config.seed), config.whiten)
    return Projected(features, fitted, fitted.dims)


def _level_path(out: Path, level: int) -> Path:
    """Where a finished level waits for the others: its arrays are large, and not part of the
    output."""
    return out / f".level-{level}.npz"


def _save(path: Path, *arrays: Any, **named: Any) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, *arrays, **named)


def _read_level(out: Path, level: int) -> Level | None:
    """What was saved of a level; None where nothing was, or not all of it."""
    path = _level_path(out, level)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            centroids, labels, cosines = (arrays[f"arr_{n}"] for n in range(3))
            return centroids, labels, cosines
    except Exception:  # a damaged archive is met with errors of every type
        return None


def read_parents(folder: Path | str) -> list[NDArray[np.int64]]:
    """For each level but the topmost: the parent of each of its clusters.

    Raises UserError when the folder is no output of prune.hierarchy.
    """
    fingerprint(folder, "prune.hierarchy")
    path = Path(folder) / TREE
    levels = read_manifest(folder)["summary"]["levels"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[f"level_{n}"] for n in range(len(levels) - 1)]
    except Exception as error:  # a damaged archive is met with errors of every type
        raise UserError(f"{path}: unreadable ({error}); make the hierarchy again") from None
