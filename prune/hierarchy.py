"""Hierarchical k-means of a pool: clusters, clusters of their centroids, and so on.

python -m prune.hierarchy --embeddings pool --levels 20000 2000 200 --out tree
python -m prune.select --method hierarchical --scores S --assignments tree --ratio 0.85 --out X
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from prune.cluster.config import HierarchyConfig

__all__ = ["HierarchyConfig", "run"]


def run(config: HierarchyConfig) -> Result:
    """Cluster a pool hierarchically."""

    def make(stage: Stage) -> Result:
        from prune.cluster.hierarchy import hierarchy

        return hierarchy(config, stage)

    return run_stage(config.stage(), make)


main = command("prune.hierarchy", HierarchyConfig, run)

if __name__ == "__main__":
    execute(main)
