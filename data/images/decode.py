"""Encoded bytes to pixels, or a Reject that says why not.

What counts as an image here: one complete 8-bit still, grey or RGB, in JPEG, PNG, TIFF, JPEG 2000,
BMP, GIF or WebP, or a chip (data.images.chips), of whose bands red, green and blue are taken unless
`decode_rgbn` asks for all. Everything else raises Reject with a reason out of REASONS; nothing is
ever decoded in part. JPEG goes through simplejpeg (libjpeg-turbo, strict: any warning of the
decoder rejects), TIFF and JPEG 2000 through GDAL (data.images.raster), the rest through Pillow.

Conventions worth knowing:

* Grey is ITU-R 601 luma. In a JPEG that is the Y channel itself, so Stage I never builds RGB.
* An EXIF orientation is ignored, for pixels are taken as stored; a histogram does not change
  under rotation, and satellite tiles have no up.
* Alpha is dropped, not blended; the note returned by `decode` says so. Masks are not looked at.
* Of a camera's multi-picture JPEG (MPO) the first picture is taken: what follows the first
  end-of-image marker is not looked at. Bytes after the end of an image do no harm.
* Of a TIFF with a fourth band beside red, green and blue these three are taken; the note says so.
* TIFF overviews (reduced pages) and masks do not count as further pages; of several pages none is
  taken.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from data.images import chips
from data.images.formats import claimed, sniff
from data.images.reject import MAX_PIXELS, REASONS, Luma, Reject

__all__ = [
    "MAX_PIXELS", "REASONS", "Luma", "Reject", "all_bands", "bands", "decode", "decode_grey",
    "decode_rgb", "decode_rgbn", "sniff",
]  # fmt: skip

Pixels = NDArray[np.uint8]

_BY_GDAL = ("TIFF", "JPEG 2000")
_DIRECT_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA", "YCbCr", "RGBa", "La"}
_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}

# Pillow's own limit only warns; `max_pixels` is checked before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# A damaged header makes Pillow warn and then raise; the raise becomes a Reject.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def decode_rgb(
    data: bytes, name: str = "", *, min_side: int = 1, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Decode to RGB, uint8 H x W x 3 in [0, 255]. Raises Reject (see the module's top).

    With a `name` whose extension belongs to another format the image is rejected as misnamed;
    leave it out for images that a score table has already accepted.
    """
    return decode(data, name, grey=False, min_side=min_side, max_pixels=max_pixels)[0]


def decode_grey(
    data: bytes,
    name: str = "",
    *,
    min_side: int = 1,
    max_pixels: int = MAX_PIXELS,
    luma: Luma = "jpeg",
) -> Pixels:
    """Decode to ITU-R 601 luma, uint8 H x W in [0, 255]. Raises Reject; see `decode`."""
    return decode(data, name, grey=True, min_side=min_side, max_pixels=max_pixels, luma=luma)[0]


