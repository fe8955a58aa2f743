"""The hold-out: real images set aside before any pruning.

    python -m data.holdout --scores S --out random.parquet
    python -m data.holdout --scores S --choice quality --exclude random.parquet --out best.parquet
    python -m data.holdout --join random.parquet best.parquet --out holdout.parquet

prune.* take the joined file as --holdout; each evaluation takes one of the first two.
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from data.curation.config import HoldoutConfig

__all__ = ["HoldoutConfig", "run"]


def run(config: HoldoutConfig) -> Result:
    """Set N real images aside for evaluation, before any pruning."""

    def make(stage: Stage) -> Result:
        from data.curation.holdout import hold_out

        return hold_out(config, stage)

    return run_stage(config.stage(), make)


main = command("data.holdout", HoldoutConfig, run)

if __name__ == "__main__":
    execute(main)
