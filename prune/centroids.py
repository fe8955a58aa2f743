"""Reference prototypes: spherical k-means of the reference set's embeddings.

python -m prune.centroids --embeddings reference --clusters 200 --seed 0 --out centroids
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.cli import parse, run, science
from data.errors import UserError
from data.stage import Stage, identity, read_manifest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prune.whitening import Whitening


@dataclasses.dataclass(frozen=True)
class CentroidsConfig:
    """Settings of prune.centroids."""

    embeddings: Path
    """Embeddings of the reference set: a folder made by prune.embed."""
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


def read_centroids(folder: Path | str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Prototypes [K, d] float32 with unit rows, and the encoder's identity.

    Raises UserError when the folder is no finished output of prune.centroids.
    """
    import numpy as np

    manifest = read_manifest(folder)
    if manifest["stage"] != "prune.centroids":
        raise UserError(f"{folder}: made by {manifest['stage']}, not by prune.centroids")
    path = Path(folder) / "centroids.npy"
    try:
        centroids = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error}); make the centroids again") from None
    summary = manifest["summary"]
    if centroids.shape != (summary["clusters"], summary["dim"]):
        raise UserError(f"{path}: shape {centroids.shape} is not what its manifest says")
    return centroids, summary["encoder"]


def read_whitening_of(folder: Path | str) -> Whitening | None:
    """The whitening that the prototypes of `folder` live in, or None where there is none.

    Raises UserError when it is damaged.
    """
    manifest = read_manifest(folder)
    if not manifest["params"].get("whiten"):
        return None
    from prune.whitening import read_whitening

    return read_whitening(Path(folder), manifest["summary"]["dim"])


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        CentroidsConfig,
        argv,
        prog="python -m prune.centroids",
        description="Cluster the embeddings of a reference set into prototypes.",
    )
    if config.iterations < 1 or config.restarts < 1:
        raise UserError("--iterations and --restarts must be at least 1")
    if config.whiten < 0:
        raise UserError(f"--whiten {config.whiten}: a number of dimensions, or 0 for none")
    stage = Stage(
        config.out,
        "prune.centroids",
        science(config),
        {"embeddings": identity(config.embeddings)},
    )
    if stage.done():
        return 0
    import numpy as np

    from data.atomic import atomic_path
    from data.embeddings import Embeddings
    from data.progress import progress
    from prune.kmeans import spherical_kmeans, unit_rows

    stage.open()
    embeddings = Embeddings(config.embeddings)
    keys = embeddings.table(["key"]).column("key").to_pylist()
    points = embeddings.matrix()
    outputs = ["centroids.npy"]
    if config.whiten:
        from prune.whitening import fit_whitening, write_whitening

        points = unit_rows(points, keys)
        whitening = fit_whitening(points, config.whiten)
        outputs += write_whitening(config.out, whitening)
        points = whitening(points)
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
    with atomic_path(config.out / "centroids.npy") as temporary, open(temporary, "wb") as stream:
        np.save(stream, found.centroids)
    sizes = found.sizes
    whitened = f" whitened to {config.whiten} dimensions" if config.whiten else ""
    cut = "" if found.converged else ", not converged"
    stage.finish(
        {
            "clusters": config.clusters,
            "dim": int(found.centroids.shape[1]),
            "rows": len(keys),
            "objective": found.objective,  # mean of 1 - cosine
            "objectives": list(found.objectives),
            "iterations": found.iterations,
            "converged": found.converged,
            "restart": found.restart,
            "sizes": sizes.tolist(),
            "encoder": embeddings.encoder,
        },
        outputs,
        line=(
            f"{len(keys):,} embeddings{whitened} into {config.clusters} clusters of "
            f"{sizes.min():,} to {sizes.max():,} (mean 1 - cosine {found.objective:.4f}, "
            f"{found.iterations} iterations{cut})"
        ),
    )
    return 0


if __name__ == "__main__":
    run(main)
