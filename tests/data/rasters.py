"""Small GeoTIFFs in the manner of NAIP, and as they ought not to be."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

NAME = "m_4709963_se_14_1_20150926.tif"
RGB_X = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)


def pixels(height: int = 40, width: int = 70, bands: int = 4, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 height x width x bands in [1, 255]: nothing in it looks like nodata."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (height, width, bands), dtype=np.uint8)


def write_raster(
    path: Path,
    data: NDArray[Any] | None = None,
    *,
    colours: tuple[ColorInterp, ...] | None = RGB_X,
    descriptions: tuple[str, ...] = (),
    crs: str | None = "EPSG:26914",
    origin: tuple[float, float] = (485_900.0, 5_209_200.0),
    metres: float = 1.0,
    **options: Any,
) -> Path:
    """A GeoTIFF of H x W x bands."""
    data = pixels() if data is None else data
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = data.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = from_origin(*origin, metres, metres) if crs else rasterio.Affine.identity()
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=data.dtype,
            crs=crs, transform=transform, photometric="minisblack", **options,
        ) as raster:  # fmt: skip
            raster.write(data.transpose(2, 0, 1))
            if colours:
                raster.colorinterp = colours[:bands]
            for band, text in enumerate(descriptions, 1):
                raster.set_band_description(band, text)
    return path
