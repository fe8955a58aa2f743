"""Corpora of square chips, cut from rasters (NAIP, orthophotos, Sentinel-2) and large images.

Every raster is laid out in a grid of chips from its upper left corner, without overlap, at its
own resolution or a coarser one that is asked for (rasters.coarser). Every cell of the grid is a
row: what is not used (smaller than a chip, without data, not urban) says why, and a file of which
nothing is used is one row. A key names the file and the window, `<file>#<x>,<y>,<width>x<height>`,
and the resolution that the file was brought to, if it was, `...@<metres>m`, in whose pixels the
window then is. So it does not depend on what else is in the corpus, and a chip is fetched by its
key alone. Chips have one band (grey), three, or four where near infrared is known to be there.

A shard is one file, or consecutive small ones, and is named after the first. rasterio is imported
when the first header is read and not before: a finished stage asks a corpus for its fingerprint
alone.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.stage import sha256_file
from data.corpus.base import Corpus, Location, Rows, Sample, fetch_windows, stat_files
from data.corpus.rasters.coarser import NATIVE, at_resolution, parse_resolution
from data.corpus.rasters.scale import evenly, parse_scale, percentiles
from data.corpus.sharded.shards import OPEN_SHARDS
from data.images.bands import Asked, check_bands
from data.images.chips import encode_chip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from data.corpus.rasters.raster import Header

CHIP = 256  # pixels a side, the paper's
SHARD_BYTES = 64 << 20  # small files share a shard up to this
EXTRAS = ("resolution_m", "date", "window", "crs", "bounds")
_KEY = re.compile(r"(.+)#(\d+),(\d+),(\d+)x(\d+)(@[\d.e+-]+m)?", re.DOTALL)
Box = tuple[int, int, int, int]  # x, y, width, height (pixels)


@dataclass(frozen=True, slots=True)
class Cut:
    """How rasters are cut: the options of the specification."""

    chip: int = CHIP
    asked: Asked = field(default_factory=lambda: Asked(fourth="ask"))
    """Band order and scale that the user states."""
    nodata: float = 0.0
    """Largest fraction of pixels without data."""
    urban: str = ""
    """File of polygons; '' keeps every chip."""
    metres: float = NATIVE
    """Resolution that finer rasters are brought to (metres a pixel)."""
    stated: bool = False
    """Whether the user asked for it, so that coarser rasters are refused."""


@dataclass(frozen=True, slots=True)
class Raster:
    """A file of the corpus."""

    key: str
    path: str
    header: Header

    @property
    def suffix(self) -> str:
        """What its keys end in: '' at the file's own resolution."""
        return "" if self.header.source is None else f"@{self.header.resolution_m:g}m"

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


