"""Which format encoded bytes are of, by their signature, and which a file name claims."""

from __future__ import annotations

from data.images import chips
from data.images.reject import Reject

EXTENSIONS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "TIFF": ("tif", "tiff", "gtiff"),
    "JPEG 2000": ("jp2", "j2k", "jpx", "jpf", "j2c", "jpc"),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "PAM": ("pam",),
}
_FORMAT_OF_EXTENSION = {name: kind for kind, names in EXTENSIONS.items() for name in names}
_OTHER_IMAGES = (  # (offset, signature, name) of image formats that are not read here
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"qoif", "QOI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"CDF\x01", "NetCDF"),
    (0, b"CDF\x02", "NetCDF"),
    (0, b"NITF", "NITF"),
)
_BRANDS = {"avif": "AVIF", "avis": "AVIF"}  # of ISO media files; HEIF has many
_HEIF = ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "mif2", "miaf")
_BMP_HEADERS = {size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124)}


def claimed(name: str) -> str | None:
    """The format that a name's extension belongs to; None if it is no image's."""
    return _FORMAT_OF_EXTENSION.get(name.rpartition(".")[2].lower()) if name else None


def sniff(data: bytes) -> str:
    """The format of encoded bytes by their signature: 'JPEG', 'PNG', 'TIFF', ...

    A few hundred bytes from the beginning are enough.

    Raises Reject: 'empty', 'not-an-image' or 'unsupported'.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "JPEG 2000"
    if data.startswith(chips.MAGIC):
        return "PAM"
    if data.startswith(b"BM") and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if not data:
        raise Reject("empty", "zero bytes")
    for offset, signature, name in _OTHER_IMAGES:
        if data.startswith(signature, offset):
            raise Reject("unsupported", f"{name} is not read here")
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1")
        name = _BRANDS.get(brand, "HEIF (HEIC)" if brand in _HEIF else "")
        if name:
            raise Reject("unsupported", f"{name} is not read here")
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        what = "HTML or XML text"
    elif not any(data[:4096]):
        what = "zeros"
    else:
        what = f"starts with {data[:12]!r}"
    raise Reject("not-an-image", what)
