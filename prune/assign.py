"""Stage II's assignment: the nearest reference centroid of each image (Eq. 4).

    python -m prune.assign --embeddings pool --centroids centroids --out assignments
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from prune.cluster.config import AssignConfig

__all__ = ["AssignConfig", "run"]


def run(config: AssignConfig) -> Result:
    """Assign each image of the pool to its nearest reference centroid."""

    def make(stage: Stage) -> Result:
        from prune.cluster.assign import assign

        return assign(config, stage)

    return run_stage(config.stage(), make)


main = command("prune.assign", AssignConfig, run)

if __name__ == "__main__":
    execute(main)
