"""One GeoTIFF: what its header says, which windows it has, and the pixels of one of them.

A file is used when it has four uint8 bands that are known to be red, green, blue and near
infrared. What tells their order, in this order: the specification (?bands=rgbn), the file itself
(colour interpretation or band descriptions), or the name of a NAIP quarter quad
(m_<quad>_<quarter>_<zone>_<resolution>_<date>.tif), whose bands are R, G, B, NIR by definition. A
file that says something else than the specification or its own name is refused, and so is one
about which nothing is known: four bands of uint8 can be anything.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from data.corpus.shards import once_a_file
from data.images.chips import BANDS

Error = tuple[str, str]
Bounds = tuple[float, float, float, float]  # left, bottom, right, top

REASONS: dict[str, str] = {
    "alpha-band": "the fourth band of a GeoTIFF is alpha, not near infrared",
    "band-order": "nothing says which band of a GeoTIFF is red, green, blue, near infrared",
    "no-crs": "a GeoTIFF without a coordinate system, where urban areas are asked for",
    "partial-chip": "a chip at the edge of its raster, smaller than asked for",
    "nodata": "a chip with pixels that the raster has no data for",
    "not-urban": "a chip whose centre lies outside the urban areas",
}
"""Why a GeoTIFF, or a chip of one, is not used, besides the reasons of data.images.reject."""

NAIP_ORDER = "rgbn"
MAX_SIDE = 200_000  # pixels; a quarter quad at 0.3 m has 25,000
MAX_BLOCK_BYTES = 1 << 30  # a strip or tile of a file is decoded at once
CACHE_BYTES = 64 << 20  # of GDAL's decoded blocks: a row of chips of a wide raster
_NAIP = re.compile(r"m_\d{7}_(?:ne|nw|se|sw)_\d{1,2}_\w{1,4}_(\d{8})(?:_\d{8})?", re.IGNORECASE)
_LETTERS = {"red": "r", "green": "g", "blue": "b", "nir": "n", "near infrared": "n",
            "near-infrared": "n", "nearinfrared": "n", "infrared": "n"}  # fmt: skip
_DAMAGE = (RasterioError, OSError, ValueError, IndexError, MemoryError)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GeoTIFF's header says. With `error` none of the file is used."""

    error: Error | None = None
    width: int = 0
    height: int = 0
    order: tuple[int, ...] = ()
    """Band numbers, from 1, of red, green, blue, near infrared."""
    nodata: float | None = None
    masked: bool = False
    """Whether the file carries a mask of its own."""
    crs: str | None = None
    transform: tuple[float, ...] = ()
    """a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f; () without georeference."""
    resolution_m: float | None = None
    date: str | None = None

    def bounds(self, x: int, y: int, width: int, height: int) -> Bounds | None:
        """Left, bottom, right, top of a window, in the CRS of the file."""
        if not self.transform:
            return None
        a, b, c, d, e, f = self.transform
        corners = [(x + i * width, y + j * height) for i in (0, 1) for j in (0, 1)]
        xs = [a * column + b * row + c for column, row in corners]
        ys = [d * column + e * row + f for column, row in corners]
        return min(xs), min(ys), max(xs), max(ys)


def acquired(name: str) -> str | None:
    """The day in a NAIP file name as YYYY-MM-DD; None for another name, or no day."""
    match = _NAIP.fullmatch(Path(name).stem)
    if match is None:
        return None
    try:
        return date(int(match[1][:4]), int(match[1][4:6]), int(match[1][6:])).isoformat()
    except ValueError:
        return None


def read_header(path: str, bands: str = "") -> Header:
    """The header of a GeoTIFF; never raises for what is wrong with the file.

    Args:
        path: the file.
        bands: its band order as the user states it, such as 'rgbn'; '' if not stated.
    """
    try:
        if not Path(path).stat().st_size:
            return Header(("empty", "zero bytes"))
        with rasterio.Env():  # libtiff's remarks go to Python's log, not to standard error
            return _header(open_raster(path), Path(path).name, bands)
    except FileNotFoundError as error:
        return Header(("unreadable", error.strerror or str(error)))
    except _DAMAGE as error:
        return Header(("corrupt", f"not a GeoTIFF that can be opened: {one_line(error)}"))


