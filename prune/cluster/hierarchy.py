"""Hierarchical k-means of a pool: clusters, clusters of their centroids, and so on.

    python -m prune.hierarchy --embeddings pool --levels 20000 2000 200 --out tree
    python -m prune.select --method hierarchical --scores S --assignments tree --out X

Follows the description in Vo et al., "Automatic Data Curation for Self-Supervised Learning: A
Clustering-Based Approach" (arXiv 2405.15613). k-means puts more centroids where data are dense.
Clustering the centroids again, and clustering again only what is closest to the centroids
(resampling), flattens that step by step, so that the topmost clusters spread over concepts
rather than over images.

Deviations: directions and cosines (spherical k-means) in place of Euclidean distances.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, fingerprint, read_manifest, require_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prune.cluster.features import Source

TREE = "parents.npz"


@settings
class HierarchyConfig:
    """Settings of prune.hierarchy."""

    embeddings: Path
    """Embeddings of the whole pool: a folder made by prune.embed --keep 1."""
    out: Path
    """Output folder: assignments to the smallest clusters, and the tree above them."""
    levels: tuple[int, ...] = ()
    """Clusters of each level, the smallest clusters first, each number below the one before.
    Default: N/500, N/5,000 and N/50,000, but at least 100, 20 and 5 (10 million images: 20,000,
    2,000 and 200)."""
    resamplings: int = 10
    """Rounds of resampling at each level; 0: none."""
    iterations: int = 50
    """Limit on the iterations of each k-means."""
    seed: int = 0
    """Seed of the k-means starts."""
    whiten: int = 0
    """Whiten the embeddings to D dimensions first, see prune.centroids; 0: take them as they
    are."""


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
    watch: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """k-means, then rounds of k-means of the rows closest to each centroid.

    A round takes the r rows closest to each centroid, r being half the mean size of a cluster,
    and clusters those alone. All rows belong to the nearest centroid of the last round.

    Returns centroids [K, d], labels [n] and cosines [n].
    """
    import numpy as np

    from prune.cluster.pool_kmeans import cluster_pool

    closest = max(1, source.rows // clusters // 2)
    found = cluster_pool(source, clusters, seed=seed, iterations=iterations).centroids
    for round_ in range(resamplings):
        if watch is not None:
            watch(round_)
        labels, cosines = _nearest(source, found)
        order = np.lexsort((-cosines, labels))
        sizes = np.bincount(labels, minlength=clusters)
        turn = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = np.sort(order[turn < closest])
        if len(rows) < clusters:  # empty clusters: nothing to start the next round with
            break
        part = source.subset(rows)
        again = cluster_pool(part, clusters, seed=seed + 1 + round_, iterations=iterations)
        found = again.centroids
    return found, *_nearest(source, found)


def _nearest(
    source: Source, centroids: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    import numpy as np

    from prune.cluster.kmeans import assign

    found = [assign(block, centroids) for _, block in source.blocks()]
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def read_parents(folder: Path | str) -> list[NDArray[np.int64]]:
    """For each level but the topmost: the parent of each of its clusters.

    Raises UserError when the folder is no output of prune.hierarchy.
    """
    import numpy as np

    manifest = read_manifest(folder)
    if manifest["stage"] != "prune.hierarchy":
        raise UserError(f"{folder}: made by {manifest['stage']}, not by prune.hierarchy")
    path = Path(folder) / TREE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[f"level_{n}"] for n in range(len(manifest["summary"]["levels"]) - 1)]
    except Exception as error:  # a damaged archive is met with errors of every type
        raise UserError(f"{path}: unreadable ({error}); make the hierarchy again") from None


def _levels(config: HierarchyConfig, rows: int) -> tuple[int, ...]:
    levels = config.levels or default_levels(rows)
    if min(levels) < 1 or any(b >= a for a, b in itertools.pairwise(levels)):
        raise UserError(f"--levels {' '.join(map(str, levels))}: each must be below the one before")
    if levels[0] > rows:
        raise UserError(f"--levels {levels[0]}: there are only {rows:,} embeddings to cluster")
    return levels


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        HierarchyConfig,
        argv,
        prog="python -m prune.hierarchy",
        description="Cluster a pool hierarchically.",
    )
    if min(config.resamplings, config.seed) < 0 or config.iterations < 1:
        raise UserError("--resamplings and --seed must be at least 0, --iterations at least 1")
    require_folder(config.out)
    ids = {"embeddings": fingerprint(config.embeddings, "prune.embed")}
    stage = Stage(config.out, "prune.hierarchy", science(config), ids)
    if stage.done():
        return 0
    import numpy as np

    from core.atomic import atomic_path
    from core.progress import progress
    from prune.cluster.features import Features, Held, Projected
    from prune.cluster.pool_kmeans import sample_size
    from prune.cluster.whitening import fit_whitening

    features = Features(config.embeddings)
    levels = _levels(config, features.rows)
    stage.open()
    source: Source = features
    if config.whiten:
        fitted = fit_whitening(features.sample(sample_size(levels[0]), config.seed), config.whiten)
        source = Projected(features, fitted, fitted.dims)
    parents: list[NDArray[np.int64]] = []
    with progress(total=len(levels) * config.resamplings, name="k-means", unit="round") as bar:

        def watch(_: int) -> None:
            bar.update()

        for level, clusters in enumerate(levels):
            centroids, labels, cosines = resampled(
                source,
                clusters,
                seed=config.seed + 1000 * level,
                iterations=config.iterations,
                resamplings=config.resamplings,
                watch=watch,
            )
            if level == 0:
                leaves, similarity = labels, cosines
            else:
                parents.append(labels.astype(np.int64))
            source = Held(centroids)
    parts = _write(config.out, features, leaves, similarity)
    named: dict[str, Any] = {f"level_{n}": array for n, array in enumerate(parents)}
    with atomic_path(config.out / TREE) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **named)
    sizes = np.bincount(leaves, minlength=levels[0])
    summary: dict[str, Any] = {
        "rows": features.rows,
        "clusters": levels[0],
        "levels": list(levels),
        "sizes": sizes.tolist(),
        "encoder": features.embeddings.encoder,
        "centroids": {"embeddings": ids["embeddings"], "levels": list(levels)},
    }
    line = (
        f"{features.rows:,} images into {' and '.join(f'{n:,}' for n in levels)} clusters, the "
        f"smallest of {sizes.min():,} to {sizes.max():,} images"
    )
    stage.finish(summary, [*parts, TREE], line=line)
    return 0


def _write(
    out: Path, features: Any, leaves: NDArray[np.int32], similarity: NDArray[np.float32]
) -> list[str]:
    """Write assignments to the smallest clusters, as prune.assign does. Returns the parts."""
    import pyarrow as pa

    from data.formats.tables import write_part

    names = []
    start = 0
    for number, (_, table) in enumerate(features.embeddings.parts()):
        here = slice(start, start + table.num_rows)
        columns = {name: table.column(name) for name in ("key", "shard", "row")}
        none = pa.nulls(table.num_rows, pa.float64())
        columns["entropy"] = table.column("entropy") if "entropy" in table.column_names else none
        columns["cluster"] = pa.array(leaves[here], pa.int32())
        columns["similarity"] = pa.array(similarity[here], pa.float32())
        names.append(write_part(out, number, pa.table(columns)).name)
        start += table.num_rows
    return names
