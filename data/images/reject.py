"""Why encoded bytes are no usable image, and what may be asked of one. Light to import."""

from __future__ import annotations

from typing import Any, Literal

Luma = Literal["jpeg", "rgb"]
MAX_PIXELS = 100_000_000  # width x height; an RGB image of this size takes 300 MB

REASONS: dict[str, str] = {
    "unreadable": "the file could not be read (gone, no permission, not a regular file)",
    "empty": "zero bytes",
    "not-an-image": "no image signature (text, HTML, an archive, zeros)",
    "unsupported": "an image in a format, or a variant of one, that is not read here",
    "misnamed": "content of another image format than the file name's extension",
    "corrupt": "damaged or truncated",
    "cmyk": "CMYK or YCCK colour, not RGB",
    "16-bit": "9 to 16 bits a band, and no scale stated",
    "not-8-bit": "fewer than 8 or 32 bits, signed, float or complex, and no scale stated",
    "bands": "neither grey nor RGB, with or without alpha",
    "band-order": "nothing says which band is red, green, blue (or near infrared), or it disagrees",
    "alpha-band": "the fourth band of a raster is tagged alpha, not near infrared",
    "animated": "several frames or pages",
    "too-small": "a side below the minimum",
    "too-large": "more pixels, or more bytes, than the limit",
}


class Reject(Exception):
    """This is not an image that can be used.

    Attributes:
        reason: a key of REASONS.
        detail: one line for a human.
        size: (width, height) in pixels, or None when it is not known.
    """

    def __init__(self, reason: str, detail: str, size: tuple[int, int] | None = None) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.size = size

    def __reduce__(self) -> tuple[type[Reject], tuple[Any, ...]]:
        return Reject, (self.reason, self.detail, self.size)
