"""Corpora of square chips, cut from GeoTIFFs of four bands (USA-1m's source, NAIP).

Every raster is laid out in a grid of chips from its upper left corner, without overlap, at its
own resolution. Every cell of the grid is a row: what is not used (smaller than a chip, without
data, not urban) says why, and a file of which nothing is used is one row. A key names the file
and the window, `<file>#<x>,<y>,<width>x<height>`, so that it does not depend on what else is in
the corpus, and a chip is fetched by its key alone.

A shard is one file, or consecutive small ones, and is named after the first. rasterio is imported
when the first header is read and not before: a finished stage asks a corpus for its fingerprint
alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.stage import sha256_file
from data.corpus.base import Corpus, Location, Rows, Sample, fetch_windows, stat_files
from data.images.chips import encode_chip

if TYPE_CHECKING:
    from data.corpus.raster import Header

CHIP = 256  # pixels a side, the paper's
SHARD_BYTES = 64 << 20  # small files share a shard up to this
EXTRAS = ("resolution_m", "date", "window", "crs", "bounds")
_KEY = re.compile(r"(.+)#(\d+),(\d+),(\d+)x(\d+)", re.DOTALL)
Box = tuple[int, int, int, int]  # x, y, width, height (pixels)


@dataclass(frozen=True, slots=True)
class Cut:
    """How rasters are cut: the options of the specification."""

    chip: int = CHIP
    bands: str = ""
    """Band order that the user states, '' if not."""
    nodata: float = 0.0
    """Largest fraction of pixels without data."""
    urban: str = ""
    """File of polygons; '' keeps every chip."""


@dataclass(frozen=True, slots=True)
class Raster:
    """A file of the corpus."""

    key: str
    path: str
    header: Header

    def cells(self, chip: int) -> int:
        """Cells of its grid; 1 for a file that is refused."""
        if self.header.error is not None:
            return 1
        return -(-self.header.width // chip) * -(-self.header.height // chip)

    def box(self, index: int, chip: int) -> Box:
        """The window of a cell, row by row from the upper left; smaller at the far edges."""
        width, height = self.header.width, self.header.height
        down, across = divmod(index, -(-width // chip))
        x, y = across * chip, down * chip
        return x, y, min(chip, width - x), min(chip, height - y)


class GeoTiffCorpus(Corpus):
    """Chips of GeoTIFFs in a fixed order of files.

    Options: chip=PIXELS, bands=ORDER (a permutation of rgbn), nodata=FRACTION, urban=POLYGONFILE.

    Raises:
        UserError: a file is not there, or an option is unknown or has no such value.
    """

    kind = "geotiff"
    unique_keys = True

    def __init__(
        self,
        spec: str,
        base: Path,
        files: Sequence[Path],
        options: Mapping[str, str],
        root: Path | None = None,
    ) -> None:
        self.spec = spec
        self.cut = _cut(spec, options)
        self._root = root
        self._paths, self._sizes = stat_files(base, files, f"a file of {spec}")
        self._shards = _shards(self._sizes)
        self._rasters: dict[str, Raster] = {}

    @property
    def root(self) -> Path | None:
        return self._root

    @property
    def extras(self) -> tuple[str, ...]:
        return EXTRAS

    def check(
        self, shards: Sequence[str] | None = None, extras: tuple[str, ...] | None = None
    ) -> None:
        if self.cut.urban:
            from data.corpus.urban import check_polygons

            check_polygons(Path(self.cut.urban))

    def shards(self) -> list[str]:
        return list(self._shards)

    def count(self, shard: str) -> int:
        return sum(raster.cells(self.cut.chip) for raster in self._of(shard))

    def batch(self, shard: str, start: int = 0, stop: int | None = None) -> Rows:
        pieces = []
        rows = range(self.count(shard))[start:stop]
        first = 0
        for raster in self._of(shard):
            after = first + raster.cells(self.cut.chip)
            low, high = max(rows.start, first), min(rows.stop, after)
            if low < high:
                pieces.append((raster, low - first, high - first))
            first = after
        return Rows(partial(read_cells, shard, rows.start, pieces, self.cut), len(rows))

    def fetch(self, locations: Sequence[Location]) -> Iterator[Sample]:
        # The key is the place. Chips of one file are read together, whatever the order.
        return fetch_windows(locations, lambda place: place[0].rpartition("#")[0], self._fetch_one)

    def _fetch_one(self, location: Location) -> Sample:
        key, shard, row = location
        match = _KEY.fullmatch(key)
        name = match[1] if match else key
        if match is None or name not in self._paths:
            raise UserError(
                f"{self.spec}: '{key}' is no chip of it: it has {len(self._paths):,} files; give "
                "the corpus that was scored, with the same part of the path without wildcards"
            )
        x, y, width, height = (int(match[i]) for i in range(2, 6))
        raster = self._raster(name)
        across = -(-raster.header.width // self.cut.chip)
        index = y // self.cut.chip * across + x // self.cut.chip
        if raster.header.error is None and (
            index >= raster.cells(self.cut.chip)
            or raster.box(index, self.cut.chip) != (x, y, width, height)
        ):
            raise UserError(
                f"{self.spec}: '{key}' is not in the grid of {self.cut.chip}-pixel chips of that "
                "file; give the specification that it was scored with, or score this one"
            )
        sample = read_cell(raster, index, shard, row, self.cut)
        return Sample(key, shard, row, None, sample.error) if sample.data is None else sample

    def fingerprint(self) -> str:
        cut = self.cut
        digest = hashlib.sha256(f"{self.kind} {cut.chip} {cut.bands} {cut.nodata:g}".encode())
        if cut.urban:
            digest.update(bytes.fromhex(sha256_file(cut.urban)))
        for key, size in self._sizes.items():
            digest.update(f"{key}\0{size}\n".encode())
        return digest.hexdigest()

    def _of(self, shard: str) -> list[Raster]:
        if shard not in self._shards:
            raise UserError(
                f"{self.spec}: no shard '{shard}' in it; it has {len(self._shards):,}. Was the "
                "file moved or deleted, or is this another corpus?"
            )
        return [self._raster(key) for key in self._shards[shard]]

    def _raster(self, key: str) -> Raster:
        if key not in self._rasters:
            from data.corpus.raster import read_header

            path = os.fspath(self._paths[key])
            self._rasters[key] = Raster(key, path, read_header(path, self.cut.bands))
        return self._rasters[key]


def read_cells(
    shard: str, row: int, pieces: Sequence[tuple[Raster, int, int]], cut: Cut
) -> Iterator[Sample]:
    """Consecutive cells of a shard, from `row` on: of each raster those of a range."""
    for raster, first, stop in pieces:
        for index in range(first, stop):
            yield read_cell(raster, index, shard, row, cut)
            row += 1


def read_cell(raster: Raster, index: int, shard: str, row: int, cut: Cut) -> Sample:
    """The sample of one cell of a raster's grid. What cannot be used comes with an error."""
    header = raster.header
    if header.error is not None:
        return Sample(raster.key, shard, row, None, header.error, more={"date": header.date})
    from data.corpus.raster import read_window

    x, y, width, height = box = raster.box(index, cut.chip)
    key = f"{raster.key}#{x},{y},{width}x{height}"
    error: tuple[str, str] | None = None
    data: bytes | None = None
    if (width, height) != (cut.chip, cut.chip):
        error = ("partial-chip", f"{width} x {height} pixels at the edge of its raster")
    elif cut.urban:
        error = _outside(raster, index, cut)
    if error is None:
        pixels = read_window(raster.path, header, box, cut.nodata)
        if isinstance(pixels, tuple):
            error = pixels
        else:
            data = encode_chip(pixels)
    bounds = header.bounds(*box)
    more: dict[str, Any] = {
        "date": header.date,
        "window": list(box),
        "crs": header.crs,
        "bounds": None if bounds is None else list(bounds),
    }
    return Sample(
        key, shard, row, data, error, name="", resolution_m=header.resolution_m, more=more
    )


