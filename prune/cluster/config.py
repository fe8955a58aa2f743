"""Settings of the stages that cluster and assign. Light to import: no array library."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

from core.errors import UserError
from core.parallel import available_cpus
from core.settings import AtLeast0, AtLeast1, Positive, Seed, machine, science, settings
from core.stage import Stage, fingerprint, require_folder


@settings
class CentroidsConfig:
    """Settings of prune.centroids."""

    embeddings: tuple[Path, ...]
    """Embeddings of the reference set: a folder made by prune.embed; several: their union. Those
    of a corpus give centroids without a reference."""
    out: Path
    """Output folder: centroids.npy, float32 [K, d] (or [K, D], see --whiten), unit rows."""
    clusters: AtLeast1 = 200
    """K, number of centroids (the paper: 200)."""
    seed: Seed = 0
    """Seed of the k-means++ starts."""
    restarts: AtLeast1 = 5
    """Independent starts, of which the tightest clustering is kept."""
    trials: AtLeast0 = 0
    """Rows that each step of a k-means++ start tries, to take the best of them; 0: 2 + ln K (greedy
    k-means++, as in scikit-learn); 1: the plain rule, as in version 0.1."""
    iterations: AtLeast1 = 100
    """Limit on the iterations of a start; it ends before when no label changes."""
    whiten: AtLeast0 = 0
    """Whiten the embeddings to D dimensions first, by the reference's mean and covariance; 0: take
    them as they are (the paper). Meant for hand-made descriptors, whose vectors share a large
    common part; Git-RSCLIP is used as it is."""
    reduce: AtLeast0 = 0
    """Reduce the embeddings to D dimensions by PCA first and normalise them again, with variances
    as they are (Table 4's clustering of the pre-filtered set: 128); 0: no."""
    streaming: bool = False
    """Read the embeddings once for each iteration instead of holding them in memory, from one
    start. For the embeddings of a large corpus."""

    @property
    def tried(self) -> int:
        """Rows that each step of a start tries."""
        return self.trials or 2 + int(math.log(self.clusters))

    def stage(self) -> Stage:
        """What the command makes of what. Raises UserError for settings that do not go together."""
        if not self.embeddings:
            raise UserError("--embeddings: give at least one folder made by prune.embed")
        if len({folder.resolve() for folder in self.embeddings}) < len(self.embeddings):
            raise UserError("--embeddings: the same folder is given twice")
        if self.whiten and self.reduce:
            raise UserError("--whiten and --reduce: give one of them")
        if self.streaming and len(self.embeddings) > 1:
            raise UserError("--streaming reads one folder of --embeddings")
        require_folder(self.out)
        params = science(self)
        for name in ("reduce", "streaming"):  # as before there were such settings, where unused
            if not params[name]:
                del params[name]
        params["trials"] = self.tried
        if self.tried == 1:
            del params["trials"]
        made = fingerprint(self.embeddings[0])
        for folder in self.embeddings[1:]:
            made += fingerprint(folder)
        inputs = {"embeddings": made}
        return Stage(self.out, "prune.centroids", params, inputs)


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


@settings
class HierarchyConfig:
    """Settings of prune.hierarchy."""

    embeddings: Path
    """Embeddings of the entire pool: a folder made by prune.embed --keep 1."""
    out: Path
    """Output folder: assignments to the smallest clusters, and the tree above them."""
    levels: tuple[AtLeast1, ...] = ()
    """Clusters of each level, the smallest clusters first, each number below the one before.
    Default: N/500, N/5,000 and N/50,000, but at least 100, 20 and 5 (10 million images: 20,000,
    2,000 and 200)."""
    resamplings: AtLeast0 = 10
    """Rounds of resampling at each level; 0: none."""
    iterations: AtLeast1 = 50
    """Limit on the iterations of each k-means."""
    seed: Seed = 0
    """Seed of the k-means starts."""
    whiten: AtLeast0 = 0
    """Whiten the embeddings to D dimensions first, see prune.centroids; 0: take them as they
    are."""

    def stage(self) -> Stage:
        """What the command makes of what. Raises UserError for levels that do not decrease."""
        if any(b >= a for a, b in itertools.pairwise(self.levels)):
            levels = " ".join(map(str, self.levels))
            raise UserError(f"--levels {levels}: each must be below the one before")
        require_folder(self.out)
        inputs = {"embeddings": fingerprint(self.embeddings, "prune.embed")}
        return Stage(self.out, "prune.hierarchy", science(self), inputs)
