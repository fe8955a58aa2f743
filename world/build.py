"""The miniature world on disk, in the formats of real data sets.

    python -m world.build --out world --tiles 3000
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from world.plan.config import WorldConfig

__all__ = ["WorldConfig", "run"]


def run(config: WorldConfig) -> Result:
    """Write a seeded procedural corpus with known truth, in the formats of real data sets."""

    def make(stage: Stage) -> Result:
        from world.write.build import build

        return build(config, stage)

    return run_stage(config.stage(), make)


main = command("world.build", WorldConfig, run)

if __name__ == "__main__":
    execute(main)
