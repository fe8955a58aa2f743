"""Settings of eval.tables and eval.pictures. Light to import: no drawing."""

from __future__ import annotations

from pathlib import Path

from core.settings import settings
from eval.programme.config import ExperimentConfig


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
