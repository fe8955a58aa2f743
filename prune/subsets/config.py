"""Settings of prune.select and prune.index. Light to import: no array library."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from core.errors import UserError
from core.settings import (
    AtLeast0,
    AtLeast1,
    Fraction,
    Seed,
    place,
    renamed,
    science,
    settings,
)
from core.stage import Stage, fingerprint, sha256_file
from data.corpus.base import keep_apart
from data.corpus.specs import open_corpus
from prune.methods.catalogue import find

if TYPE_CHECKING:
    from prune.methods.base import Method

HOW = {
    "assignments": "a folder made by python -m prune.assign",
    "embeddings": "embeddings of the complete pool, made by python -m prune.embed --keep 1",
    "reference": "embeddings of a reference set, made by python -m prune.embed --reference",
    "copies": "embeddings of the complete pool by a copy detector, made by prune.embed --keep 1",
    "exclude": "embeddings of the evaluation images by the encoder of --copies",
}
"""The inputs that some methods read beside the scores, and where they come from."""
MADE_BY = {
    "scores": ("prune.score", "data.filter"),
    "assignments": ("prune.assign", "prune.hierarchy"),
    "holdout": ("data.holdout", "data.leakage"),
}
"""The commands that make an input; the others are embeddings."""


def _checked_ratio(value: float) -> float:
    if not 0 <= value < 1:  # NaN neither
        raise PydanticCustomError(
            "ratio", "the fraction of images to drop must be in [0, 1); 0.85 drops 85 %"
        )
    return value


Ratio = Annotated[float, AfterValidator(_checked_ratio)]
"""A pruning ratio: the fraction of the pool that is dropped."""
Cosine = Annotated[float, Field(ge=-1, le=1)]


@settings
class Inputs:
    """The files that a subset is derived from."""

    scores: Path
    """Score table: a folder made by prune.score (Stage I)."""
    assignments: Path | None = None
    """Folder made by prune.assign (Stage II), or by prune.hierarchy for the method hierarchical."""
    holdout: Path | None = None
    """Hold-out file of data.holdout: its images, and their exact copies, leave the pool."""
    embeddings: Path | None = None
    """moderate, semdedup, dinov2: embeddings of the complete pool (prune.embed --keep 1)."""
    reference: Path | None = None
    """dinov2: embeddings of the reference set, by the encoder of --embeddings."""
    copies: Path | None = None
    """dinov2: embeddings of the complete pool by a copy detector (SSCD); default: --embeddings."""
    exclude: Path | None = renamed(None, "avoid")
    """dinov2: embeddings of evaluation images by the encoder of --copies; what is a copy of one
    of them is dropped."""

    def files(self, method: Method) -> dict[str, Path]:
        """Those that the method reads, by name. Raises UserError when one is missing."""
        for name in method.reads:
            if name not in method.optional and getattr(self, name) is None:
                raise UserError(f"the method {method.name} needs --{name}: {HOW[name]}")
        named = ((name, getattr(self, name)) for name in ("scores", "holdout", *method.reads))
        return {name: path for name, path in named if path is not None}


def fingerprints(files: Mapping[str, Path]) -> dict[str, str]:
    """name -> fingerprint of each input, for the manifest and the index's metadata."""
    return {n: fingerprint(p, *MADE_BY.get(n, ("prune.embed",))) for n, p in files.items()}


