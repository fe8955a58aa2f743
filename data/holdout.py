"""The hold-outs: real images set aside before any pruning, under three fixed names.

    python -m data.holdout --scores S --labels folders --out holdout.parquet
    python -m data.holdout --scores S --embeddings E --reference R --out holdout.parquet
    python -m data.holdout --join holdout.parquet near.parquet --out both.parquet

prune.* take the file as --holdout and leave every image of it, and its copies, out of the pool;
evaluations take the same file and compare with each of its hold-outs.
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from data.curation.config import HoldoutConfig

__all__ = ["HoldoutConfig", "run"]


def run(config: HoldoutConfig) -> Result:
    """Set N real images of each kind aside for evaluation, before any pruning."""

    def make(stage: Stage) -> Result:
        from data.curation.holdout import hold_out

        return hold_out(config, stage)

    return run_stage(config.stage(), make)


main = command("data.holdout", HoldoutConfig, run)

if __name__ == "__main__":
    execute(main)
