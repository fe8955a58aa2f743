"""Centroids: spherical k-means of the reference set's embeddings, or of the corpus's own (Eq. 3).

    python -m prune.centroids --embeddings reference --clusters 200 --seed 0 --out centroids
    python -m prune.centroids --embeddings resisc45 ucm aid --clusters 200 --out union
    python -m prune.centroids --embeddings pool --clusters 200 --streaming --out own

The first is the paper's. The second clusters the union of several reference sets. The third has
no reference: the corpus is clustered itself, as several baselines do it (docs/methods.md).
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from prune.cluster.config import CentroidsConfig

__all__ = ["CentroidsConfig", "run"]


def run(config: CentroidsConfig) -> Result:
    """Cluster the embeddings of a reference set into centroids."""

    def make(stage: Stage) -> Result:
        from prune.cluster.centroids import centroids

        return centroids(config, stage)

    return run_stage(config.stage(), make)


main = command("prune.centroids", CentroidsConfig, run)

if __name__ == "__main__":
    execute(main)
