"""Settings of eval.dashboard. Light to import: no images, no template."""

from __future__ import annotations

from pathlib import Path

from core.settings import NonNegative, machine, settings
from eval.programme.plan import Plan, plan_file, read_plan


@settings
class DashboardConfig:
    """Settings of eval.dashboard."""

    experiment: str
    """Name of the experiment, for example table1 or git10m_85."""
    profile: str = "paper"
    """Profile of the experiment: paper, small or mini."""
    runs: Path = Path("runs")
    """Where the experiments write: RUNS/PROFILE/EXPERIMENT/plan.json."""
    out: Path | None = None
    """Folder for dashboard.html. Default: the experiment's own."""
    watch: NonNegative = machine(0.0)
    """While jobs run, write the page again so many seconds later, and have it reload; 0: once."""

    def plan(self) -> Plan:
        """The experiment's plan. Raises UserError where there is none."""
        return read_plan(plan_file(self.experiment, self.profile, self.runs))
