"""Settings of eval.figures. Light to import: no drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.settings import settings
from eval.report.config import ExperimentConfig


@settings
class FiguresConfig(ExperimentConfig):
    """Settings of eval.figures."""

    out: Path | None = None
    """Folder; the pictures go to OUT/figures (default: the experiment's own)."""
    holdout: Literal["", "pool", "balanced", "informative"] = ""
    """Hold-out that the distances are to. Default: informative, which is nearest to the paper's, or
    the first there is. figures.json has the factors for all of them."""
