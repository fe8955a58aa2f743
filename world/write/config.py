"""Settings of the commands that write a world in other forms. Light: no array library."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.settings import AtLeast1, science, settings
from core.stage import Stage, fingerprint, require_folder
from data.corpus.base import Corpus
from data.corpus.specs import open_corpus

Form = Literal[
    "webdataset", "rs5m", "rs5m-csv", "arrow-early", "arrow", "arrow-saved", "parquet", "naip"
]  # fmt: skip
SetForm = Literal[
    "reference-parquet", "reference-splits", "second", "second-split", "second-parquet",
    "openearthmap-flat", "openearthmap-parquet",
]  # fmt: skip


@settings
class ConvertConfig:
    """What to write, and in which form."""

    world: Path
    """Miniature world (its corpus/ is read), or any folder of images."""
    out: Path
    """Output folder."""
    form: Form = "webdataset"
    """webdataset: tars of KEY.jpg, KEY.png, ... rs5m: tars of .img_content, .img_name and
    .caption. rs5m-csv: img_only/ and a list of its images. arrow-early: Git-10M's first columns,
    image and text, as Arrow streams; arrow: its current columns; arrow-saved: the same as
    save_to_disk leaves them. parquet: the current columns. naip: GeoTIFFs of four bands, of a world
    made with --write-truth-rasters; pixels are kept, bytes are not."""
    shard_rows: AtLeast1 = 1000
    """Images in a shard."""

    def corpus(self) -> Corpus:
        """What is converted."""
        inner = self.world / "corpus"
        return open_corpus(f"folder:{inner if inner.is_dir() else self.world}")

    def stage(self) -> Stage:
        """What the command makes of what. Raises UserError for an --out among the images."""
        corpus = self.corpus()
        if corpus.root is not None and self.out.resolve().is_relative_to(corpus.root.resolve()):
            raise UserError(f"--out {self.out} lies inside {corpus.root}; move it out")
        require_folder(self.out)
        inputs = {"corpus": corpus.fingerprint()}
        return Stage(self.out, "world.convert", science(self), inputs)


@settings
class ConvertSetsConfig:
    """What to write, and in which form."""

    world: Path
    """Miniature world (python -m world.build)."""
    out: Path
    """Output folder."""
    form: SetForm = "reference-parquet"
    """reference-parquet: image and label columns, as Hugging Face copies. reference-splits: the
    class folders below a wrapping folder's train/ and val/. second: im1 im2 label1 label2, and
    test/. second-split: train/ and test/, colours in label1_rgb and class ids in label1.
    second-parquet: t1_image t2_image t1_mask t2_mask. openearthmap-flat: images/ and labels/ of
    all regions. openearthmap-parquet: image mask image_name."""

    def stage(self) -> Stage:
        """What the command makes of what."""
        require_folder(self.out)
        inputs = {"world": fingerprint(self.world, "world.build")}
        return Stage(self.out, "world.convert_sets", science(self), inputs)
