"""Chips of four bands as encoded bytes: red, green, blue, near infrared.

A chip is cut from a larger raster, so no file holds its bytes. What travels from reader to
decoder in their place is a PAM image (Netpbm's "portable arbitrary map": a text header, then the
pixels), whose tuple type states the band order. The same pixels give the same bytes, so that
digests, exact copies and leakage work for chips as they do for files.
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
_HEADER = re.compile(
    rb"P7\nWIDTH (\d{1,9})\nHEIGHT (\d{1,9})\nDEPTH (\d{1,4})\nMAXVAL (\d{1,5})\n"
    rb"TUPLTYPE (\w+)\nENDHDR\n"
)


def encode_chip(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 H x W x 4 (red, green, blue, near infrared) as PAM. ValueError for another shape."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != BANDS:
        raise ValueError(f"expected uint8 H x W x {BANDS}, found {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    header = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {BANDS}\nMAXVAL 255\nTUPLTYPE {ORDER}\n"
    return header.encode() + b"ENDHDR\n" + pixels.tobytes()


def chip_size(data: bytes) -> tuple[int, int]:
    """(width, height) that a PAM's header states.

    Raises Reject: no complete header, or not four 8-bit bands in the order of ORDER.
    """
    match = _HEADER.match(data)
    if match is None:
        raise Reject("corrupt", "no whole PAM header, or its lines in another order")
    width, height, depth, top = (int(match[i]) for i in range(1, 5))
    if top != 255:
        raise Reject("16-bit" if top > 255 else "unsupported", f"PAM with MAXVAL {top}")
    if (depth, match[5].decode()) != (BANDS, ORDER):
        raise Reject("bands", f"PAM with {depth} bands of type {match[5].decode()}, not {ORDER}")
    return width, height


def decode_chip(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a PAM: uint8 H x W x 4, a view of `data`. Raises Reject (see `chip_size`)."""
    width, height = chip_size(data)
    match = _HEADER.match(data)
    assert match is not None
    if not width * height or len(data) - match.end() != width * height * BANDS:
        detail = f"{len(data) - match.end():,} bytes of pixels for {width} x {height} x {BANDS}"
        raise Reject("corrupt", detail, (width, height))
    pixels = np.frombuffer(data, np.uint8, offset=match.end())
    return pixels.reshape(height, width, BANDS)


def chip_to_geotiff(
    data: bytes, crs: str | None = None, bounds: Sequence[float] | None = None
) -> bytes:
    """A PAM as a GeoTIFF (Deflate) of the same pixels, for tools that do not read PAM.

    Args:
        data: the chip.
        crs: its coordinate system, as rasterio takes it. None: not known.
        bounds: left, bottom, right and top in it.

    Raises Reject (see `chip_size`).
    """
    import warnings

    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile
    from rasterio.transform import from_bounds

    pixels = decode_chip(data)
    height, width = pixels.shape[:2]
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": BANDS, "dtype": "uint8",
        # The fourth band is no transparency, which is what GDAL takes it for unless it is told.
        "photometric": "RGB", "alpha": "unspecified", "interleave": "pixel",
        "compress": "deflate",
    }  # fmt: skip
    if crs is not None and bounds is not None:
        profile |= {"crs": crs, "transform": from_bounds(*bounds, width, height)}
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as raster:
            raster.write(pixels.transpose(2, 0, 1))
            raster.descriptions = NAMES
        return bytes(memory.read())
