"""Rules on a score table: a new table with more rows rejected, each with the rule it fails.

    python -m prune.score --corpus rs5m:/data/RS5M --statistics --out scores-all
    python -m data.filter --scores scores-all --out scores
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from data.curation.config import FilterConfig

__all__ = ["FilterConfig", "run"]


def run(config: FilterConfig) -> Result:
    """Reject images of a score table by size, shape, blankness and copies."""

    def make(stage: Stage) -> Result:
        from data.curation.filter import filter_scores

        return filter_scores(config, stage)

    return run_stage(config.stage(), make)


main = command("data.filter", FilterConfig, run)

if __name__ == "__main__":
    execute(main)
