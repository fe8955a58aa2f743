"""Settings of data.holdout, data.filter and data.leakage. Light to import: no array library."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from core.errors import UserError
from core.settings import AtLeast1, Fraction, Seed, machine, place, science, settings
from core.stage import Stage, fingerprint, read_manifest, require_folder, sha256_file
from data.curation.images import ImageSet, image_sets

Holdout = Literal["pool", "balanced", "informative"]
HOLDOUTS: tuple[Holdout, ...] = ("pool", "balanced", "informative")
"""The hold-outs by their fixed names; data.curation.holdout says what they are."""
Limit = Annotated[float, Field(allow_inf_nan=False)]


@settings
class HoldoutConfig:
    """Settings of the hold-out."""

    out: Path
    """Output file: a Parquet table, for example holdout.parquet."""
    scores: Path | None = None
    """Score table: a folder that prune.score made."""
    n: AtLeast1 = 5000
    """Images in each hold-out (the paper computes FID against 5,000 real images)."""
    at_most: Fraction | None = None
    """Largest part of the usable images in a hold-out: a corpus in which --n images are more gives
    so many, and says so. Default: --n, or an error."""
    seed: Seed = 0
    """Seed of the draws: the images with the smallest SHA-256 of 'seed|key'."""
    holdouts: tuple[Holdout, ...] = ()
    """Which to draw: pool, balanced, informative. Default: pool and informative, and balanced
    where --labels, or --embeddings with --reference, say what the classes are."""
    labels: str | None = None
    """balanced: classes of the corpus, a Parquet or CSV file with the columns key and label (or
    scene), or the word folders: each image's class is the name of its folder."""
    embeddings: Path | None = None
    """balanced, for a corpus without labels: embeddings of some of its images (prune.embed --keep 1
    --sample N). The class of each is that of most of its five nearest reference images."""
    reference: Path | None = None
    """balanced: embeddings of the labelled reference set, by the same encoder."""
    informative_keep: Fraction = 0.30
    """informative: the fraction of highest entropy that counts as informative (Stage I's own)."""
    join: tuple[Path, ...] = ()
    """Instead of drawing: hold-out files to put together into one, each image once."""

    def kinds(self) -> tuple[Holdout, ...]:
        """The hold-outs that are drawn, in the order of HOLDOUTS."""
        classes = self.labels is not None or self.embeddings is not None
        asked = self.holdouts or tuple(n for n in HOLDOUTS if classes or n != "balanced")
        return tuple(name for name in HOLDOUTS if name in asked)

    def stage(self) -> Stage:
        """What the command makes of what."""
        if self.out.suffix != ".parquet" or self.out.is_dir():
            raise UserError(f"--out {self.out}: name a file, such as {self.out.stem}.parquet")
        if self.join:
            drawing = (self.scores, self.holdouts, self.labels, self.embeddings, self.reference)
            if any(drawing) or self.at_most is not None:
                raise UserError(
                    "--join puts files together and draws nothing: leave out the other flags"
                )
            files = {f"holdout-{n}": fingerprint(path) for n, path in enumerate(self.join)}
            return Stage(self.out, "data.holdout", {"join": len(files)}, files)
        if self.scores is None:
            raise UserError("give --scores, the folder that prune.score made (or --join)")
        if (self.embeddings is None) != (self.reference is None):
            raise UserError("--embeddings and --reference go together")
        if self.labels is not None and self.embeddings is not None:
            raise UserError("classes come from --labels or from --embeddings, not from both")
        kinds = self.kinds()
        if "balanced" in kinds and self.labels is None and self.embeddings is None:
            raise UserError(
                "--holdouts balanced: over which classes? give --labels FILE, --labels folders, or "
                "--embeddings and --reference"
            )
        inputs: dict[str, str] = {"scores": fingerprint(self.scores)}
        params: dict[str, object] = {"n": self.n, "seed": self.seed}
        if self.at_most is not None:
            params["at_most"] = self.at_most
        if "rasters" in read_manifest(self.scores).get("summary", {}):
            params["ground"] = "apart"  # of chips; earlier versions left other dates in the pool
        if kinds != ("pool",):  # a pool hold-out alone is what earlier versions drew
            params["holdouts"] = list(kinds)
        if "informative" in kinds:
            params["informative_keep"] = self.informative_keep
        if "balanced" in kinds and self.labels == "folders":
            params["labels"] = "folders"
        elif "balanced" in kinds and self.labels is not None:
            if not Path(self.labels).is_file():
                raise UserError(
                    f"--labels {self.labels}: no such file; a Parquet or CSV file, or 'folders'"
                )
            inputs["labels"] = sha256_file(Path(self.labels))
        elif "balanced" in kinds and self.embeddings is not None and self.reference is not None:
            inputs["embeddings"] = fingerprint(self.embeddings)
            inputs["reference"] = fingerprint(self.reference)
        return Stage(self.out, "data.holdout", params, inputs)


