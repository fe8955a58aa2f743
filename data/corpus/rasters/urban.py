"""Which chips are urban: those whose centre lies in a polygon of a file that the user gives.

Any vector file that GDAL knows will do (GeoPackage, shapefile, GeoJSON, FlatGeobuf), in any
coordinate system. Only the polygons around one raster are held at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from data.corpus.rasters.raster import Bounds


def check_polygons(path: Path) -> None:
    """Raise UserError unless a file has polygons and a coordinate system."""
    import pyogrio

    if not path.exists():
        raise UserError(f"{path}: no such file (?urban=)")
    try:
        facts = pyogrio.read_info(path, force_total_bounds=False)
    except Exception as error:  # pyogrio's errors share no base with those of its drivers
        raise UserError(f"{path}: not a file of polygons ({error})") from None
    if "Polygon" not in str(facts["geometry_type"]) and facts["geometry_type"] != "Unknown":
        raise UserError(f"{path}: holds {facts['geometry_type']} geometries, not polygons")
    if not facts["crs"]:
        raise UserError(f"{path}: has no coordinate system, so that no chip can be placed in it")


def urban(
    polygons: str, crs: str, bounds: Bounds, centres: Sequence[tuple[float, float]]
) -> NDArray[np.bool_]:
    """Whether each point lies in (or on the edge of) a polygon.

    Args:
        polygons: path of the polygon file.
        crs: coordinate system of `bounds` and `centres`.
        bounds: left, bottom, right, top of the raster: polygons elsewhere are not read.
        centres: points (x, y).
    """
    import pyogrio
    import shapely
    from rasterio.warp import transform, transform_bounds

    target = pyogrio.read_info(polygons, force_total_bounds=False)["crs"]
    around = transform_bounds(crs, target, *bounds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a file without a spatial index: only slower
        _, _, geometry, _ = pyogrio.raw.read(polygons, columns=[], bbox=around)
    if geometry is None or not len(geometry):
        return np.zeros(len(centres), dtype=np.bool_)
    xs, ys = transform(crs, target, *_columns(centres))
    tree = shapely.STRtree(shapely.from_wkb(geometry))
    inside, _ = tree.query(shapely.points(xs, ys), predicate="intersects")
    found = np.zeros(len(centres), dtype=np.bool_)
    found[inside] = True
    return found


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
