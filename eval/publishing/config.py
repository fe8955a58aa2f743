"""Settings of eval.publish. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.settings import NonNegative, settings


@settings
class PublishConfig:
    """Settings of eval.publish."""

    experiment: str
    """Its name, for example table1."""
    profile: str = "paper"
    """The size that it was run in: mini, small or paper."""
    runs: Path = Path("runs")
    """Where the runs are: the plan is RUNS/PROFILE/EXPERIMENT/plan.json."""
    checkpoints: Literal["auto", "reference", "files", "none"] = "auto"
    """What the artifact of a training has beside its manifest (with size and SHA-256 of each file
    of the last checkpoint): the files; references to where they lie; files up to --upload-mb and
    references above it (auto); or nothing."""
    upload_mb: NonNegative = 64.0
    """An artifact of more than this is made of references (MB): nothing large goes to W&B
    unasked. With --checkpoints files it does not count for checkpoints."""
    dashboard: bool = False
    """Make W&B's dashboard of the experiment, or renew it; needs a key and wandb-workspaces."""
    entity: str = ""
    """Team or user whose dashboard it is (default: WANDB_ENTITY, else the key's own)."""
