"""Encoded images of every kind, made on the spot, for the decoder's and the score's tests."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 40


def scene(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth coloured RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode with Pillow, leaving no encoder state behind on the pictures."""
    if "append_images" in options:
        options["append_images"] = [other.copy() for other in options["append_images"]]
    stream = io.BytesIO()
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG from its filtered rows, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def twelve_bit_jpeg() -> bytes:
    """A JPEG whose frame header says 12 bits a sample."""
    data = bytearray(encode(scene(), "JPEG"))
    data[data.find(b"\xff\xc0") + 4] = 12
    return bytes(data)


def tiff(bits: int, bands: int, sample_format: int = 1, photometric: int = 2) -> bytes:
    """An uncompressed little-endian TIFF of zeros, 20 x 20, of any depth and band count."""
    pixels = bytes(20 * 20 * bands * bits // 8)
    entries = [
        (256, 3, 1, 20), (257, 3, 1, 20), (258, 3, 1, bits), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, bands), (278, 3, 1, 20),
        (279, 4, 1, len(pixels)), (339, 3, 1, sample_format),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def tiff_with_overview() -> bytes:
    """A TIFF of two pages, the second marked as a reduced copy of the first."""
    full, small = scene(), scene(width=24, height=20)
    stream = io.BytesIO()
    small.encoderinfo = {"tiffinfo": {254: 1}}
    full.save(stream, "TIFF", compression="tiff_lzw", save_all=True, append_images=[small])
    return stream.getvalue()


def good() -> dict[str, bytes]:
    """File name -> bytes of images that are to be accepted."""
    picture = scene()
    made = {
        "colour.jpg": encode(picture, "JPEG"),
        "progressive.jpeg": encode(picture, "JPEG", progressive=True),
        "optimised.jpg": encode(picture, "JPEG", optimize=True, subsampling=0),
        "grey.jpg": encode(picture.convert("L"), "JPEG"),
        "rgb-space.jpg": encode(picture, "JPEG", keep_rgb=True),
        "garbage-after.jpg": encode(picture, "JPEG") + b"\0" * 99 + b"garbage",
        "camera.mpo": encode(picture, "MPO", save_all=True, append_images=[scene(1)]),
        "colour.png": encode(picture, "PNG"),
        "grey.png": encode(picture.convert("L"), "PNG"),
        "bits.png": encode(picture.convert("1"), "PNG"),
        "palette.png": encode(picture.convert("P"), "PNG"),
        "grey-alpha.png": encode(picture.convert("LA"), "PNG"),
        "colour-alpha.png": encode(picture.convert("RGBA"), "PNG"),
        "palette-clear.png": encode(picture.convert("P"), "PNG", transparency=3),
        "plain.bmp": encode(picture, "BMP"),
        "still.gif": encode(picture, "GIF"),
        "lossy.webp": encode(picture, "WEBP"),
        "colour.jp2": encode(picture, "JPEG2000"),
        "lossless.webp": encode(picture, "WEBP", lossless=True),
        "four.tif": encode(picture.convert("RGBA"), "TIFF"),
        "overview.tif": tiff_with_overview(),
        "bare-name": encode(picture, "PNG"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        made[f"{compression}.tif"] = encode(picture, "TIFF", compression=compression)
    return made


def bad() -> dict[str, tuple[str, bytes]]:
    """File name -> (reason, bytes) of files that are to be rejected."""
    picture = scene()
    jpeg, whole_png = encode(picture, "JPEG"), encode(picture, "PNG")
    frames: dict[str, Any] = {"save_all": True, "append_images": [scene(1), scene(2)]}
    deep = np.zeros((20, 20), dtype=np.uint16)
    rows16 = b"".join(b"\0" + bytes(20 * 6) for _ in range(20))
    return {
        "empty.jpg": ("empty", b""),
        "error-page.jpg": ("not-an-image", b"<!DOCTYPE html><html>403 Forbidden</html>"),
        "text.png": ("not-an-image", b"this is no picture\n"),
        "zeros.jpg": ("not-an-image", bytes(5000)),
        "archive.zip": ("not-an-image", b"PK\x03\x04" + bytes(100)),
        "vector.eps": ("not-an-image", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        "cut.jp2": ("corrupt", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(50)),
        "picture.avif": ("unsupported", b"\x00\x00\x00\x18ftypavif" + bytes(50)),
        "burst.heic": ("unsupported", b"\x00\x00\x00\x18ftyphevc" + bytes(50)),
        "phone.heic": ("unsupported", b"\x00\x00\x00\x18ftypheic" + bytes(50)),
        "really-png.jpg": ("misnamed", whole_png),
        "really-jpeg.tif": ("misnamed", jpeg),
        "cut.jpg": ("corrupt", jpeg[: len(jpeg) // 2]),
        "last-byte-lost.jpg": ("corrupt", jpeg[:-1]),
        "cut-and-closed.jpg": ("corrupt", jpeg[:-200] + b"\xff\xd9"),
        "head-only.jpg": ("corrupt", jpeg[:20]),
        "cut.png": ("corrupt", whole_png[: len(whole_png) // 2]),
        "end-lost.png": ("corrupt", whole_png[:-12]),
        "flipped.png": ("corrupt", whole_png[:-40] + b"\x55" + whole_png[-39:]),
        "cut.tif": ("corrupt", encode(picture, "TIFF")[:-99]),
        "cut.webp": ("corrupt", encode(picture, "WEBP")[:-9]),
        "cut.gif": ("corrupt", encode(picture, "GIF")[:-2]),
        "cut.bmp": ("corrupt", encode(picture, "BMP")[:-9]),
        "cmyk.jpg": ("cmyk", encode(picture.convert("CMYK"), "JPEG")),
        "cmyk.tif": ("cmyk", encode(picture.convert("CMYK"), "TIFF")),
        "deep-grey.png": ("16-bit", encode(Image.fromarray(deep), "PNG")),
        "deep-colour.png": ("16-bit", png(20, 20, 16, 2, rows16)),
        "deep.tif": ("16-bit", encode(Image.fromarray(deep), "TIFF")),
        "deep-bands.tif": ("16-bit", tiff(16, 4)),
        "twelve.jpg": ("16-bit", twelve_bit_jpeg()),
        "float.tif": ("not-8-bit", encode(picture.convert("F"), "TIFF")),
        "double-bands.tif": ("not-8-bit", tiff(64, 4, sample_format=3)),
        "signed.tif": ("not-8-bit", tiff(8, 1, sample_format=2, photometric=1)),
        "planar.tif": ("band-order", tiff(8, 3, photometric=1)),
        "thirteen-bands.tif": ("bands", tiff(8, 13)),
        "lab.tif": ("bands", encode(picture.convert("LAB"), "TIFF")),
        "animated.gif": ("animated", encode(picture, "GIF", **frames)),
        "animated.png": ("animated", encode(picture, "PNG", **frames)),
        "animated.webp": ("animated", encode(picture, "WEBP", **frames)),
        "pages.tif": ("animated", encode(picture, "TIFF", compression="tiff_lzw", **frames)),
        "tiny.jpg": ("too-small", encode(scene(width=48, height=15), "JPEG")),
        "one.png": ("too-small", encode(scene(width=1, height=1), "PNG")),
        "bomb.png": ("too-large", png(60000, 60000, 8, 0, b"")),
        "bomb.jpg": ("too-large", _huge(jpeg)),
    }


def _huge(jpeg: bytes) -> bytes:
    data, at = bytearray(jpeg), jpeg.find(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 60000, 60000)
    return bytes(data)
