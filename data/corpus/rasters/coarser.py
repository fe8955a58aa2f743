"""Finer rasters brought to a coarser resolution by area means.

A target pixel is the mean of the source over its own ground: source pixels count by the area that
they share with it, those without data not at all. `resolution=1` makes of 0.6 m such pixels of
1 m, each 1/0.6 source pixels wide; windows are counted in them, from the upper left corner.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError

if TYPE_CHECKING:
    from data.corpus.rasters.header import Header

NATIVE = 0.0
"""The resolution that leaves every raster as it is."""
TOLERANCE = 0.01  # of the resolution: a raster this near to it is at it
_EPS = 1e-6  # pixels: what rounding may add to a window that ends at the raster's edge
Box = tuple[int, int, int, int]  # x, y, width, height (pixels)


def parse_resolution(spec: str, text: str | None, default: float) -> float:
    """The metres a pixel of `resolution=`, NATIVE for 'native'; `default` where it is not stated.

    Raises UserError for what is neither.
    """
    if text is None or text == "native":
        return default if text is None else NATIVE
    try:
        metres = float(text)
    except ValueError:
        metres = -1.0
    if not 0.01 <= metres <= 1000:
        raise UserError(
            f"{spec}: resolution={text}: give metres a pixel, from 0.01 to 1000, or "
            "resolution=native, which leaves every raster at its own"
        )
    return metres


def at_resolution(header: Header, metres: float, stated: bool) -> Header:
    """The header as it is read at a resolution: finer ones coarser, with the file's as `source`.

    Args:
        header: of the file.
        metres: wanted, a pixel; NATIVE changes nothing.
        stated: whether the user asked for it; then what cannot be brought to it is refused (an
            error in the header), else it is read as it is, with a note.
    """
    if header.error is not None or metres == NATIVE:
        return header
    own = header.resolution_m
    if own is not None and abs(own / metres - 1) <= TOLERANCE:
        return header
    if own is None:
        what = "the raster does not say how many metres its pixels have"
        way = "reproject it to a system in metres (gdalwarp -t_srs)"
    elif own > metres or not all(side <= metres * (1 + TOLERANCE) for side in header.pixel_m):
        what = f"{own:g} m a pixel is coarser than {metres:g} m"
        if own <= metres:
            what = f"its pixels are {header.pixel_m[0]:g} x {header.pixel_m[1]:g} m"
        way = f"give resolution={math.ceil(max(header.pixel_m) * 100) / 100:g} or more"
    else:
        return _brought(header, metres)
    if stated:
        return replace(header, error=("resolution", f"{what}; {way}, or resolution=native"))
    return header if own is None else noted(header, f"{what}, read as it is")


def noted(header: Header, text: str) -> Header:
    """The header with a further note in its layout."""
    how = header.layout
    if how is None:
        return header
    return replace(header, layout=replace(how, note=f"{how.note}; {text}" if how.note else text))


def _brought(header: Header, metres: float) -> Header:
    across, down = (metres / side for side in header.pixel_m)
    a, b, c, d, e, f = header.transform
    made = replace(
        header,
        width=math.floor(header.width / across + _EPS),
        height=math.floor(header.height / down + _EPS),
        transform=(a * across, b * down, c, d * across, e * down, f),
        resolution_m=metres,
        source=header,
    )
    if not min(made.width, made.height):
        detail = f"{header.width} x {header.height} pixels are less than one of {metres:g} m"
        return replace(header, error=("resolution", detail))
    return noted(made, f"{header.resolution_m:g} m brought to {metres:g} m by area means")


def source_edges(header: Header, box: Box) -> tuple[Box, NDArray[np.float64], NDArray[np.float64]]:
    """The window of the file under a window of a brought header, and the pixels' edges in it.

    Returns:
        the window (whole source pixels), and the edges of the target's columns [width + 1] and
        rows [height + 1], in source pixels from the window's upper left corner.
    """
    source = header.source
    assert source is not None and header.resolution_m is not None
    x, y, width, height = box
    starts, sizes, edges = [], [], []
    for first, count, side, limit in zip(
        (x, y), (width, height), source.pixel_m, (source.width, source.height), strict=True
    ):
        places = (first + np.arange(count + 1)) * (header.resolution_m / side)
        places = np.minimum(places, limit)
        start = math.floor(places[0] + _EPS)
        stop = min(limit, math.ceil(places[-1] - _EPS))
        starts.append(start)
        sizes.append(stop - start)
        edges.append(np.clip(places - start, 0, stop - start))
    return (starts[0], starts[1], sizes[0], sizes[1]), edges[0], edges[1]


def area_means(
    values: NDArray[Any], columns: NDArray[np.float64], rows: NDArray[np.float64],
    void: NDArray[np.bool_], fill: float = 0.0,
) -> tuple[NDArray[np.float64], float]:
    """Means over the pixels that edges make, by area, of what has data.

    Args:
        values: bands x H x W, finite where there is data.
        columns, rows: edges, ascending, in [0, W] and [0, H].
        void: H x W, True where there is no data.
        fill: the value of what has no data at all.

    Returns:
        (bands x (rows - 1) x (columns - 1); the fraction of the area that has no data).
    """  # fmt: skip
    known = ~void
    # Band by band: in 64 bits a window takes eight times its bytes, and its sums as much again.
    sums = np.stack([_integrate(np.where(known, band, 0.0), columns, rows) for band in values])
    areas = _integrate(known.astype(np.float64), columns, rows)
    full = np.outer(np.diff(rows), np.diff(columns))
    empty = areas <= _EPS * full
    means = np.where(empty, fill, sums / np.where(empty, 1.0, areas))
    return means, max(0.0, 1 - float(areas.sum() / full.sum())) if void.any() else 0.0


def _integrate(
    values: NDArray[np.float64], columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integrals of piecewise constant values, ... x H x W, over the cells between edges."""
    for axis, edges in ((-1, columns), (-2, rows)):
        moved = np.moveaxis(values, axis, -1)
        total = np.zeros((*moved.shape[:-1], moved.shape[-1] + 1))
        np.cumsum(moved, axis=-1, out=total[..., 1:])
        whole = np.minimum(np.floor(edges).astype(np.int64), moved.shape[-1] - 1)
        upto = total[..., whole] + (edges - whole) * moved[..., whole]
        values = np.moveaxis(np.diff(upto, axis=-1), -1, axis)
    return values
