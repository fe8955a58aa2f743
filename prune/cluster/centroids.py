"""Centroids on disk: learnt from embeddings by spherical k-means (Eq. 3), and read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.atomic import atomic_path
from core.errors import UserError
from core.progress import progress
from core.stage import Result, Stage, fingerprint, read_manifest
from data.formats.embeddings import NORM_TOLERANCE, Embeddings, require_same_encoder
from prune.cluster.config import CentroidsConfig
from prune.cluster.features import Features, Floats, Held, Projected, Source, unit_rows
from prune.cluster.kmeans import sample_size, spherical_kmeans
from prune.cluster.whitening import Whitening, fit_whitening, read_whitening, write_whitening


def centroids(config: CentroidsConfig, stage: Stage) -> Result:
    """Cluster embeddings and write their centroids.

    Raises UserError for embeddings of different encoders, and when they have fewer distinct rows
    or directions than are asked for.
    """
    sets = [Embeddings(folder) for folder in config.embeddings]
    for other in sets[1:]:
        require_same_encoder(sets[0], other)
    stage.open()
    sample = sample_size(config.clusters) if config.streaming else None
    source, outputs = _streamed(config) if config.streaming else _held(config, sets)
    restarts = 1 if config.streaming else config.restarts
    # A start may end before its limit, so the bar counts iterations without a total.
    with progress(name="k-means", unit="iteration") as bar:

        def watch(restart: int, _: int, objective: float) -> None:
            start = f"{restart + 1}/{restarts}"
            bar.set_postfix(start=start, loss=f"{objective:.5f}", refresh=False)
            bar.update()

        found = spherical_kmeans(
            source,
            config.clusters,
            seed=config.seed,
            restarts=restarts,
            trials=config.tried,
            iterations=config.iterations,
            sample=sample,
            watch=watch,
        )
    stage.count(source.rows)
    path = config.out / "centroids.npy"
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, found.centroids)
    of_restarts = {"objectives": list(found.objectives), "restart": found.restart}
    dims = config.whiten or config.reduce
    how = f" {'whitened' if config.whiten else 'reduced'} to {dims} dimensions" if dims else ""
    limit = "" if found.converged else ", not converged"
    return stage.finish(
        {
            "clusters": config.clusters,
            "dim": int(found.centroids.shape[1]),
            "rows": source.rows,
            "objective": found.objective,  # mean of 1 - cosine
            "iterations": found.iterations,
            "converged": found.converged,
            "sizes": found.sizes.tolist(),
            **({} if config.streaming else of_restarts),
            "encoder": sets[0].encoder,
        },
        [path.name, *outputs],
        line=(
            f"{source.rows:,} embeddings{how} into {config.clusters} clusters of "
            f"{found.sizes.min():,} to {found.sizes.max():,} (mean 1 - cosine "
            f"{found.objective:.4f}, {found.iterations} iterations{limit})"
        ),
    )


def _held(config: CentroidsConfig, sets: Sequence[Embeddings]) -> tuple[Source, list[str]]:
    """Embeddings in memory, whitened or reduced where that is asked for; the files of that map."""
    keys = [key for one in sets for key in one.table(["key"]).column("key").to_pylist()]
    points = sets[0].matrix() if len(sets) == 1 else np.concatenate([s.matrix() for s in sets])
    points = unit_rows(points, keys)
    if not (config.whiten or config.reduce):
        return Held(points), []
    fitted = _fit(config, points)
    return Held(unit_rows(fitted(points), keys)), write_whitening(config.out, fitted)


def _streamed(config: CentroidsConfig) -> tuple[Source, list[str]]:
    """As `_held`, of embeddings that are read again for each iteration."""
    features = Features(config.embeddings[0])
    if not (config.whiten or config.reduce):
        return features, []
    fitted = _fit(config, features.sample(sample_size(config.clusters), config.seed))
    return Projected(features, fitted, fitted.dims), write_whitening(config.out, fitted)


def _fit(config: CentroidsConfig, points: Floats) -> Whitening:
    """The map that --whiten or --reduce asks for."""
    if config.whiten:
        return fit_whitening(points, config.whiten)
    return fit_whitening(points, config.reduce, scaled=False)


def read_centroids(folder: Path | str) -> tuple[Floats, dict[str, Any]]:
    """Centroids [K, d] float32 with unit rows, and the encoder's fingerprint.

    Raises UserError when the folder is no finished output of prune.centroids, or damaged.
    """
    fingerprint(folder, "prune.centroids")
    summary = read_manifest(folder)["summary"]
    path = Path(folder) / "centroids.npy"
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header is met with errors of every type
        raise UserError(f"{path}: unreadable ({error}); make the centroids again") from None
    if found.shape != (summary["clusters"], summary["dim"]):
        raise UserError(f"{path}: shape {found.shape} is not what its manifest says")
    norms = np.linalg.norm(found, axis=1)
    if not (np.abs(norms - 1) < NORM_TOLERANCE).all():  # NaN neither
        raise UserError(f"{path}: damaged (rows not of unit length); make the centroids again")
    return found, summary["encoder"]


def read_whitening_of(folder: Path | str) -> Whitening | None:
    """The map into the space of the centroids of `folder` (--whiten, --reduce), or None.

    Raises UserError when it is damaged.
    """
    manifest = read_manifest(folder)
    if not (manifest["params"].get("whiten") or manifest["params"].get("reduce")):
        return None
    return read_whitening(Path(folder), manifest["summary"]["dim"])


def origin(folder: Path | str) -> dict[str, Any]:
    """What the centroids of `folder` were learnt from: 'embeddings' (fingerprint, or fingerprints
    joined by '+') and, where they were reduced or whitened, to how many dimensions."""
    manifest = read_manifest(folder)
    maps = {name: manifest["params"].get(name) for name in ("whiten", "reduce")}
    learnt = {"embeddings": manifest["inputs"]["embeddings"]}
    return {**learnt, **{name: dims for name, dims in maps.items() if dims}}
