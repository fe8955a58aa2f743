"""TIFF, JPEG 2000 and other rasters through GDAL: what makes an image, and its pixels.

An image is one page of 1, 3 or 4 known bands of 8 bits, or of other bits with a stated scale:

    value = floor(255 (v - MIN) / (MAX - MIN) + 1/2), limited to [0, 255]; not a number gives 0

Colour tables are applied (also those that GDAL gives to 1-bit and to white-is-zero files); alpha
and masks are no part of the pixels. 8-bit values are never scaled.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own, which rasterio does not always wrap
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from data.images.bands import SCALED, Asked, band_order
from data.images.border import collar
from data.images.reject import Reject

DRIVERS = {"TIFF": "GTiff", "JPEG 2000": "JP2OpenJPEG", "PNG": "PNG", "BMP": "BMP", "GIF": "GIF",
           "WEBP": "WEBP"}  # fmt: skip
"""Format -> the one driver that may open it: a .tif that is in truth a VRT leads anywhere."""
MAX_BLOCK_BYTES = 1 << 30  # a strip or tile of a file is decoded at once
CACHE_BYTES = 64 << 20  # of GDAL's decoded blocks: a row of chips of a wide raster
DAMAGE = (RasterioError, CPLE_BaseError, OSError, ValueError, IndexError, MemoryError)
_SETTINGS: dict[str, Any] = {
    "GDAL_NUM_THREADS": 1,  # the processes are many already
    "GDAL_CACHEMAX": CACHE_BYTES,
    "GDAL_ERROR_ON_LIBJPEG_WARNING": True,  # a JPEG cut short is an error, not grey pixels
    "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": True,  # a large progressive JPEG is held as a whole
}
WINDOWS, _SIDE = 3, 128  # of a raster whose values are looked at: along a side; pixels
Box = tuple[int, int, int, int]  # x, y, width, height (pixels)


@dataclass(frozen=True, slots=True)
class Layout:
    """How an image is read from a raster."""

    width: int
    height: int
    bands: tuple[int, ...]
    """Numbers, from 1: grey; or red, green, blue; or these and near infrared."""
    palette: bytes = b""
    """256 x 3 bytes of a colour table, or 256 of a grey one; b'' without."""
    scale: tuple[float, float] | None = None
    masked: bool = False
    """Whether the file has a mask, or alpha that is alpha."""
    nodata: float | None = None
    note: str = ""


@contextmanager
def opened(source: bytes | str, kind: str) -> Iterator[Any]:
    """Open bytes, or a file by its path, of a known format. Raises what GDAL raises (DAMAGE)."""
    with rasterio.Env(**_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        if isinstance(source, str):
            with rasterio.open(source, driver=DRIVERS[kind]) as raster:
                yield raster
        else:
            with MemoryFile(source) as file, file.open(driver=DRIVERS[kind]) as raster:
                yield raster


@contextmanager
def environment() -> Iterator[None]:
    """GDAL's settings for whatever reads an open raster; its remarks go to Python's log."""
    with rasterio.Env(**_SETTINGS):
        yield


def layout(raster: Any, name: str, asked: Asked) -> Layout:
    """What an open raster's header says. Raises Reject (see data.images.reject.REASONS)."""
    size = (raster.width, raster.height)
    pages = len(raster.subdatasets)
    if pages > 1:
        raise Reject("animated", f"{pages} pages", size)
    structure = raster.tags(ns="IMAGE_STRUCTURE")
    space = structure.get("SOURCE_COLOR_SPACE", "")
    if space in ("CMYK", "YCCK"):
        raise Reject("cmyk", space, size)
    if space == "CIELAB":
        raise Reject("bands", "CIELAB colours, not RGB", size)
    palette = _palette(raster)
    scale = None if palette else _scale(raster, asked, size)
    if structure.get("MINISWHITE") == "YES" and not palette:
        raise Reject("unsupported", "white is zero, in another form than one band of 8 bits", size)
    bands, note = band_order(raster, name, asked)
    if scale is not None and scale == asked.scale:
        note = f"{note}; {SCALED}" if note else SCALED
    block = max(rows * columns for rows, columns in raster.block_shapes) * raster.count
    block *= np.dtype(raster.dtypes[0]).itemsize
    if block > MAX_BLOCK_BYTES:
        detail = f"stored in blocks of {block:,} bytes, limit {MAX_BLOCK_BYTES:,}"
        raise Reject("too-large", f"{detail}; write it in tiles", size)
    flags = {flag for band in raster.mask_flag_enums for flag in band}
    infrared = len(bands) == 4 and MaskFlags.alpha in flags  # then that tag is not believed
    return Layout(
        *size, bands, palette, scale,
        masked=MaskFlags.per_dataset in flags and not infrared,
        nodata=raster.nodata,
        note=note,
    )  # fmt: skip


def _palette(raster: Any) -> bytes:
    if raster.count != 1 or raster.dtypes[0] != "uint8":
        return b""
    try:
        colours = raster.colormap(1)
    except ValueError:  # it has none
        return b""
    table = np.zeros((256, 3), np.uint8)
    for index, colour in colours.items():
        table[index] = colour[:3]
    grey = (table == table[:, :1]).all()
    return (table[:, 0] if grey else table).tobytes()


