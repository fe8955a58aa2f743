"""Settings of eval.tables and eval.pictures. Light to import: no drawing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from core.errors import UserError
from core.settings import settings
from eval.programme.labels import labelled
from eval.programme.plan import Plan, plan_file, read_plan


@settings
class ExperimentConfig:
    """What all commands on an experiment are told."""

    experiment: str
    """Name of the experiment, for example table1: its plan is RUNS/PROFILE/EXPERIMENT/plan.json."""
    profile: str = "paper"
    """Profile of the plan: mini, small or paper."""
    runs: Path = Path("runs")
    """Where the experiments' results are."""

    def plan(self) -> Plan:
        """The experiment's plan. Raises UserError where there is none, naming what writes it."""
        path = plan_file(self.experiment, self.profile, self.runs)
        if not path.exists():
            plans = self.runs.glob(f"*/{self.experiment}/plan.json")
            others = sorted(other.parent.parent.name for other in plans)
            if others:
                raise UserError(
                    f"{path}: no such plan; there is one with --profile {' or '.join(others)}"
                )
        plan = read_plan(path)
        return dataclasses.replace(plan, cells=labelled(plan.cells))


@settings
class TablesConfig(ExperimentConfig):
    """Settings of eval.tables."""

    out: Path | None = None
    """Folder for table.md, table.tex, table.csv and table.json (default: the experiment's own)."""
    status: bool = False
    """Only say how far every cell is, what failed and what is left; writes nothing."""


@settings
class PicturesConfig(ExperimentConfig):
    """Settings of eval.pictures."""

    out: Path | None = None
    """Folder for the pictures (default: pictures/ in the experiment's own)."""
