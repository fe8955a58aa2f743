"""Pixels to bytes in the formats of real data sets, without a clock or a random name in them."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

Pixels = NDArray[np.uint8]


def jpeg(pixels: Pixels, quality: int) -> bytes:
    """JPEG, 4:2:0 as most crawled imagery is (4:4:4 from quality 93 up)."""
    stream = io.BytesIO()
    subsampling = 0 if quality >= 93 else 2
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=subsampling)
    return stream.getvalue()


def png(pixels: Pixels) -> bytes:
    """PNG of uint8 H x W or H x W x 3."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=4)
    return stream.getvalue()


def geotiff(pixels: Pixels, metres: float, east: float, north: float) -> bytes:
    """GeoTIFF (deflate) of uint8 H x W or H x W x 3: pixel size and upper left corner in metres."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in (
        (33550, (metres, metres, 0.0)),  # ModelPixelScale
        (33922, (0.0, 0.0, 0.0, east, north, 0.0)),  # ModelTiepoint
    ):
        tags.tagtype[tag] = 12  # double
        tags[tag] = values
    # GeoKeyDirectory: version 1.1.0, projected model, pixel is area, UTM zone 32N on WGS 84
    tags.tagtype[34735] = 3
    tags[34735] = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF", compression="tiff_adobe_deflate", tiffinfo=tags)
    return stream.getvalue()
