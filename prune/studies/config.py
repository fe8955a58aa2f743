"""Settings of the studies. Light to import: no array library."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.parallel import available_cpus
from core.settings import (
    AtLeast0,
    AtLeast1,
    Fraction,
    NonNegative,
    Seed,
    machine,
    place,
    renamed,
    settings,
)
from prune.methods.catalogue import METHODS
from prune.subsets.config import Cosine, Ratio

# Chosen on the worlds of seeds 5 to 9, from a plateau: any K from 24 to 64 with D from 16 to 48
# loses no scene there and is at least 0.13 bits above Random in each world.
MINI_CLUSTERS = 48  # about 11 of the world's 520 reference images in a cluster
MINI_WHITEN = 32

CONVENTIONS = {
    "jpeg": "grey levels as stored: the Y channel of a JPEG (the default)",
    "rgb": "grey levels of the decoded RGB, as Pillow's convert('L')",
    "gradient": "magnitudes of grey-level gradients instead of grey levels",
}
"""Conventions of Stage I's entropy, by name."""


@settings
class StudyConfig:
    """Settings that the studies of selections share."""

    out: Path
    """Output folder: the report (Markdown and JSON), and the stages' outputs below it."""
    ratio: Ratio = 0.85
    """Pruning ratio: fraction of the pool that is dropped."""
    keep: Fraction = 0.30
    """Fraction of the pool that Stage I keeps."""
    workers: AtLeast1 = machine(2)
    """Processes (machine setting)."""


@settings
class TruthConfig(StudyConfig):
    """Settings that prune.judge and prune.compare share."""

    clusters: AtLeast1 = MINI_CLUSTERS
    """K of the reference's centroids (the paper's 200 needs thousands of reference images)."""
    whiten: AtLeast0 | None = None
    """D of prune.centroids --whiten; default: 32 for the descriptor, 0 for a learnt encoder."""
    encoder: str = "descriptor"
    """Encoder of prune.embed."""
    weights: str | None = machine(None)
    """Its weights, as for prune.embed."""
    seed: Seed = 0
    """Seed of all draws."""

    @property
    def dims(self) -> int:
        """D, the dimensions to which embeddings are whitened; 0 for none."""
        if self.whiten is not None:
            return self.whiten
        return MINI_WHITEN if self.encoder == "descriptor" else 0


@settings
class JudgeConfig(TruthConfig):
    """Settings of prune.judge."""

    seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    """Miniature worlds to judge, one for each seed."""
    tiles: AtLeast1 = 3000
    """Files in each world's corpus."""
    reference_per_class: AtLeast1 = 40
    """Reference images of each scene type in a world."""
    corpus: str | None = place(None)
    """Judge this corpus, whose keys begin with a class (class folders do), instead of miniature
    worlds."""
    reference: Path | None = None
    """Reference set for --corpus: class folders too."""

    def check(self) -> None:
        """Raise UserError for settings that do not go together."""
        if (self.corpus is None) != (self.reference is None):
            raise UserError("--corpus and --reference go together")
        if self.corpus is None and not self.seeds:
            raise UserError("--seeds: give at least one")


@settings
class CompareConfig(TruthConfig):
    """Settings of prune.compare."""

    corpus: str = place()
    """Corpus, as for prune.score; without --labels a folder of class folders."""
    reference: Path
    """Reference set: a folder of class folders."""
    labels: Path | None = None
    """Classes of the corpus: a Parquet or CSV file with the columns key and label (or scene: the
    truth of a miniature world). Images with an empty label are of no class."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to compare."""
    variants: bool = True
    """Compare variants of rsprune's Stage II too."""
    own_clusters: AtLeast1 = 200
    """K of the methods that cluster the pool itself."""
    reduce: AtLeast1 = 128
    """Dimensions of entropy-set's clustering."""
    dedup_threshold: Cosine | None = renamed(None, "near")
    """dinov2: cosine of --encoder above which images are copies; default: 0.995 for the
    descriptor, whose vectors are all similar, else 0.6, which is meant for SSCD."""
    low_information: NonNegative = renamed(10.0, "dull")
    """Grey standard deviation (of 255) below which an image counts as of low information."""
    distance: AtLeast0 = 6
    """Bits, of 64, within which the perceptual hashes of near-duplicates lie."""

    def check(self) -> None:
        """Raise UserError for a method that there is not."""
        odd = [name for name in self.methods if name not in METHODS]
        if odd or not self.methods:
            raise UserError(f"--methods {' '.join(odd)}: choose among {', '.join(METHODS)}")


@settings
class StabilityConfig(StudyConfig):
    """Settings of prune.stability. The first of each list is the base setting."""

    corpus: str = place()
    """Corpus, as for prune.score."""
    reference: tuple[Path, ...]
    """Reference sets (ROOT/CLASS/IMAGE)."""
    clusters: tuple[AtLeast1, ...] = (200, 100, 400)
    """K, numbers of centroids."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of k-means."""
    encoders: tuple[str, ...] = ("descriptor",)
    """Encoders, each as for prune.embed, with '=WEIGHTS' for a place other than its own."""
    conventions: tuple[str, ...] = ("jpeg", "rgb", "gradient")
    """Conventions of the entropy: jpeg, rgb (the grey of colour JPEGs), gradient, denoised."""
    whiten: AtLeast0 = 0
    """Whiten the descriptor's embeddings to D dimensions (see prune.centroids); 0: no."""
    restarts: AtLeast1 = 5
    """Starts of k-means."""

    def check(self) -> None:
        """Raise UserError for a convention that there is not, and for repeated values."""
        odd = [name for name in self.conventions if name not in CONVENTIONS]
        if odd:
            raise UserError(f"--conventions {' '.join(odd)}: choose among {', '.join(CONVENTIONS)}")
        for name in ("reference", "clusters", "seeds", "encoders", "conventions"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name}: give at least one value, and none of them twice")


@settings
class AccuracyConfig:
    """Settings. Give --images, or --embeddings that prune.embed --reference has made."""

    images: Path | None = None
    """Labelled images: ROOT/CLASS/IMAGE. They are embedded into a temporary folder."""
    embeddings: Path | None = None
    """Embeddings of a reference set, instead of --images."""
    k: AtLeast1 = 5
    """Neighbours that vote."""
    encoder: str = "descriptor"
    """Encoder for --images: descriptor or git-rsclip."""
    weights: str | None = None
    """Weights of the encoder: local folder, or Hugging Face repository."""
    workers: AtLeast1 = machine(available_cpus())
    """Processes that decode (machine setting)."""
    device: Literal["auto", "cpu", "cuda"] = machine("auto")
    """Where the encoder runs (machine setting)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = machine("auto")
    """Arithmetic of the encoder (machine setting)."""