@settings
class FilterConfig:
    """Settings of the filter. A negative limit turns its rule off."""

    scores: Path
    """Score table: a folder that prune.score --statistics made."""
    out: Path
    """Output folder: the filtered score table."""
    rgb: bool = True
    """Drop images of one band."""
    min_side: int = 256
    """Smallest side (pixels)."""
    max_aspect: Limit = 2.0
    """Largest ratio of longer to shorter side."""
    max_clipped: Limit = 0.5
    """Largest fraction of pixels whose grey is 0 or 255, in [0, 1]."""
    max_border: Limit = 0.1
    """Largest fraction of pixels in black regions that hang together with the edge, in [0, 1]:
    corners without data of rotated or patched scenes."""
    min_entropy: Limit = 1.0
    """Smallest entropy (bits): a nearly constant image is below it."""
    copies: bool = False
    """Keep exact copies."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        if self.out.suffix or self.out.resolve() == self.scores.resolve():
            raise UserError(f"--out {self.out}: name a folder, another one than --scores")
        return Stage(self.out, "data.filter", science(self), {"scores": fingerprint(self.scores)})


@settings
class LeakageConfig:
    """Settings. Give the sets that there are; every pair of them is compared."""

    out: Path
    """Output folder: leakage.json, pairs.parquet."""
    scores: Path | None = None
    """Score table of the corpus (prune.score): its digests."""
    holdout: Path | None = None
    """Hold-out (data.holdout)."""
    index: Path | None = None
    """Subset index (prune.select)."""
    reference: tuple[str, ...] = place(())
    """Reference sets, as prune.embed --reference takes them."""
    sr: Path | None = None
    """Super-resolution set (SECOND, or a folder)."""
    sis: Path | None = None
    """Semantic-synthesis set (OpenEarthMap, or groups)."""
    embeddings: tuple[str, ...] = place(())
    """Embeddings to compare as well, NAME=FOLDER each: corpus=E reference=R, and others by any
    name. All of one encoder. Images of the hold-out and the index are found in corpus= by key."""
    threshold: Annotated[float, Field(gt=-1, le=1)] = 0.98
    """Cosine from which two images are near. It depends on the encoder: look at the examples."""
    most: AtLeast1 = 100_000
    """Near pairs kept, the nearest first (all are counted)."""
    device: Literal["auto", "cpu", "cuda"] = machine("auto")
    """Where cosines are computed (machine setting). auto: a GPU if there is one."""
    drop: Path | None = None
    """Also write the corpus images near a held-out one to this file, in a hold-out's form, so that
    data.holdout --join can take them out of the pool too."""

    @functools.cached_property
    def images(self) -> dict[str, ImageSet]:
        """The sets that are images on disk, by name. They are listed once, and not read."""
        return image_sets(self.reference, self.sr, self.sis)

    def spaces(self) -> dict[str, Path]:
        """Folder of each set of embeddings by its name."""
        found: dict[str, Path] = {}
        for word in self.embeddings:
            name, equals, folder = word.partition("=")
            if not equals or not name or not folder:
                raise UserError(f"--embeddings {word}: expected NAME=FOLDER, for example corpus=E")
            if name in found:
                raise UserError(f"--embeddings: '{name}' is given twice")
            found[name] = Path(folder)
        return found

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        spaces = self.spaces()
        if self.drop is not None:
            if "corpus" not in spaces or self.holdout is None or self.scores is None:
                raise UserError("--drop needs --holdout, --scores and --embeddings corpus=FOLDER")
            if not self.drop.suffix:
                raise UserError(f"--drop {self.drop}: name a file, such as near.parquet")
        if self.index is not None and self.scores is None:
            raise UserError("--index has no digests of its own; give the --scores it was made from")
        made = {"scores": self.scores, "index": self.index, "holdout": self.holdout}
        inputs: dict[str, str] = {
            name: fingerprint(path) for name, path in made.items() if path is not None
        }
        inputs |= {name: found.fingerprint for name, found in self.images.items()}
        if len(inputs) < 2 and not spaces:
            raise UserError("give at least two sets: --scores, --holdout, --reference, --sr, --sis")
        inputs |= {f"embeddings-{name}": fingerprint(path) for name, path in spaces.items()}
        params = {**science(self), "drop": self.drop is not None}
        return Stage(self.out, "data.leakage", params, inputs)
