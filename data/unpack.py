"""Parquet copies of the downstream sets as the folders that they come in.

    python -m data.unpack --parquet P --out FOLDER
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from data.pairs.config import UnpackConfig

__all__ = ["UnpackConfig", "run"]


def run(config: UnpackConfig) -> Result:
    """Write a Parquet copy of SECOND or OpenEarthMap as folders of images."""

    def make(stage: Stage) -> Result:
        from data.pairs.unpack import unpack

        return unpack(config, stage)

    return run_stage(config.stage(), make)


main = command("data.unpack", UnpackConfig, run)

if __name__ == "__main__":
    execute(main)