@once_a_file
def open_raster(path: str) -> Any:
    """The open file; kept, with a few others, until they are pushed out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # No other driver: a .tif that is in truth a VRT could lead anywhere.
        return rasterio.open(path, driver="GTiff")


def _header(raster: Any, name: str, bands: str) -> Header:
    size = (raster.width, raster.height)
    if error := _wrong_kind(raster):
        return Header(error, *size)
    order = _band_order(_stated(raster), name, bands)
    if isinstance(order, str):
        return Header(("band-order", order), *size)
    transform = () if raster.transform.is_identity else tuple(raster.transform)[:6]
    flags = {flag for band in raster.mask_flag_enums for flag in band}
    crs = raster.crs
    return Header(
        None, *size, order,
        nodata=raster.nodata,
        masked=MaskFlags.per_dataset in flags,
        crs=None if not crs else crs.to_string(),
        transform=transform,
        resolution_m=_metres(crs, transform),
        date=acquired(name),
    )  # fmt: skip


def _wrong_kind(raster: Any) -> Error | None:
    """Why these bands cannot be four uint8 bands of colour and infrared, whatever their order."""
    kinds = sorted(set(raster.dtypes))
    if kinds != ["uint8"]:
        reason = "16-bit" if kinds in (["uint16"], ["int16"]) else "not-8-bit"
        return reason, f"bands of {', '.join(kinds)}, not uint8; no scale is guessed"
    colours = _stated(raster)
    if "alpha" in colours:
        place = colours.index("alpha") + 1
        return "alpha-band", f"band {place} of {raster.count} is alpha, not near infrared"
    if raster.count != BANDS:
        hint = "; NAIP's folder rgb has no near infrared, take rgbir" if raster.count == 3 else ""
        s = "" if raster.count == 1 else "s"
        return "bands", f"{raster.count} band{s}, not four (R, G, B, NIR){hint}"
    if max(raster.width, raster.height) > MAX_SIDE:
        detail = f"{raster.width:,} x {raster.height:,} pixels, limit {MAX_SIDE:,} a side"
        return "too-large", detail
    block = max(rows * columns for rows, columns in raster.block_shapes) * BANDS
    if block > MAX_BLOCK_BYTES:
        detail = f"stored in blocks of {block:,} bytes, limit {MAX_BLOCK_BYTES:,}"
        return "too-large", f"{detail}; write it in tiles"
    return None


def _stated(raster: Any) -> list[str]:
    """What the file calls each band, in lower case; '' where it says nothing of use."""
    try:
        colours = [colour.name for colour in raster.colorinterp]
    except ValueError:  # an interpretation that this rasterio has no name for
        colours = [""] * raster.count
    names = []
    for colour, description in zip(colours, raster.descriptions, strict=True):
        own = (description or "").strip().lower()
        names.append(own if own in _LETTERS else colour if colour != "gray" else "")
    return ["" if name in ("undefined", "palette") else name for name in names]


def _band_order(stated: Sequence[str], name: str, bands: str) -> tuple[int, ...] | str:
    """Band numbers of red, green, blue and near infrared, or why they are not known."""
    itself = "".join(_LETTERS.get(colour, "?" if not colour else "x") for colour in stated)
    known = bands or (itself if sorted(itself) == sorted(NAIP_ORDER) else "")
    source = f"?bands={bands}" if bands else "its name"
    if not known and _NAIP.fullmatch(Path(name).stem):
        known = NAIP_ORDER
    if not known:
        says = ", ".join(colour or "undefined" for colour in stated)
        return (
            f"nothing says that its four bands are red, green, blue and near infrared: it calls "
            f"them {says}, and its name is not a NAIP quarter quad's (m_<quad>_...); if you know "
            "the order, state it: SPEC?bands=rgbn"
        )
    for place, (letter, own) in enumerate(zip(known, itself, strict=True), 1):
        if own not in ("?", letter):
            says = stated[place - 1]
            return f"band {place} is '{letter}' by {source}, but the file calls it {says}"
    return tuple(known.index(letter) + 1 for letter in NAIP_ORDER)


def _metres(crs: Any, transform: Sequence[float]) -> float | None:
    """Metres a pixel; None where coordinates are degrees or unknown."""
    if not transform or not crs or not crs.is_projected:
        return None
    a, b, _, d, e, _ = transform
    try:
        unit = crs.linear_units_factor[1]
    except _DAMAGE:
        return None
    return round(math.sqrt(abs(a * e - b * d)) * unit, 6)


def read_window(
    path: str, header: Header, window: Sequence[int], allowed: float
) -> NDArray[np.uint8] | Error:
    """The pixels of a window (x, y, width, height), uint8 height x width x 4, or why not.

    A pixel has no data when the file's mask says so, or all its bands are the nodata value, or
    all are 0 (collars of files that declare no nodata value).

    Args:
        path, header: the file.
        window: x, y, width, height in pixels, inside the file.
        allowed: largest fraction of pixels without data, in [0, 1].
    """
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            raster = open_raster(path)
            place = Window(*window)
            pixels = raster.read(indexes=list(header.order), window=place)
            void = ~pixels.any(axis=0)
            if header.nodata:
                void |= (pixels == header.nodata).all(axis=0)
            if header.masked:
                void |= raster.dataset_mask(window=place) == 0
    except _DAMAGE as error:
        return "corrupt", f"this window cannot be read: {one_line(error)}"
    fraction = float(void.mean())
    if fraction > allowed:
        return "nodata", f"{fraction:.2%} of its pixels have no data"
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def one_line(error: Exception) -> str:
    """A library's message without the path of the file, which the key names."""
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return re.sub(r"(?:/[^\s/:']+)+/", "", text)[:200]
