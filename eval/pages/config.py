"""Settings of eval.dashboard. Light to import: no images, no template."""

from __future__ import annotations

from pathlib import Path

from core.settings import NonNegative, machine, settings
from eval.report.config import ExperimentConfig


@settings
class DashboardConfig(ExperimentConfig):
    """Settings of eval.dashboard."""

    out: Path | None = None
    """Folder for dashboard.html (default: the experiment's own)."""
    watch: NonNegative = machine(0.0)
    """While jobs run, write the page again so many seconds later, and have it reload; 0: once."""
