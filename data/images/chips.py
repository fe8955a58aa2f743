"""Pixels that no file holds as they are, as encoded bytes.

A chip is cut from a larger raster, and scaled or reordered bands are in no file either. What
travels from reader to decoder in their place is a PAM image (Netpbm's "portable arbitrary map": a
text header, then the pixels), whose tuple type states the bands. The same pixels give the same
bytes, so that digests, exact copies and leakage work for them as they do for files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.images.reject import Reject

MAGIC = b"P7\n"
ORDER = "RGB_NIR"
BANDS = 4
NAMES = ("red", "green", "blue", "near infrared")
TYPES = {1: "GRAYSCALE", 3: "RGB", BANDS: ORDER}
"""Bands -> tuple type."""
_HEADER = re.compile(
    rb"P7\nWIDTH (\d{1,9})\nHEIGHT (\d{1,9})\nDEPTH (\d{1,4})\nMAXVAL (\d{1,5})\n"
    rb"TUPLTYPE (\w+)\nENDHDR\n"
)


def encode_chip(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 H x W x 1 (grey), 3 (red, green, blue) or 4 (and near infrared) as PAM.

    ValueError for another shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in TYPES:
        raise ValueError(f"expected uint8 H x W x 1, 3 or 4, found {pixels.dtype} {pixels.shape}")
    height, width, bands = pixels.shape
    header = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {bands}\nMAXVAL 255\n"
    return f"{header}TUPLTYPE {TYPES[bands]}\nENDHDR\n".encode() + pixels.tobytes()


def _read_header(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, bands, bytes of the header). Raises Reject."""
    match = _HEADER.match(data)
    if match is None:
        raise Reject("corrupt", "no whole PAM header, or its lines in another order")
    width, height, depth, top = (int(match[i]) for i in range(1, 5))
    if top != 255:
        raise Reject("16-bit" if top > 255 else "unsupported", f"PAM with MAXVAL {top}")
    if TYPES.get(depth) != match[5].decode():
        raise Reject("bands", f"PAM with {depth} bands of type {match[5].decode()}")
    return width, height, depth, match.end()


def chip_size(data: bytes) -> tuple[int, int]:
    """(width, height) that a PAM's header states.

    Raises Reject: no complete header, or not the 8-bit bands of one of TYPES.
    """
    return _read_header(data)[:2]


def chip_bands(data: bytes) -> int:
    """Bands that a PAM's header states: 1, 3 or 4. Raises Reject (see `chip_size`)."""
    return _read_header(data)[2]


def decode_chip(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a PAM: uint8 H x W x bands, a view of `data`. Raises Reject."""
    width, height, bands, start = _read_header(data)
    if not width * height or len(data) - start != width * height * bands:
        detail = f"{len(data) - start:,} bytes of pixels for {width} x {height} x {bands}"
        raise Reject("corrupt", detail, (width, height))
    return np.frombuffer(data, np.uint8, offset=start).reshape(height, width, bands)


def chip_to_file(
    data: bytes, crs: str | None = None, bounds: Sequence[float] | None = None
) -> bytes:
    """A PAM in a form that other tools open, of the same pixels: PNG, of four bands GeoTIFF.

    Args:
        data: the chip.
        crs: its coordinate system, as rasterio takes it. None: not known.
        bounds: left, bottom, right and top in it.

    Raises Reject for what is no chip.
    """
    pixels = decode_chip(data)
    if pixels.shape[2] == BANDS:
        return _geotiff(pixels, crs, bounds)
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def _geotiff(
    pixels: NDArray[np.uint8], crs: str | None, bounds: Sequence[float] | None
) -> bytes:
    import warnings

    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile
    from rasterio.transform import from_bounds

    height, width = pixels.shape[:2]
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": BANDS, "dtype": "uint8",
        # Stated: unasked, GDAL would make the fourth of four bands transparency.
        "photometric": "RGB", "interleave": "pixel", "compress": "deflate",
    }  # fmt: skip
    if crs is not None and bounds is not None:
        profile |= {"crs": crs, "transform": from_bounds(*bounds, width, height)}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as raster:
            raster.write(pixels.transpose(2, 0, 1))
            raster.descriptions = NAMES
        return bytes(memory.read())
