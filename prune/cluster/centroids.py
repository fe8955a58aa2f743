"""Prototypes: spherical k-means of the reference set's embeddings, or of the corpus's own.

    python -m prune.centroids --embeddings reference --clusters 200 --seed 0 --out centroids
    python -m prune.centroids --embeddings resisc45 ucm aid --clusters 200 --out union
    python -m prune.centroids --embeddings pool --clusters 200 --streaming --out own

The first is the paper's. The second clusters the union of several reference sets. The third has
no reference: the corpus is clustered itself, as several baselines do it (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.settings import parse, science, settings
from core.stage import Stage, fingerprint, read_manifest, require_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data.formats.embeddings import Embeddings
    from prune.cluster.whitening import Whitening


@settings
class CentroidsConfig:
    """Settings of prune.centroids."""

    embeddings: tuple[Path, ...]
    """Embeddings of the reference set: a folder made by prune.embed; several: their union. Those
    of a corpus give prototypes without a reference."""
    out: Path
    """Output folder: centroids.npy, float32 [K, d] (or [K, D], see --whiten), unit rows."""
    clusters: int = 200
    """K, number of prototypes (the paper: 200)."""
    seed: int = 0
    """Seed of the k-means++ starts."""
    restarts: int = 5
    """Independent starts, of which the tightest clustering is kept."""
    iterations: int = 100
    """Limit on the iterations of a start; it ends before when no label changes."""
    whiten: int = 0
    """Whiten the embeddings to D dimensions first, by the reference's mean and covariance; 0: take
    them as they are (the paper). Meant for hand-made descriptors, whose vectors share a large
    common part; Git-RSCLIP is used as it is."""
    reduce: int = 0
    """Reduce the embeddings to D dimensions by PCA first and normalise them again, with variances
    as they are (Table 4's clustering of the pre-filtered set: 128); 0: no."""
    streaming: bool = False
    """Read the embeddings once for each iteration instead of holding them in memory, from one
    start. For the embeddings of a whole corpus."""


def read_centroids(folder: Path | str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Prototypes [K, d] float32 with unit rows, and the encoder's fingerprint.

    Raises UserError when the folder is no finished output of prune.centroids.
    """
    import numpy as np

    from data.formats.embeddings import NORM_TOLERANCE

    manifest = read_manifest(folder)
    if manifest["stage"] != "prune.centroids":
        raise UserError(f"{folder}: made by {manifest['stage']}, not by prune.centroids")
    path = Path(folder) / "centroids.npy"
    try:
        centroids = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header is met with errors of every type
        raise UserError(f"{path}: unreadable ({error}); make the centroids again") from None
    summary = manifest["summary"]
    if centroids.shape != (summary["clusters"], summary["dim"]):
        raise UserError(f"{path}: shape {centroids.shape} is not what its manifest says")
    norms = np.linalg.norm(centroids, axis=1)
    if not (np.abs(norms - 1) < NORM_TOLERANCE).all():  # NaN neither
        raise UserError(f"{path}: damaged (rows not of unit length); make the centroids again")
    return centroids, summary["encoder"]


def read_whitening_of(folder: Path | str) -> Whitening | None:
    """The map into the space of the prototypes of `folder` (--whiten, --reduce), or None.

    Raises UserError when it is damaged.
    """
    manifest = read_manifest(folder)
    if not (manifest["params"].get("whiten") or manifest["params"].get("reduce")):
        return None
    from prune.cluster.whitening import read_whitening

    return read_whitening(Path(folder), manifest["summary"]["dim"])


def origin(folder: Path | str) -> dict[str, Any]:
    """What the prototypes of `folder` were learnt from: 'embeddings' (fingerprint, or fingerprints
    joined by '+') and, where they were reduced or whitened, to how many dimensions."""
    manifest = read_manifest(folder)
    maps = {name: manifest["params"].get(name) for name in ("whiten", "reduce")}
    learnt = {"embeddings": manifest["inputs"]["embeddings"]}
    return {**learnt, **{name: dims for name, dims in maps.items() if dims}}


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        CentroidsConfig,
        argv,
        prog="python -m prune.centroids",
        description="Cluster the embeddings of a reference set into prototypes.",
    )
    _check(config)
    require_folder(config.out)
    params = science(config)
    for name in ("reduce", "streaming"):  # as before there were such settings, where unused
        if not params[name]:
            del params[name]
    ids = "+".join(fingerprint(folder) for folder in config.embeddings)
    stage = Stage(config.out, "prune.centroids", params, {"embeddings": ids})
    if stage.done():
        return 0
    from data.formats.embeddings import Embeddings, require_same_encoder

    sets = [Embeddings(folder) for folder in config.embeddings]
    for other in sets[1:]:
        require_same_encoder(sets[0], other)
    stage.open()
    summary, outputs = _streamed(config) if config.streaming else _held(config, sets)
    sizes = summary["sizes"]
    dims = config.whiten or config.reduce
    how = f" {'whitened' if config.whiten else 'reduced'} to {dims} dimensions" if dims else ""
    cut = "" if summary["converged"] else ", not converged"
    stage.finish(
        {"clusters": config.clusters, **summary, "encoder": sets[0].encoder},
        outputs,
        line=(
            f"{summary['rows']:,} embeddings{how} into {config.clusters} clusters of "
            f"{min(sizes):,} to {max(sizes):,} (mean 1 - cosine {summary['objective']:.4f}, "
            f"{summary['iterations']} iterations{cut})"
        ),
    )
    return 0


def _check(config: CentroidsConfig) -> None:
    if not config.embeddings:
        raise UserError("--embeddings: give at least one folder made by prune.embed")
    if len({folder.resolve() for folder in config.embeddings}) < len(config.embeddings):
        raise UserError("--embeddings: the same folder is given twice")
    if config.iterations < 1 or config.restarts < 1:
        raise UserError("--iterations and --restarts must be at least 1")
    if config.seed < 0:
        raise UserError(f"--seed {config.seed}: must be at least 0")
    for name, dims in (("whiten", config.whiten), ("reduce", config.reduce)):
        if dims < 0:
            raise UserError(f"--{name} {dims}: a number of dimensions, or 0 for none")
    if config.whiten and config.reduce:
        raise UserError("--whiten and --reduce: give one of them")
    if config.streaming and len(config.embeddings) > 1:
        raise UserError("--streaming reads one folder of --embeddings")


def _fit(config: CentroidsConfig, points: NDArray[np.float32]) -> tuple[Whitening, list[str]]:
    """Fit and write the map that --whiten or --reduce asks for."""
    from prune.cluster.whitening import fit_whitening, write_whitening

    if config.whiten:
        fitted = fit_whitening(points, config.whiten)
    else:
        fitted = fit_whitening(points, config.reduce, scaled=False)
    return fitted, write_whitening(config.out, fitted)


def _held(config: CentroidsConfig, sets: Sequence[Embeddings]) -> tuple[dict[str, Any], list[str]]:
    """Cluster embeddings that are held in memory."""
    import numpy as np

    from core.progress import progress
    from prune.cluster.kmeans import spherical_kmeans, unit_rows

    keys = [key for one in sets for key in one.table(["key"]).column("key").to_pylist()]
    points = sets[0].matrix() if len(sets) == 1 else np.concatenate([s.matrix() for s in sets])
    outputs = ["centroids.npy"]
    if config.whiten or config.reduce:
        points = unit_rows(points, keys)
        fitted, written = _fit(config, points)
        outputs += written
        points = fitted(points)
    # A start may end before its limit, so the bar counts iterations without a total.
    with progress(name="k-means", unit="iteration") as bar:

        def watch(restart: int, iteration: int, objective: float) -> None:
            start = f"{restart + 1}/{config.restarts}"
            bar.set_postfix(start=start, loss=f"{objective:.5f}", refresh=False)
            bar.update()

        found = spherical_kmeans(
            points,
            config.clusters,
            seed=config.seed,
            restarts=config.restarts,
            iterations=config.iterations,
            names=keys,
            watch=watch,
        )
    _write(config.out, found.centroids)
    return {
        "dim": int(found.centroids.shape[1]),
        "rows": len(keys),
        "objective": found.objective,  # mean of 1 - cosine
        "objectives": list(found.objectives),
        "iterations": found.iterations,
        "converged": found.converged,
        "restart": found.restart,
        "sizes": found.sizes.tolist(),
    }, outputs


def _streamed(config: CentroidsConfig) -> tuple[dict[str, Any], list[str]]:
    """Cluster embeddings that are read anew for each iteration."""
    from core.progress import progress
    from prune.cluster.features import Features, Projected, Source
    from prune.cluster.pool_kmeans import cluster_pool, sample_size

    features: Source = Features(config.embeddings[0])
    outputs = ["centroids.npy"]
    if config.whiten or config.reduce:
        fitted, written = _fit(config, features.sample(sample_size(config.clusters), config.seed))
        outputs += written
        features = Projected(features, fitted, fitted.dims)
    with progress(total=config.iterations, name="k-means", unit="iteration") as bar:

        def watch(iteration: int, objective: float) -> None:
            bar.set_postfix(loss=f"{objective:.5f}", refresh=False)
            bar.update()

        found = cluster_pool(
            features,
            config.clusters,
            seed=config.seed,
            iterations=config.iterations,
            watch=watch,
        )
    _write(config.out, found.centroids)
    return {
        "dim": int(found.centroids.shape[1]),
        "rows": features.rows,
        "objective": found.objective,
        "iterations": found.iterations,
        "converged": found.converged,
        "sizes": found.sizes.tolist(),
    }, outputs


def _write(folder: Path, centroids: NDArray[np.float32]) -> None:
    import numpy as np

    from core.atomic import atomic_path

    with atomic_path(folder / "centroids.npy") as temporary, open(temporary, "wb") as stream:
        np.save(stream, centroids)
