"""The reference, SR and SIS sets of a miniature world in the other forms they are held in.

    python -m world.convert_sets --world world --form second-split --out second
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from world.write.config import ConvertSetsConfig

__all__ = ["ConvertSetsConfig", "run"]


def run(config: ConvertSetsConfig) -> Result:
    """Write the miniature world's reference, SR and SIS sets in other forms."""

    def make(stage: Stage) -> Result:
        from world.write.convert_sets import convert_sets

        return convert_sets(config, stage)

    return run_stage(config.stage(), make)


main = command("world.convert_sets", ConvertSetsConfig, run)

if __name__ == "__main__":
    execute(main)
