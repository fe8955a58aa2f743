"""One raster or large image: what its header says, and the chips that are cut from it.

Which bands are taken, and how they become 8-bit pixels, is data.images.bands' and
data.images.raster's to say. A file of which nothing can be used has the reason in its header.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from data.corpus.rasters.coarser import area_means, source_edges
from data.corpus.rasters.header import Bounds, Error, Header
from data.corpus.sharded.shards import once_a_file
from data.images.bands import Asked
from data.images.formats import claimed, sniff
from data.images.raster import (
    DAMAGE,
    DRIVERS,
    Layout,
    environment,
    finish,
    head,
    layout,
    one_line,
    stored,
    void,
    with_data,
)
from data.images.reject import Reject

__all__ = ["REASONS", "Bounds", "Error", "Header", "read_header", "read_window"]

REASONS: dict[str, str] = {
    "no-crs": "a raster without a coordinate system, where urban areas are asked for",
    "partial-chip": "a chip at the edge of its raster, smaller than asked for",
    "nodata": "a chip with pixels that the raster has no data for",
    "not-urban": "a chip whose centre lies outside the urban areas",
    "resolution": "a raster that cannot be brought to the resolution that is asked for",
}
"""Why a raster, or a chip of one, is not used, besides the reasons of data.images.reject."""

MAX_JPEG = 400_000_000  # pixels: 1.2 GB, held for one file at a time
_JPEG_HEAD = 256 << 10  # bytes that hold nearly every JPEG's header
MAX_SIDE = 200_000  # pixels; a quarter quad at 0.3 m has 25,000
_FAR = 1e6  # ranges of a scale: values further off count as this far
_DAY = re.compile(r"m_\d{7}_(?:ne|nw|se|sw)_\d{1,2}_\w{1,4}_(\d{8})(?:_\d{8})?", re.IGNORECASE)


def acquired(name: str) -> str | None:
    """The day in a NAIP file name as YYYY-MM-DD; None for another name, or no day."""
    match = _DAY.fullmatch(Path(name).stem)
    if match is None:
        return None
    try:
        return date(int(match[1][:4]), int(match[1][4:6]), int(match[1][6:])).isoformat()
    except ValueError:
        return None


def read_header(path: str, asked: Asked) -> Header:
    """The header of a raster; never raises for what is wrong with the file.

    Args:
        path: the file.
        asked: what the user says of its bands and scale.
    """
    try:
        beginning = head(path)
        kind = sniff(beginning)
        if kind != "JPEG" and kind not in DRIVERS:
            raise Reject("unsupported", f"{kind} is not cut into chips")
        if claimed(path) not in (None, kind):
            raise Reject("misnamed", f"{kind} content under a {Path(path).suffix} name")
        if kind == "JPEG":
            return _jpeg_header(path)
        if kind in ("PNG", "GIF", "WEBP"):
            _check_still(path, kind)
        with environment():
            raster = open_raster(path, kind)
            return _header(raster, path, kind, asked)
    except Reject as reject:
        return Header((reject.reason, reject.detail), *(reject.size or (0, 0)))
    except FileNotFoundError as error:
        return Header(("unreadable", error.strerror or str(error)))
    except DAMAGE as error:
        return Header(("corrupt", f"cannot be opened: {one_line(error)}"))


@once_a_file
def open_raster(path: str, kind: str) -> Any:
    """The open file; kept, with a few others, until they are pushed out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, driver=DRIVERS[kind])


def sample_values(path: str, asked: Asked) -> NDArray[Any]:
    """Some of the values that a scale is for (data.images.raster.with_data); empty if none are."""
    header = read_header(path, asked)
    if header.layout is None or header.layout.scale is None:
        return np.empty(0)
    try:
        with environment():
            return with_data(open_raster(path, header.kind), header.layout)
    except DAMAGE:  # the pass over the corpus says where
        return np.empty(0)


def _header(raster: Any, path: str, kind: str, asked: Asked) -> Header:
    if max(raster.width, raster.height) > MAX_SIDE:
        detail = f"{raster.width:,} x {raster.height:,} pixels, limit {MAX_SIDE:,} a side"
        raise Reject("too-large", detail)
    name = Path(path).name
    how = layout(raster, name, asked)
    transform = () if raster.transform.is_identity else tuple(raster.transform)[:6]
    crs = raster.crs
    return Header(
        None, raster.width, raster.height, kind, how,
        crs=None if not crs else crs.to_string(),
        transform=transform,
        resolution_m=_metres(crs, transform),
        pixel_m=_sides(crs, transform),
        date=acquired(name),
    )  # fmt: skip