def _scale(raster: Any, asked: Asked, size: tuple[int, int]) -> tuple[float, float] | None:
    """The scale in use, None for 8 bits. Raises Reject where one would have to be guessed."""
    kinds = sorted(set(raster.dtypes))
    bits = raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
    if kinds == ["uint8"] and bits == "8":
        return None
    if raster.driver == "PNG" and kinds == ["uint8"]:  # whose definition says what is white
        return 0.0, 2.0 ** int(bits) - 1
    if any(kind.startswith("complex") for kind in kinds):
        raise Reject("not-8-bit", f"bands of {', '.join(kinds)}", size)
    if asked.scale is not None:
        return asked.scale
    few = kinds == ["uint8"]
    what = f"{bits} bit{'' if bits == '1' else 's'} a band" if few else f"{', '.join(kinds)} bands"
    top = 2 ** int(bits) - 1 if few else 1 if "float" in kinds[0] else 3000
    detail = (
        f"{what}, not 8 bits; no scale is guessed: state SPEC?scale=MIN,MAX (such as "
        f"?scale=0,{top}) or percentiles, ?scale=p2,p98"
    )
    raise Reject("16-bit" if kinds in (["uint16"], ["int16"]) else "not-8-bit", detail, size)


def read(raster: Any, how: Layout, box: Box | None = None) -> NDArray[np.uint8]:
    """The pixels of a window (x, y, width, height), or of all: uint8 H x W x 1, 3 or 4.

    Raises what GDAL raises for damage (DAMAGE).
    """
    return finish(stored(raster, how, box), how)


def stored(raster: Any, how: Layout, box: Box | None = None) -> NDArray[Any]:
    """The bands as they are stored: bands x H x W."""
    window = None if box is None else Window(*box)
    found: NDArray[Any] = raster.read(list(how.bands), window=window)
    return found


def with_data(raster: Any, how: Layout) -> NDArray[Any]:
    """Some of the stored values of pixels with data, of all bands, as one row.

    Every second pixel of WINDOWS x WINDOWS windows at even steps, which is all of a small image.
    Nothing is averaged, and no overview decides.
    """
    found = []
    for y in _starts(how.height):
        for x in _starts(how.width):
            box = (x, y, min(_SIDE, how.width - x), min(_SIDE, how.height - y))
            values = stored(raster, how, box)
            known = ~void(raster, how, values, box)
            found.append(values[:, ::2, ::2][:, known[::2, ::2]].ravel())
    values = np.concatenate(found)
    return values[np.isfinite(values)]


def _starts(length: int) -> list[int]:
    """Where windows begin along a side."""
    if length <= WINDOWS * _SIDE:
        return list(range(0, length, _SIDE))
    return [i * (length - _SIDE) // (WINDOWS - 1) for i in range(WINDOWS)]


def finish(values: NDArray[Any], how: Layout) -> NDArray[np.uint8]:
    """Stored values, bands x H x W, as pixels: uint8 H x W x bands."""
    if how.palette:
        table = np.frombuffer(how.palette, np.uint8).reshape(256, -1)
        return table[values[0]]
    if how.scale is not None:
        low, high = how.scale
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        values = np.floor(np.nan_to_num(np.clip(scaled, 0, 255)) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def void(raster: Any, how: Layout, values: NDArray[Any], box: Box | None) -> NDArray[np.bool_]:
    """Which pixels of a window have no data: bool H x W, from its stored values, bands x H x W.

    The file's own mask, or its nodata value in all bands, decides. A file that has neither may
    still have a collar: black regions at the window's edge (data.images.border).
    """
    if how.masked:
        window = None if box is None else Window(*box)
        return np.asarray(raster.dataset_mask(window=window) == 0)
    lacking = np.isnan(values).all(axis=0) if values.dtype.kind == "f" else None
    if how.nodata is not None:
        same = (values == how.nodata).all(axis=0)
        return np.asarray(same if lacking is None else same | lacking)
    found = collar((values == 0).all(axis=0))
    return found if lacking is None else found | lacking


def is_deep(data: bytes, kind: str) -> bool:
    """Whether an image holds more than 8 bits a band, in a format that only GDAL reads whole."""
    return kind == "PNG" and len(data) > 24 and data[24] == 16  # IHDR's bit depth


def is_multiband_geotiff(path: str) -> bool:
    """Whether a file is a GeoTIFF of four bands or more, by its header; False if unreadable."""
    try:
        with opened(path, "TIFF") as raster:
            placed = raster.crs is not None or not raster.transform.is_identity
            return raster.count > 3 and placed
    except DAMAGE:
        return False


def one_line(error: BaseException) -> str:
    """A library's message without the path of the file, which the key names."""
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    text = re.sub(r"(?:/[^\s/:']+)+/", "", text)
    return re.sub(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?:\.\w*)?", "the file", text)[
        :200
    ]


def head(path: str) -> bytes:
    """The first bytes of a file, enough to tell its format."""
    with Path(path).open("rb") as stream:
        return stream.read(4096)