@settings
class SelectConfig(Inputs):
    """Settings of prune.select. Each method uses, and records, its own alone."""

    out: Path
    """Subset index to write, for example subsets/rsprune_85.parquet. With several ratios the name
    holds {ratio}, which becomes the percentage dropped."""
    method: str = "rsprune"
    """rsprune, random, random-survivors, entropy, full, full-set, entropy-set, moderate,
    cluster-nearest, dinov2, a2mae, semdedup or hierarchical; 'help' says what each one does."""
    ratio: tuple[Ratio, ...] = (0.85,)
    """Pruning ratio: fraction of the original pool (N images) that is dropped, in [0, 1). Several
    ratios are answered from one pass over the inputs."""
    keep: Fraction = 0.30
    """Stage I: fraction of the original pool that it keeps (p %, Sec. 4.4.1), in (0, 1]."""
    seed: Seed = 0
    """Seed of whatever the method draws at random."""
    drop_copies: bool = False
    """Choose no image with the bytes (digest) of another one of the pool, of which the first in
    key order stays. The budget and Stage I's fraction are of the original pool all the same."""
    sampling: Literal["nearest", "farthest", "random", "mixed"] = "nearest"
    """rsprune: which images of a cluster are taken first (the paper: the nearest to the centroid;
    mixed: nearest and farthest in turn)."""
    allocation: Literal["balanced", "proportional", "sqrt"] = "balanced"
    """rsprune: quota of a cluster (the paper: B/K for each; proportional: to its size; sqrt: to
    the root of its size)."""
    classes: Literal["assigned", "one"] = "assigned"
    """moderate: pseudo-classes, from --assignments or one for all images."""
    prefer: Literal["hard", "easy", "random"] = "hard"
    """semdedup: which of a group of duplicates stays: the farthest from the centroid (hard), the
    nearest (easy), or any."""
    retrieval: Literal["sample", "cluster"] = "sample"
    """dinov2: retrieve neighbours of each reference image, or complete clusters that hold some."""
    dedup_threshold: Cosine = renamed(0.6, "near")
    """dinov2: cosine above which two images of --copies are copies of each other."""
    leak: Cosine = 0.45
    """dinov2: cosine above which an image of --copies is a copy of an evaluation image."""
    leaf: Literal["random", "nearest"] = "random"
    """hierarchical: which images of a smallest cluster are taken."""

    def stages(self) -> dict[Stage, float | None]:
        """What the command makes of what: a subset for each ratio, None for a method without.

        Raises UserError for names of --out that are no such place, and for a missing input.
        """
        method = find(self.method)
        places = self._places("ratio" in method.params)
        inputs = fingerprints(self.files(method))
        given = {name: getattr(self, name) for name in self.__dataclass_fields__}
        found: dict[Stage, float | None] = {}
        for path, ratio in places.items():
            params = method.settings({**given, "ratio": ratio})
            if self.drop_copies:  # as before there was such a setting, where unused
                params["drop_copies"] = True
            found[Stage(path, "prune.select", {"method": method.name, **params}, inputs)] = ratio
        return found

    def _places(self, with_ratio: bool) -> dict[Path, float | None]:
        """Where the index of each ratio goes."""
        if self.out.suffix != ".parquet" or self.out.is_dir():
            raise UserError(
                f"--out {self.out}: a subset index is one file; its name ends in .parquet"
            )
        if not with_ratio:
            return {self.out: None}
        if not self.ratio:
            raise UserError("--ratio: give at least one")
        if len(self.ratio) > 1 and "{ratio}" not in str(self.out):
            raise UserError(
                f"--out {self.out}: {len(self.ratio)} ratios need a name with {{ratio}} in it, for "
                f"example {self.out.with_name(self.out.stem + '_{ratio}.parquet')}"
            )
        places = {Path(str(self.out).replace("{ratio}", percent(r))): r for r in self.ratio}
        if len(places) < len(self.ratio):
            raise UserError(f"--ratio {' '.join(map(str, self.ratio))}: one of them is given twice")
        return dict(places)


def percent(ratio: float) -> str:
    """A ratio in per cent, as it stands in file names: 0.85 is '85', 0.875 is '87.5'."""
    text = f"{Decimal(str(ratio)) * 100:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@settings
class ShowConfig:
    """Settings of prune.index show."""

    index: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    json: bool = False
    """Print the metadata alone, as JSON."""


@settings
class VerifyConfig(Inputs):
    """Settings of prune.index verify: the index, and the inputs that it was made from."""

    index: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""


@settings
class DiffConfig:
    """Settings of prune.index diff."""

    left: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    right: tyro.conf.Positional[Path]
    """Subset index (Parquet) to compare it with."""
    clusters: AtLeast0 = 20
    """Clusters to list, those that differ most first; 0: none."""


@settings
class ExportConfig:
    """Settings of prune.index export."""

    index: tyro.conf.Positional[Path]
    """Subset index (Parquet)."""
    out: Path
    """keys: a .txt file; croissant: a .json file; parquet, webdataset: a folder."""
    to: Literal["keys", "parquet", "webdataset", "croissant"] = "keys"
    """keys | parquet | webdataset | croissant."""
    corpus: str | None = place(None)
    """webdataset, parquet: the corpus that was scored, as prune.score takes it."""
    shard_rows: AtLeast1 = 1000
    """webdataset, parquet with images: images in a file."""
    name: str = "rs-prune-subset"
    """croissant: name of the data set."""
    license: str = "unknown"
    """croissant: licence of the corpus (SPDX identifier or URL); a subset does not change it."""
    url: str = "https://arxiv.org/abs/2512.23239"
    """croissant: page of the data set."""

    @property
    def with_images(self) -> bool:
        """Whether the images are written, not only their names."""
        return self.corpus is not None and self.to in ("parquet", "webdataset")

    def stage(self) -> Stage:
        """What the command makes of what."""
        single = {"keys": ".txt", "croissant": ".json"}.get(self.to, "")
        if self.out.suffix != single:
            wanted = f"a name ending in {single}" if single else "the name of a folder"
            raise UserError(f"--out {self.out}: --to {self.to} takes {wanted}")
        if self.to == "webdataset" and self.corpus is None:
            raise UserError("--to webdataset needs --corpus: the images are read from it")
        if not self.index.is_file():
            raise UserError(f"{self.index}: no such subset index; prune.select makes one")
        inputs = {"index": sha256_file(self.index)}
        if self.corpus is not None and self.with_images:
            corpus = open_corpus(self.corpus)
            keep_apart(self.out, corpus, self.corpus)
            inputs["corpus"] = corpus.fingerprint()
        return Stage(self.out, "prune.export", science(self), inputs)
