"""The configuration of the miniature world. Light: no array library is imported here."""

from __future__ import annotations

from pathlib import Path

from core.settings import machine, settings


@settings
class WorldConfig:
    """Sizes and faults of the world, and where it goes."""

    out: Path
    """Output folder: corpus/, reference/, sr/, sis/, truth.parquet, listing.parquet."""
    tiles: int = 3000
    """Files in corpus/, those with faults included."""
    size: int = 64
    """Side of a corpus and reference tile (pixels)."""
    seed: int = 0
    """Seed of everything; another seed is another world."""
    blank: float = 0.03
    """Share of constant tiles: black, white, fill values."""
    nodata: float = 0.01
    """Share of tiles cut off by the edge of a swath."""
    noise: float = 0.005
    """Share of sensor-noise tiles (high entropy: Stage I cannot remove them)."""
    near_duplicates: float = 0.03
    """Share of near-duplicates of other tiles: re-encoded, shifted, brighter or darker."""
    exact_duplicates: float = 0.015
    """Share of byte-for-byte copies of other tiles."""
    broken: int = 2
    """Broken files of each kind (empty, truncated, text, CMYK, 16-bit, animated, ...)."""
    png: float = 0.1
    """Share of PNG among the sound corpus files; the rest is JPEG of quality 85 to 95."""
    reference_per_class: int = 40
    """Images of each class in reference/ (D_ref)."""
    sr_images: int = 64
    """Places in sr/, each at two dates; a third of them under test/ (SECOND's layout)."""
    sis_pairs: int = 64
    """Image and mask pairs in sis/, test images without masks not counted (OpenEarthMap's)."""
    pair_size: int = 128
    """Side of an SR or SIS tile (pixels)."""
    write_truth_rasters: bool = False
    """Also write truth/KEY.png (land cover) and truth/KEY.nir.png for the corpus."""
    workers: int = machine(2)
    """Processes (machine setting)."""
