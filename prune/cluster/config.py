"""Settings of the stages that cluster and assign. Light to import: no array library."""

from __future__ import annotations

from pathlib import Path

from core.parallel import available_cpus
from core.settings import AtLeast1, Positive, machine, science, settings
from core.stage import Stage, fingerprint, require_folder


@settings
class AssignConfig:
    """Settings of prune.assign."""

    embeddings: Path
    """Embeddings of the pool: a folder made by prune.embed."""
    centroids: Path
    """Centroids: a folder made by prune.centroids with the same encoder."""
    out: Path
    """Output folder: one Parquet part for each part of the embeddings."""
    ram: Positive = machine(1.0)
    """Working memory for the products, in GiB (machine setting)."""
    workers: AtLeast1 = machine(available_cpus())
    """Processes that share the parts (machine setting)."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        inputs = {
            "embeddings": fingerprint(self.embeddings),
            "centroids": fingerprint(self.centroids),
        }
        return Stage(self.out, "prune.assign", science(self), inputs)
