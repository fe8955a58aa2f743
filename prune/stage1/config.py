"""Settings of Stage I's pass. Light to import: neither Pillow nor Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.engines import Engine
from core.errors import UserError
from core.parallel import available_cpus
from core.settings import AtLeast1, machine, place, science, settings
from core.stage import Stage, read_record, require_folder
from data.corpus.base import Corpus, keep_apart
from data.corpus.specs import open_corpus
from data.images.reject import MAX_PIXELS, Luma

Measure = Literal["grey", "gradient", "denoised", "bands"]


@settings
class ScoreConfig:
    """Settings of Stage I's pass over the corpus."""

    corpus: str = place()
    """Corpus: a folder of images, tar, Arrow or Parquet shards ('data-*.arrow',
    'rs3-{0000..0031}.tar'), a CSV list, rasters or large images to cut ('naip/*.tif?chip=256'), a
    preset (git10m:FOLDER, rs5m:FOLDER, usa1m:FOLDER). Only read."""
    out: Path
    """Output folder: the score table, one Parquet part a shard."""
    entropy: Measure = "grey"
    """grey: entropy of the grey-level histogram, the paper's Stage I, bits in [0, 8].
    gradient: entropy of gradient magnitudes; it ranks a smooth ramp low, but noise higher than
    'grey' does. denoised: the same of 4 x 4 means less the noise that the image shows; it ranks
    ramps and noisy dull tiles low (noise of single pixels, also as JPEG; not noise scaled up).
    bands: mean over all bands (red, green, blue and, of chips that have it, near infrared) of the
    entropy of each one's histogram, instead of the luma's."""
    luma: Luma = "jpeg"
    """Grey of a colour JPEG. jpeg: the file's own Y channel, the fastest. rgb: decoded to RGB and
    converted as Pillow's convert("L") does. On 4,000 aerial JPEGs the entropies differ by 0.001
    bit on average and 0.11 bit at most."""
    min_side: AtLeast1 = 16
    """Reject images with a shorter side below this (pixels)."""
    max_pixels: AtLeast1 = MAX_PIXELS
    """Reject images with more pixels than this (width x height), undecoded."""
    accept_misnamed: bool = False
    """Accept images whose file extension belongs to another image format (noted in 'detail')."""
    statistics: bool = False
    """Also record bands (1: grey, 3: colour), clipped (fraction of pixels whose grey is 0 or 255)
    and border (fraction in black regions that hang together with the edge), three more columns,
    which the rules of data.filter need."""
    workers: AtLeast1 = machine(available_cpus())
    """Processes that decode (machine setting; the table does not depend on it)."""
    engine: Engine = machine("local")
    """Where shards are scored (machine setting). local: here. ray: on a Ray cluster, whose
    machines must see the corpus at the same place."""
    ray_address: str | None = machine(None)
    """The cluster's head: auto, host:port. Default: Ray started on this machine."""
    extend: Path | None = None
    """Score table of an earlier state of the corpus, which has grown since: what is in it is not
    read again. The result is the same as without."""

    def stage(self, corpus: Corpus | None = None) -> Stage:
        """What the command makes of what; `corpus` is the opened one, where there is one already.

        Raises UserError, saying what changed, for a table made from another listing of the corpus.
        """
        if corpus is None:
            corpus = open_corpus(self.corpus)
        require_folder(self.out)
        keep_apart(self.out, corpus, self.corpus)
        stage = Stage(self.out, "prune.score", science(self), {"corpus": corpus.fingerprint()})
        self._check_listing(stage, corpus)
        return stage

    def _check_listing(self, stage: Stage, corpus: Corpus) -> None:
        for path in (stage.manifest, stage.started):
            if not path.exists():
                continue
            there = read_record(path)
            if there.get("params") != stage.params or there.get("stage") != stage.name:
                return  # the stage itself says which settings differ
            if there.get("inputs") != stage.inputs:
                from prune.stage1.summary import changes  # Arrow, for this message alone

                raise UserError(
                    f"{self.corpus}: not the files that {self.out} was made from: "
                    f"{changes(self.out, corpus)}\n"
                    f"score into another --out with --extend {self.out}, which reads only what is "
                    f"new, or delete {self.out} to score all of it again"
                )