def _outside(raster: Raster, index: int, cut: Cut) -> tuple[str, str] | None:
    """Why a chip does not count as urban; None if it does."""
    from rasterio.errors import RasterioError

    from data.corpus.urban import urban

    header = raster.header
    extent = header.bounds(0, 0, header.width, header.height)
    if header.crs is None or extent is None:
        return "no-crs", "the raster has no coordinate system, so that nobody knows where it is"
    centres = tuple(_centre(raster, i, cut.chip) for i in range(raster.cells(cut.chip)))
    try:
        inside = urban(cut.urban, header.crs, extent, centres)
    except RasterioError as error:
        return "no-crs", f"its coordinates cannot be converted to those of the polygons ({error})"
    if inside[index]:
        return None
    return "not-urban", f"its centre is in no polygon of {Path(cut.urban).name}"


def _centre(raster: Raster, index: int, chip: int) -> tuple[float, float]:
    x, y, width, height = raster.box(index, chip)
    left, bottom, right, top = raster.header.bounds(x, y, width, height) or (0.0, 0.0, 0.0, 0.0)
    return (left + right) / 2, (bottom + top) / 2


def _shards(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Shard name -> its files: consecutive ones, until they reach SHARD_BYTES."""
    shards: dict[str, list[str]] = {}
    current, held = "", 0
    for key, size in sizes.items():
        if not shards or held + size > SHARD_BYTES:
            current, held = key, 0
            shards[current] = []
        shards[current].append(key)
        held += size
    return shards


def _cut(spec: str, options: Mapping[str, str]) -> Cut:
    """The options of a specification. Raises UserError for unknown ones and impossible values."""
    known = ("chip", "bands", "nodata", "urban")
    for name in options:
        if name not in known:
            raise UserError(f"{spec}: unknown option '{name}' (GeoTIFFs know: {', '.join(known)})")
    chip, bands, fraction = options.get("chip", str(CHIP)), options.get("bands", "").lower(), 0.0
    if not chip.isdigit() or not 16 <= int(chip) <= 4096:
        raise UserError(f"{spec}: chip={chip}: give pixels a side, from 16 to 4096")
    if bands and sorted(bands) != sorted("rgbn"):
        raise UserError(
            f"{spec}: bands={bands}: give the order of the four bands by the letters r, g, b and n "
            "(near infrared), for example bands=rgbn or bands=nrgb"
        )
    try:
        fraction = float(options.get("nodata", "0"))
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise UserError(f"{spec}: nodata={options['nodata']}: give a fraction from 0 to 1")
    urban = options.get("urban", "")
    if urban and not Path(urban).is_file():
        raise UserError(f"{spec}: urban={urban}: no such file")
    return Cut(int(chip), bands, fraction, urban)
