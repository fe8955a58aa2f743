"""Settings of the miniature world. Light: no array library is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from core.errors import UserError
from core.settings import AtLeast0, AtLeast1, Seed, machine, science, settings
from core.stage import Stage, require_folder
from world.plan.faults import BROKEN

AnyFraction = Annotated[float, Field(ge=0, le=1)]
"""A fraction of the tiles, which may be none of them."""
_OF_TILES = ("blank", "nodata", "noise", "near_duplicates", "exact_duplicates")


@settings
class WorldConfig:
    """Sizes and faults of the world, and where it goes."""

    out: Path
    """Output folder: corpus/, reference/, sr/, sis/, truth.parquet, listing.parquet."""
    tiles: AtLeast1 = 3000
    """Files in corpus/, those with faults included."""
    size: Annotated[int, Field(ge=16)] = 64
    """Side of a corpus and reference tile (pixels)."""
    seed: Seed = 0
    """Seed of everything; another seed is another world."""
    blank: AnyFraction = 0.03
    """Fraction of constant tiles: black, white, fill values."""
    nodata: AnyFraction = 0.01
    """Fraction of tiles cut off by the edge of a swath."""
    noise: AnyFraction = 0.005
    """Fraction of sensor-noise tiles (high entropy: Stage I cannot remove them)."""
    near_duplicates: AnyFraction = 0.03
    """Fraction of near-duplicates of other tiles: re-encoded, shifted, brighter or darker."""
    exact_duplicates: AnyFraction = 0.015
    """Fraction of byte-for-byte copies of other tiles."""
    broken: AtLeast0 = 2
    """Broken files of each kind (empty, truncated, text, CMYK, 16-bit, animated, ...)."""
    png: AnyFraction = 0.1
    """Fraction of PNG among the sound corpus files; the rest is JPEG of quality 85 to 95."""
    reference_per_class: AtLeast0 = 40
    """Images of each class in reference/ (D_ref)."""
    sr_images: AtLeast0 = 64
    """Places in sr/, each at two dates; a third of them under test/ (SECOND's layout)."""
    sis_pairs: AtLeast0 = 64
    """Image and mask pairs in sis/, test images without masks not counted (OpenEarthMap's)."""
    pair_size: Annotated[int, Field(ge=32)] = 128
    """Side of an SR or SIS tile (pixels)."""
    write_truth_rasters: bool = False
    """Also write truth/KEY.mask.png (land cover) and truth/KEY.nir.png for the corpus."""
    infrared: bool = False
    """Also write the corpus, broken files left out, as NAIP comes, naip/m_*.tif: quarter quads at
    1 m a pixel of red, green, blue and near infrared; naip-truth.parquet (key, scene: what
    `data.holdout --labels` takes); and sr-rgbn/ and sis-rgbn/, sr/ and sis/ with images of these
    four bands."""
    workers: AtLeast1 = machine(2)
    """Processes (machine setting)."""

    def faulty(self) -> dict[str, int]:
        """Corpus files with each fault, and duplicates of each kind."""
        counts = {name: round(getattr(self, name) * self.tiles) for name in _OF_TILES}
        return counts | {"broken": self.broken * len(BROKEN)}

    def stage(self) -> Stage:
        """What the command makes. Raises UserError for a world that is mostly faults."""
        faulty = sum(self.faulty().values())
        if faulty > self.tiles / 2:
            raise UserError(
                f"{faulty} of {self.tiles} tiles would be faulty or duplicates, more than half; "
                "lower --blank, --near-duplicates or --broken, or raise --tiles"
            )
        require_folder(self.out)
        params = science(self)
        if not self.infrared:
            del params["infrared"]  # which worlds of earlier versions do not name
        return Stage(self.out, "world.build", params, {})
