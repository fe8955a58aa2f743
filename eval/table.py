"""The experiment's table: paper | ours | difference, from the metrics files of a run.

    python -m eval.table --experiment git10m_85 --run RUN --out table.md
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result, Stage, run_stage
from eval.report.config import TableConfig

__all__ = ["TableConfig", "run"]


def run(config: TableConfig) -> Result:
    """The experiment's table: paper | ours | difference. Cells not run say so."""

    def make(stage: Stage) -> Result:
        from eval.report.table import tabulate

        return tabulate(config, stage)

    result = run_stage(config.stage(), make)
    print("\n" + config.out.read_text(encoding="utf-8"))
    return result


main = command("eval.table", TableConfig, run)

if __name__ == "__main__":
    execute(main)
