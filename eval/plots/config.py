"""Settings of eval.figures. Light to import: no drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.settings import settings
from eval.programme.plan import Plan, plan_file, read_plan


@settings
class FiguresConfig:
    """Settings of eval.figures."""

    experiment: str
    """Name of the experiment, for example fig3 or git10m_85."""
    profile: str = "paper"
    """Profile of the experiment: paper, small or mini."""
    runs: Path = Path("runs")
    """Where the experiments write: RUNS/PROFILE/EXPERIMENT/plan.json."""
    out: Path | None = None
    """Folder; the pictures go to OUT/figures. Default: the experiment's own."""
    holdout: Literal["", "pool", "balanced", "informative"] = ""
    """Hold-out that the distances are to. Default: informative, which is nearest to the paper's, or
    the first there is. figures.json has the factors for all of them."""

    def plan(self) -> Plan:
        """The experiment's plan. Raises UserError where there is none."""
        return read_plan(plan_file(self.experiment, self.profile, self.runs))