class RasterCorpus(Corpus):
    """Chips of rasters in a fixed order of files.

    Options: chip=PIXELS, bands=ORDER, scale=MIN,MAX or scale=pA,pB, nodata=FRACTION,
    urban=POLYGONFILE, resolution=METRES or native.

    Args:
        spec: the specification as the user wrote it, for messages.
        base: folder that keys are relative to.
        files: the files, in order.
        options: see above.
        root: the folder that was named, whose listing the files are; None for a pattern.
        infrared: refuse what has no fourth band.
        metres: the resolution where no option states it.
        left_out: files of the folder that are none of `files`, counted by kind.

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
        *,
        infrared: bool = False,
        metres: float = NATIVE,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.spec = spec
        self._cut, self._percentiles = _cut(spec, options, infrared, metres)
        self._root, self._left_out = root, left_out or {}
        self._paths, self._sizes = stat_files(base, files, f"a file of {spec}")
        self._shards = _shards(self._sizes)
        self._rasters: dict[str, Raster] = {}

    @cached_property
    def cut(self) -> Cut:
        """The options, percentiles as their values (for which some files are read)."""
        if self._percentiles is None:
            return self._cut
        scale = percentiles(self.spec, self._sampled(), self._percentiles)
        return replace(self._cut, asked=replace(self._cut.asked, scale=scale))

    def _sampled(self) -> Iterator[NDArray[Any]]:
        from data.corpus.rasters.raster import sample_values

        paths = list(self._paths.values())
        asked = replace(self._cut.asked, scale=(0.0, 1.0))
        return (sample_values(os.fspath(paths[i]), asked) for i in evenly(len(paths)))

    def facts(self) -> dict[str, Any]:
        scale = self.cut.asked.scale
        return {
            **({"left_out": dict(self._left_out)} if self._left_out else {}),
            **({} if scale is None else {"scale": list(scale)}),
        }

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
            from data.corpus.rasters.urban import check_polygons

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
        return fetch_windows(locations, _place, self._fetch_one)

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
        if match[6] is None and raster.header.source is not None and not self.cut.stated:
            # A key says itself at which resolution it is: what was scored at the file's stays.
            raster = replace(raster, header=raster.header.source)
        across = -(-raster.header.width // self.cut.chip)
        index = y // self.cut.chip * across + x // self.cut.chip
        if raster.header.error is None and (
            index >= raster.cells(self.cut.chip)
            or (match[6] or "") != raster.suffix
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
        text = f"{self.kind} {cut.chip} {cut.asked.bands} {cut.nodata:g}"
        if cut.stated:  # what is not stated leaves the name as it was, and is in the chips' keys
            text += f" resolution {cut.metres:g}"
        if cut.asked.scale is not None:
            text += f" {cut.asked.scale}"
        digest = hashlib.sha256(text.encode())
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
            from data.corpus.rasters.raster import read_header

            path = os.fspath(self._paths[key])
            header = read_header(path, self.cut.asked)
            header = at_resolution(header, self.cut.metres, self.cut.stated)
            self._rasters[key] = Raster(key, path, header)
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
    from data.corpus.rasters.raster import read_window

    x, y, width, height = box = raster.box(index, cut.chip)
    key = f"{raster.key}#{x},{y},{width}x{height}{raster.suffix}"
    error: tuple[str, str] | None = None
    data: bytes | None = None
    if (width, height) != (cut.chip, cut.chip):
        detail = f"{width} x {height} pixels at the edge of its raster"
        if max(header.width, header.height) < cut.chip:
            least = min(header.width, header.height)
            detail = f"its whole raster is {width} x {height} pixels: give ?chip={least} or less"
        error = ("partial-chip", detail)
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
        key, shard, row, data, error, name="", resolution_m=header.resolution_m, more=more,
        note="" if header.layout is None else header.layout.note,
    )  # fmt: skip


def _place(location: Location) -> tuple[str, int, int]:
    """Where a chip lies: file, row, column, the order in which it is cheap to read."""
    match = _KEY.fullmatch(location[0])
    return (match[1], int(match[3]), int(match[2])) if match else (location[0], 0, 0)


def _outside(raster: Raster, index: int, cut: Cut) -> tuple[str, str] | None:
    """Why a chip does not count as urban; None if it does."""
    found = _urban_cells(raster, cut.chip, cut.urban)
    if isinstance(found, tuple):
        return found
    if found[index]:
        return None
    return "not-urban", f"its centre is in no polygon of {Path(cut.urban).name}"


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _urban_cells(raster: Raster, chip: int, polygons: str) -> NDArray[np.bool_] | tuple[str, str]:
    """Of each cell of a raster whether its centre is urban, or why nobody knows."""
    from rasterio.errors import RasterioError

    from data.corpus.rasters.urban import urban

    header = raster.header
    extent = header.bounds(0, 0, header.width, header.height)
    if header.crs is None or extent is None:
        return "no-crs", "the raster has no coordinate system, so that nobody knows where it is"
    centres = [_centre(raster, i, chip) for i in range(raster.cells(chip))]
    try:
        return urban(polygons, header.crs, extent, centres)
    except RasterioError as error:
        return "no-crs", f"its coordinates cannot be converted to those of the polygons ({error})"


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


def _cut(
    spec: str, options: Mapping[str, str], infrared: bool, metres: float
) -> tuple[Cut, tuple[float, float] | None]:
    """The options of a specification, and the percentiles that its scale is, if it is.

    Raises UserError for unknown ones and impossible values.
    """
    known = ("chip", "bands", "scale", "nodata", "urban", "resolution")
    for name in options:
        if name not in known:
            raise UserError(f"{spec}: unknown option '{name}' (rasters know: {', '.join(known)})")
    chip, bands, fraction = options.get("chip", str(CHIP)), options.get("bands", ""), 0.0
    if not chip.isdigit() or not 16 <= int(chip) <= 4096:
        raise UserError(f"{spec}: chip={chip}: give pixels a side, from 16 to 4096")
    if bands:
        bands = check_bands(spec, bands, infrared=infrared)
    scale = parse_scale(spec, options["scale"]) if "scale" in options else None
    try:
        fraction = float(options.get("nodata", "0"))
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise UserError(f"{spec}: nodata={options['nodata']}: give a fraction from 0 to 1")
    urban = options.get("urban", "")
    if urban and not Path(urban).is_file():
        raise UserError(f"{spec}: urban={urban}: no such file")
    stated, percent = scale or (None, False)
    asked = Asked(bands, None if percent else stated, "need" if infrared else "ask")
    metres = parse_resolution(spec, options.get("resolution"), metres)
    cut = Cut(int(chip), asked, fraction, urban, metres, "resolution" in options)
    return cut, stated if percent else None
