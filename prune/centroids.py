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


@dataclasses.dataclass(frozen=True)
class CentroidsConfig:
    """Settings of prune.centroids."""

    embeddings: Path
    """Embeddings of the reference set: a folder made by prune.embed."""
    out: Path
    """Output folder: centroids.npy, float32 [K, d], unit rows."""
    clusters: int = 200
    """K, number of prototypes (the paper: 200)."""
    seed: int = 0
    """Seed of the k-means++ starts."""
    restarts: int = 5
    """Independent starts, of which the tightest clustering is kept."""
    iterations: int = 100
    """Limit on the iterations of a start; it ends before when no label changes."""


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


def main(argv: Sequence[str] | None = None) -> int | None:
    config = parse(
        CentroidsConfig,
        argv,
        prog="python -m prune.centroids",
        description="Cluster the embeddings of a reference set into prototypes.",
    )
    if config.iterations < 1 or config.restarts < 1:
        raise UserError("--iterations and --restarts must be at least 1")
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
    from prune.kmeans import spherical_kmeans

    stage.open()
    embeddings = Embeddings(config.embeddings)
    keys = embeddings.table(["key"]).column("key").to_pylist()
    # A start may end before its limit, so the bar counts iterations without a total.
    with progress(name="k-means", unit="iteration") as bar:

        def watch(restart: int, iteration: int, objective: float) -> None:
            start = f"{restart + 1}/{config.restarts}"
            bar.set_postfix(start=start, loss=f"{objective:.5f}", refresh=False)
            bar.update()

        found = spherical_kmeans(
            embeddings.matrix(),
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
        ["centroids.npy"],
        line=(
            f"{len(keys):,} embeddings into {config.clusters} clusters of {sizes.min():,} to "
            f"{sizes.max():,} (mean 1 - cosine {found.objective:.4f}, {found.iterations} "
            f"iterations{'' if found.converged else ', not converged'})"
        ),
    )
    return 0


if __name__ == "__main__":
    run(main)
