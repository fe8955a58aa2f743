"""Settings of eval.costs. Light to import: no torch, no arrays."""

from __future__ import annotations

from pathlib import Path

from core.settings import settings


@settings
class CostsConfig:
    """Settings of eval.costs."""

    experiment: str
    """Name of the experiment, for example table1: its plan is RUNS/PROFILE/EXPERIMENT/plan.json."""
    profile: str = "paper"
    """Profile of the plan: mini, small or paper."""
    runs: Path = Path("runs")
    """Where the experiments' results are."""
    out: Path | None = None
    """Folder for costs.md and costs.json (default: the experiment's own)."""
