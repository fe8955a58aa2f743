"""The experiment's table: paper | ours | difference, which orderings hold, and how far it is.

    python -m eval.tables table1
    python -m eval.tables table1 --profile mini --status
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, run_stage
from eval.report.config import TablesConfig

__all__ = ["TablesConfig", "run"]


def run(config: TablesConfig) -> Result:
    """The experiment's table beside the paper's, from plan and records. Cells not run say so."""
    plan = config.plan()
    if config.status:
        from eval.report.status import status

        print(status(plan))
        return Result(plan.folder)
    from eval.report.records import Records
    from eval.report.table import stage_of, tabulate

    records = Records(plan)
    stage = stage_of(config, plan, records)
    result = run_stage(stage, lambda stage: tabulate(plan, records, stage))
    if not result.reused:
        print("\n" + stage.out.read_text(encoding="utf-8"))
    return result


main = command("eval.tables", TablesConfig, run, positional="experiment")

if __name__ == "__main__":
    execute(main)
