"""What two sets have in common that should share nothing (`python -m data.leakage --help`)."""

from __future__ import annotations

import dataclasses

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from data.curation.config import LeakageConfig

__all__ = ["LeakageConfig", "run"]


def run(config: LeakageConfig) -> Result:
    """Find images, exact or near, that the corpus, the hold-out, the subset, the reference and the
    downstream sets share. Exit code 1: the index holds a held-out image or a copy of one."""

    def make(stage: Stage) -> Result:
        from data.curation.leakage import compare_sets

        return compare_sets(config, stage)

    result = run_stage(config.stage(), make)
    return dataclasses.replace(result, exit_code=1 if result.summary["held_in_index"] else 0)


main = command("data.leakage", LeakageConfig, run)

if __name__ == "__main__":
    execute(main)
