"""The corpus of a miniature world, or any folder of images, written as shards.

    python -m world.convert --world world --form arrow --out shards
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from world.write.config import ConvertConfig

__all__ = ["ConvertConfig", "run"]


def run(config: ConvertConfig) -> Result:
    """Write a corpus of image files as the shards in which data sets come."""

    def make(stage: Stage) -> Result:
        from world.write.convert import convert

        return convert(config, stage)

    return run_stage(config.stage(), make)


main = command("world.convert", ConvertConfig, run)

if __name__ == "__main__":
    execute(main)
