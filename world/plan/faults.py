"""The faults of real corpora that the world has, by name. Light: no array library."""

from __future__ import annotations

BROKEN: dict[str, tuple[str, str]] = {
    "empty": (".jpg", "zero bytes"),
    "truncated": (".jpg", "a JPEG that lost its second half"),
    "text": (".jpg", "an error page of a tile server under an image's name"),
    "gif-named-jpg": (".jpg", "a GIF under a JPEG's name"),
    "png-named-jpg": (".jpg", "a PNG under a JPEG's name"),
    "animated-gif": (".gif", "a GIF of three frames"),
    "animated-png": (".png", "a PNG of three frames"),
    "cmyk": (".jpg", "a JPEG in CMYK, as printing houses deliver them"),
    "png16": (".png", "a PNG of 16 bits a band"),
    "tiny": (".png", "an image of one pixel"),
}
"""Kinds of broken files: extension and what is wrong. All hold real tiles, as far as they go."""

NEAR = ("jpeg", "shift", "brightness")
"""Kinds of near-duplicates: other JPEG quality, cropped by a few pixels, brighter or darker."""