def _jpeg_header(path: str) -> Header:
    from data.images.decode import jpeg_facts

    with Path(path).open("rb") as stream:
        try:
            width, height, bands = jpeg_facts(stream.read(_JPEG_HEAD))
        except Reject:  # cut off within a large colour profile, or indeed damaged
            stream.seek(0)
            width, height, bands = jpeg_facts(stream.read())
    if width * height > MAX_JPEG:
        raise Reject("too-large", f"{width:,} x {height:,} pixels, limit {MAX_JPEG:,}")
    how = Layout(width, height, tuple(range(1, bands + 1)))
    return Header(None, width, height, "JPEG", how, date=acquired(path))


@functools.lru_cache(maxsize=1)
def _jpeg(path: str, bands: int, *state: int) -> NDArray[np.uint8]:
    """The pixels of the last JPEG that was asked for, uint8 H x W x bands. Raises Reject."""
    from data.images.decode import decode

    pixels, _ = decode(Path(path).read_bytes(), grey=bands == 1, max_pixels=MAX_JPEG)
    return np.atleast_3d(pixels)


def _jpeg_values(path: str, how: Layout, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A window of a JPEG, bands x H x W. Decoded strictly, and to what a folder's would be."""
    status = Path(path).stat()
    x, y, width, height = box
    pixels = _jpeg(path, len(how.bands), status.st_size, status.st_mtime_ns)
    return pixels[y : y + height, x : x + width].transpose(2, 0, 1)


def _check_still(path: str, kind: str) -> None:
    """Raise Reject for an animation, of which GDAL would take the first picture unasked."""
    from PIL import Image

    with Image.open(path, formats=(kind,)) as image:
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise Reject("animated", f"{frames} frames", image.size)


def _sides(crs: Any, transform: Sequence[float]) -> tuple[float, float]:
    """Metres from one pixel to the next along a row, and along a column; () if not known."""
    if _metres(crs, transform) is None:
        return ()  # type: ignore[return-value]
    a, b, _, d, e, _ = transform
    unit = crs.linear_units_factor[1]
    return math.hypot(a, d) * unit, math.hypot(b, e) * unit


def _metres(crs: Any, transform: Sequence[float]) -> float | None:
    """Metres a pixel; None where coordinates are degrees or unknown."""
    if not transform or not crs or not crs.is_projected:
        return None
    a, b, _, d, e, _ = transform
    try:
        unit = crs.linear_units_factor[1]
    except DAMAGE:
        return None
    return round(math.sqrt(abs(a * e - b * d)) * unit, 6)


def read_window(
    path: str, header: Header, box: tuple[int, int, int, int], allowed: float
) -> NDArray[np.uint8] | Error:
    """The pixels of a window, uint8 height x width x bands, or why not.

    Args:
        path, header: the file.
        box: x, y, width, height in pixels, inside the file.
        allowed: largest fraction of pixels without data (data.images.raster.void), in [0, 1].
    """
    how = header.layout
    assert how is not None
    target = box
    if header.source is not None:
        box, columns, rows = source_edges(header, target)
    try:
        with environment():
            raster = None if header.kind == "JPEG" else open_raster(path, header.kind)
            if raster is None:
                values: NDArray[Any] = _jpeg_values(path, how, box)
            else:
                values = stored(raster, how, box)
            lacking = void(raster, how, values, box)
    except Reject as reject:
        return reject.reason, reject.detail
    except DAMAGE as error:
        return "corrupt", f"this window cannot be read: {one_line(error)}"
    fraction = float(lacking.mean())
    if header.source is not None:
        if how.palette:  # a mean of numbers of colours would be none of the colours
            values, how = finish(values, how).transpose(2, 0, 1), replace(how, palette=b"")
        elif how.scale is not None:  # what is not a number is 0 in the end, as ever
            low, high = how.scale
            values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
            # One -3e38 would take all digits from the sums of its row; so far out, it still wins.
            reach = _FAR * (high - low)
            values = np.clip(values, low - reach, high + reach)
        fill = how.scale[0] if how.scale else 0.0  # black in the end
        means, fraction = area_means(values, columns, rows, lacking, fill)
        # What cumulated sums leave of rounding must not decide a half.
        values = means if how.scale else np.floor(np.round(means, 6) + 0.5).astype(np.uint8)
    if fraction > allowed:
        return "nodata", f"{fraction:.2%} of its pixels have no data"
    return finish(values, how)
