"""What an experiment costs, by stage and by cell, from the records of its finished jobs.

    python -m eval.costs table1
    python -m eval.costs table1 --profile mini --out FOLDER
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from eval.programme.config import CostsConfig
from eval.programme.plan import plan_file, read_plan
from eval.records.costtable import write_costs

__all__ = ["CostsConfig", "run"]


def run(config: CostsConfig) -> Result:
    """What an experiment costs: costs.md and costs.json, from plan and records.

    A row for each kind of stage (hours, GPU-hours, images/s, peak memory, energy) and for each cell
    (own and shared jobs, pruning and training, seconds of clustering). Unfinished jobs are left
    out; what nothing is known of is '-'.
    """
    plan = read_plan(plan_file(config.experiment, config.profile, config.runs))
    return write_costs(config, plan)


main = command("eval.costs", CostsConfig, run, positional="experiment")

if __name__ == "__main__":
    execute(main)
