"""Settings of the studies. Light to import: no torch, no arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from core.errors import UserError
from core.settings import AtLeast1, Seed, machine, place, science, settings
from core.stage import Stage, require_folder
from eval.judges.config import ExtractorName

Count = Annotated[int, Field(ge=8)]


@settings
class SensitivityConfig:
    """Settings of eval.sensitivity."""

    images: str = place()
    """Labelled scenes: a folder of class folders, or what else prune.centroids takes."""
    out: Path
    """Folder for sensitivity.json and sensitivity.md."""
    n: tuple[Count, ...] = (125, 500, 2000)
    """Images a side. Where there are too few for one, the largest possible number is taken."""
    draws: AtLeast1 = 5
    """Times that both comparisons are made, each time of other images and other classes."""
    removed: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of the classes that the second draw lacks, where classes change."""
    extractor: ExtractorName = "efficientnet-lite0"
    """Feature space, as for eval.evaluate."""
    weights: Path | None = None
    """Its weights, as for eval.evaluate."""
    seed: Seed = 0
    """Seed of the draws."""
    cache: Path | None = machine(None)
    """Folder of kept features (default: 'features' in --out)."""
    device: str = machine("auto")
    """Where networks run: auto, cpu, cuda (machine setting)."""

    def stage(self, images: str) -> Stage:
        """What the command makes; `images` is the fingerprint of the scenes."""
        require_folder(self.out)
        if not self.n or len(set(self.n)) < len(self.n):
            raise UserError(f"--n {' '.join(map(str, self.n))}: give different counts")
        return Stage(self.out, "eval.sensitivity", science(self), {"images": images})
