"""Embed what Stage I keeps, or a reference set (Eq. 2).

python -m prune.embed --corpus tiles --scores scores --out pool
python -m prune.embed --reference resisc45 --out reference
"""

from __future__ import annotations

from core.command import command, execute
from core.engines import quiet_unless_main
from core.stage import Result, Stage, run_stage
from prune.encoders.config import EmbedConfig

__all__ = ["EmbedConfig", "run"]


def run(config: EmbedConfig) -> Result:
    """Embed the images that Stage I keeps, or a labelled reference set."""
    quiet_unless_main()
    opened = config.open()

    def make(stage: Stage) -> Result:
        from prune.encoders.embed import embed

        return embed(config, *opened, stage)

    return run_stage(config.stage(opened), make)


main = command("prune.embed", EmbedConfig, run)

if __name__ == "__main__":
    execute(main)
