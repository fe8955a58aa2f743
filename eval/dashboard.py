"""The local dashboard of an experiment: one HTML page from its plan and records, without a network.

    python -m eval.dashboard table1 --profile mini
    python -m eval.dashboard table1 --watch 30
"""

from __future__ import annotations

from core.command import command, execute
from core.stage import Result
from eval.pages.config import DashboardConfig

__all__ = ["DashboardConfig", "run"]


def run(config: DashboardConfig) -> Result:
    """Write the experiment's dashboard.html: progress, state of each cell, failed jobs with the end
    of their logs, the table, figures, curves, sample grids, costs, settings and links. One file
    that asks for no other. With --watch SECONDS it is written again while jobs run."""
    from eval.pages.page import dashboard

    return dashboard(config)


main = command("eval.dashboard", DashboardConfig, run, positional="experiment")

if __name__ == "__main__":
    execute(main)