def decode_rgbn(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a chip to all its bands: uint8 H x W x 4, red, green, blue, near infrared.

    Raises Reject; 'bands' for an image of any other format, which has no near infrared.
    """
    kind = sniff(data)
    if kind != "PAM":
        raise Reject("bands", f"{kind}, not a chip of four bands: no near infrared")
    _check_size(*chips.chip_size(data), 1, max_pixels)
    if chips.chip_bands(data) != chips.BANDS:
        raise Reject("bands", f"a chip of {chips.chip_bands(data)} bands: no near infrared")
    return chips.decode_chip(data)


def all_bands(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to all the bands that there are: uint8 H x W x 1, 3 or 4. Raises Reject."""
    count = bands(data)
    if count == chips.BANDS:
        return decode_rgbn(data, max_pixels=max_pixels)
    return np.atleast_3d(decode(data, grey=count == 1, max_pixels=max_pixels)[0])


def decode(
    data: bytes,
    name: str = "",
    *,
    grey: bool,
    min_side: int = 1,
    max_pixels: int = MAX_PIXELS,
    accept_misnamed: bool = False,
    luma: Luma = "jpeg",
) -> tuple[Pixels, str]:
    """Decode one image and note what had to be changed about it.

    Args:
        data: the encoded bytes.
        name: file name or key; its extension, if an image's, must agree with the content.
        grey: luma (H x W) instead of RGB (H x W x 3).
        min_side: smallest side accepted (pixels).
        max_pixels: largest width x height accepted.
        accept_misnamed: take an image whose extension belongs to another format, and note it.
        luma: for colour JPEGs, 'jpeg' takes the file's own Y channel; 'rgb' decodes to RGB and
            converts, bit for bit Pillow's `Image.open(...).convert("L")`.

    Returns:
        (pixels, note): uint8 in [0, 255], C-contiguous; the note is '' or a short text.

    Raises:
        Reject: whatever `data` is, no other exception but MemoryError leaves this function.
    """
    kind = sniff(data)
    note = ""
    if claimed(name) not in (None, kind):
        note = f"{kind} content under a .{name.rpartition('.')[2]} name"
        if not accept_misnamed:
            raise Reject("misnamed", note)
    if kind == "JPEG":
        return _decode_jpeg(data, grey, min_side, max_pixels, luma), note
    if kind == "PAM":
        return _decode_chip(data, grey, min_side, max_pixels), note
    decoder = _decode_raster if kind in _BY_GDAL else _decode_pillow
    pixels, dropped = decoder(data, kind, grey, min_side, max_pixels)
    return pixels, "; ".join(filter(None, (note, dropped)))


def bands(data: bytes) -> int:
    """Bands by the header alone: 1 grey, 3 colour (a palette counts as colour), 4 with infrared."""
    if data.startswith(chips.MAGIC):
        return chips.chip_bands(data)
    if data.startswith(b"\xff\xd8\xff"):
        return jpeg_facts(data)[2]
    if sniff(data) in _BY_GDAL:
        from data.images import raster

        with raster.opened(data, sniff(data)) as file:
            how = raster.layout(file, "", raster.Asked())
            return 3 if len(how.bands) == 3 or len(how.palette) > 256 else 1
    with Image.open(io.BytesIO(data)) as image:
        return 1 if image.mode in ("1", "L", "LA", "La") else 3


def jpeg_facts(data: bytes) -> tuple[int, int, int]:
    """(width, height, bands) of a JPEG by its header. Raises Reject: 'cmyk', 'corrupt', ..."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, RuntimeError, OSError) as error:
        raise _jpeg_reject(error, data, None) from None
    if colours in ("CMYK", "YCCK"):
        raise Reject("cmyk", f"{colours} JPEG", (width, height))
    return width, height, 1 if colours == "Gray" else 3


def _jpeg_reject(error: Exception, data: bytes, size: tuple[int, int] | None) -> Reject:
    text = " ".join(str(error).split())
    if "precision" in text:
        return Reject("16-bit", text, size)
    if "subsampling" in text and _pillow_can(data):
        return Reject("unsupported", "unusual chroma sampling factors", size)
    return Reject("corrupt", text, size)


def _check_size(width: int, height: int, min_side: int, max_pixels: int) -> None:
    if min(width, height) < min_side:
        detail = f"{width} x {height} pixels, minimum side {min_side}"
        raise Reject("too-small", detail, (width, height))
    if width * height > max_pixels:
        detail = f"{width} x {height} pixels, limit {max_pixels:,}"
        raise Reject("too-large", detail, (width, height))


def _decode_jpeg(data: bytes, grey: bool, min_side: int, max_pixels: int, luma: Luma) -> Pixels:
    width, height, stored = jpeg_facts(data)
    _check_size(width, height, min_side, max_pixels)
    try:
        if not grey:
            return simplejpeg.decode_jpeg(data, "RGB")
        if luma == "rgb" and stored == 3:
            return np.asarray(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB")).convert("L"))
        return simplejpeg.decode_jpeg(data, "GRAY")[..., 0]
    except (ValueError, RuntimeError, OSError) as error:
        raise _jpeg_reject(error, data, (width, height)) from None


def _decode_chip(data: bytes, grey: bool, min_side: int, max_pixels: int) -> Pixels:
    _check_size(*chips.chip_size(data), min_side, max_pixels)
    return _as_asked(chips.decode_chip(data), grey)


def _as_asked(pixels: Pixels, grey: bool) -> Pixels:
    """H x W x 1, 3 or 4 as luma, H x W, or as RGB, H x W x 3."""
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0] if grey else np.repeat(pixels, 3, axis=2))
    rgb = np.ascontiguousarray(pixels[..., :3])
    return np.asarray(Image.fromarray(rgb).convert("L")) if grey else rgb


def _decode_raster(
    data: bytes, kind: str, grey: bool, min_side: int, max_pixels: int
) -> tuple[Pixels, str]:
    from data.images import raster  # GDAL takes longer to load than all else here

    size: tuple[int, int] | None = None
    try:
        with raster.opened(data, kind) as file:
            size = (file.width, file.height)
            _check_size(*size, min_side, max_pixels)
            how = raster.layout(file, "", raster.Asked())
            return _as_asked(raster.read(file, how), grey), how.note
    except raster.DAMAGE as error:
        if isinstance(error, MemoryError):
            raise
        raise Reject("corrupt", raster.one_line(error), size) from None


def _pillow_can(data: bytes) -> bool:
    """Whether Pillow loads a JPEG: libjpeg-turbo's simple interface knows fewer samplings."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                return False
            image.load()
    except Exception:  # damaged: of whatever type
        return False
    return True


def _decode_pillow(
    data: bytes, kind: str, grey: bool, min_side: int, max_pixels: int
) -> tuple[Pixels, str]:
    size: tuple[int, int] | None = None
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            size = image.size
            _check_size(*size, min_side, max_pixels)
            _check_depth(image, data, kind)
            frames = int(getattr(image, "n_frames", 1))
            if frames > 1:
                raise Reject("animated", f"{frames} frames", size)
            if not _has_end(data, kind):
                raise Reject("corrupt", "no end-of-image mark: cut short", size)
            image.load()
            alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
            pixels = np.ascontiguousarray(np.asarray(_convert(image, grey)))
        return pixels, "alpha dropped" if alpha else ""
    except (Reject, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise Reject("corrupt", _one_line(error, f"unreadable {kind} header"), size) from None
    except Exception as error:  # decoders meet damaged bytes with exceptions of every type
        raise Reject("corrupt", _one_line(error), size) from None


def _has_end(data: bytes, kind: str) -> bool:
    """Whether the end mark is there, for the formats whose decoder does not miss it."""
    if kind == "PNG":
        return b"IEND\xae\x42\x60\x82" in data
    if kind == "GIF":
        return data.rstrip(b"\0\r\n").endswith(b";")
    return True


def _convert(image: Image.Image, grey: bool) -> Image.Image:
    if image.mode in ("RGBa", "La"):  # premultiplied alpha
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if grey and image.mode in ("L", "1", "LA"):
        return image.convert("L")
    image = image.convert("RGB")
    return image.convert("L") if grey else image


def _one_line(error: Exception, text: str = "") -> str:
    """A decoder's message without addresses, so that the same bytes give the same detail."""
    text = text or f"{type(error).__name__}: {' '.join(str(error).split())}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)[:200]


def _check_depth(image: Image.Image, data: bytes, kind: str) -> None:
    """Reject what Pillow would bring down to 8 bits, or to three bands, without a word."""
    mode, size = image.mode, image.size
    if kind == "PNG" and data[24] == 16:  # IHDR's bit depth; Pillow opens such RGB as 8-bit
        detail = (
            "16 bits a band, not 8; no scale is guessed: state SPEC?scale=MIN,MAX or percentiles, "
            "?scale=p2,p98"
        )
        raise Reject("16-bit", detail, size)
    if mode in ("I", "F"):
        raise Reject("not-8-bit", "32-bit integers" if mode == "I" else "floats", size)
    if mode == "CMYK":
        raise Reject("cmyk", f"CMYK {kind}", size)
    if mode not in _DIRECT_MODES:
        raise Reject("bands", f"Pillow mode {mode}", size)
