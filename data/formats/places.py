"""Ground: which chips of a score table show places that others show too, on other dates.

NAIP has several dates of one ground, whose grids seldom agree: a chip of one date overlaps up to
four of another. So what counts is overlap with chosen chips, and no class of "the same ground":
joined from neighbour to neighbour, that would be a whole county.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

COLUMNS = ("crs", "bounds")
"""Of a score table of chips (data.formats.scores)."""
TOUCH = 0.004  # of a side: chips that share less are neighbours (one of 256 pixels)
Boxes = NDArray[np.float64]  # n x 4: left, bottom, right, top


def overlapping(table: pa.Table, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows that are not chosen show ground that a chosen row shows: bool [n].

    A join on a grid of the largest chip's side; time and memory grow with the rows, not with
    their pairs. Rows of one coordinate system are compared in it, exactly; those of two by their
    extents in degrees, which are a little larger than the chips. Rows whose place is not known
    (null crs or bounds, or a table without these columns) overlap nothing.

    Args:
        table: n rows, with columns crs and bounds where the corpus is one of chips.
        chosen: n, True for the rows that are held out.
    """
    found = np.zeros(table.num_rows, np.bool_)
    if not set(COLUMNS) <= set(table.column_names) or not chosen.any():
        return found
    known = pc.and_(pc.is_valid(table["crs"]), pc.is_valid(table["bounds"]))
    rows = np.flatnonzero(known.to_numpy(zero_copy_only=False))
    placed = table.select(list(COLUMNS)).take(pa.array(rows)).combine_chunks()
    if not len(rows):
        return found
    boxes = pc.list_flatten(placed["bounds"]).to_numpy(zero_copy_only=False).reshape(-1, 4)
    codes = pc.dictionary_encode(placed["crs"]).combine_chunks()
    systems, of = codes.dictionary.to_pylist(), codes.indices.to_numpy(zero_copy_only=False)
    held = chosen[rows]
    for code in range(len(systems)):
        here = of == code
        mine = np.flatnonzero(here & ~held)
        found[rows[mine]] |= _hit(boxes[mine], boxes[here & held])
    if len(systems) > 1:
        degrees = np.empty_like(boxes)
        for code, crs in enumerate(systems):
            degrees[of == code] = _in_degrees(crs, boxes[of == code])
        for code in range(len(systems)):
            mine = np.flatnonzero((of == code) & ~held)
            found[rows[mine]] |= _hit(degrees[mine], degrees[(of != code) & held])
    return found


def _in_degrees(crs: str, boxes: Boxes) -> Boxes:
    """Longitude and latitude that boxes of a coordinate system reach, not a number if unknown."""
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    corners = [(x, y) for x in (0, 2) for y in (1, 3)]
    try:
        placed: Any = [transform(crs, "EPSG:4326", boxes[:, x], boxes[:, y]) for x, y in corners]
    except (RasterioError, CPLE_BaseError, ValueError):  # a local system: nobody knows where it is
        return np.full_like(boxes, np.nan)
    xs, ys = (np.asarray([corner[axis] for corner in placed]) for axis in (0, 1))
    return np.stack([xs.min(0), ys.min(0), xs.max(0), ys.max(0)], axis=1)


def _hit(boxes: Boxes, held: Boxes) -> NDArray[np.bool_]:
    """Which boxes [n] overlap one of `held` [m]."""
    hit = np.zeros(len(boxes), np.bool_)
    sane = np.isfinite(boxes).all(axis=1)
    held = held[np.isfinite(held).all(axis=1)]
    if not len(held) or not sane.any():
        return hit
    sides = [(some[:, 2:] - some[:, :2]).max() for some in (boxes[sane], held)]
    # Boxes that overlap have their centres less than this apart, so in neighbouring cells.
    cell = max(*sides, np.finfo(np.float64).tiny)
    origin = held[:, :2].min(axis=0)
    span = np.int64(((held[:, 3] - origin[1]).max() // cell) + 4)
    grid = np.floor(((held[:, :2] + held[:, 2:]) / 2 - origin) / cell).astype(np.int64) + 1
    around = np.asarray([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], np.int64)
    near = (grid[:, None] + around).reshape(-1, 2)
    cells = near[:, 0] * span + near[:, 1]
    order = np.argsort(cells, kind="stable")
    cells, owner = cells[order], np.repeat(np.arange(len(held)), 9)[order]

    middle = np.floor(((boxes[:, :2] + boxes[:, 2:]) / 2 - origin) / cell) + 1
    sane &= (middle >= 0).all(axis=1) & (middle[:, 1] < span) & (middle[:, 0] < 2**40)
    rows = np.flatnonzero(sane)
    place = middle[rows].astype(np.int64)
    wanted = place[:, 0] * span + place[:, 1]
    first = np.searchsorted(cells, wanted, "left")
    count = np.searchsorted(cells, wanted, "right") - first
    some = np.flatnonzero(count)
    for part in np.array_split(some, len(some) // 1_000_000 + 1):  # bounds the pairs in memory
        a = np.repeat(rows[part], count[part])
        ends = np.cumsum(count[part])
        within = np.arange(len(a)) - np.repeat(ends - count[part], count[part])
        b = owner[np.repeat(first[part], count[part]) + within]
        one, other = boxes[a], held[b]
        shared = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
        least = np.minimum(one[:, 2:] - one[:, :2], other[:, 2:] - other[:, :2])
        hit[a[(shared > TOUCH * least).all(axis=1)]] = True
    return hit
