"""What a TIFF says of itself in its tags, for the decoder and for telling GeoTIFFs apart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, TiffImagePlugin

from data.images.reject import Reject

_BITS, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT, _SUBFILE = 258, 262, 277, 339, 254
_GEOGRAPHY = (33550, 33922, 34264, 34735)  # GeoTIFF: pixel scale, tie points, transform, keys


def check_tags(tags: Any, size: tuple[int, int] | None) -> None:
    """Raise Reject for a depth or number of bands that Pillow would bring down unasked."""
    bits = max(as_tuple(tags.get(_BITS, 1)))
    formats = set(as_tuple(tags.get(_SAMPLE_FORMAT, 1)))
    samples = max(as_tuple(tags.get(_SAMPLES, 1)))
    if formats - {1, 4} or bits > 16:  # 1 is unsigned integers, 4 'undefined'
        names = {2: "signed integers", 3: "floats", 5: "complex", 6: "complex"}
        kinds = [names.get(code, f"sample format {code}") for code in sorted(formats - {1, 4})]
        raise Reject("not-8-bit", ", ".join([f"{bits} bits a band", *kinds]), size)
    if bits > 8:
        raise Reject("16-bit", f"{bits} bits a band", size)
    if samples > 4:
        raise Reject("bands", f"{samples} bands", size)


def explain(data: bytes) -> None:
    """Raise a better Reject than 'corrupt' for a TIFF that Pillow has no mode for."""
    try:
        tags = _tags(io.BytesIO(data))
        size = (max(as_tuple(tags[256])), max(as_tuple(tags[257])))
        check_tags(tags, size)
        bands, layout = max(as_tuple(tags.get(_SAMPLES, 1))), tags.get(_PHOTOMETRIC)
        detail = f"TIFF with {bands} bands, photometric interpretation {layout}"
        raise Reject("bands" if bands not in (1, 3) else "unsupported", detail, size)
    except Reject:
        raise
    except Exception:  # the header is damaged: the caller rejects it as corrupt
        return


def _tags(stream: Any) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The first directory of a TIFF. Raises whatever Pillow does where there is none."""
    head = stream.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(
        head + (stream.read(8) if 43 in (head[2], head[3]) else b"")
    )
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def is_multiband_geotiff(path: Path) -> bool:
    """Whether a file is a GeoTIFF of four bands or more, by its tags; False if unreadable."""
    try:
        with path.open("rb") as stream:
            tags = _tags(stream)
            return max(as_tuple(tags.get(_SAMPLES, 1))) > 3 and any(t in tags for t in _GEOGRAPHY)
    except Exception:  # no TIFF, or a damaged one: of whatever type
        return False


def samples(image: Image.Image) -> int:
    """Bands that an open TIFF stores, whatever Pillow makes of them."""
    return max(as_tuple(image.tag_v2.get(_SAMPLES, 1)))  # type: ignore[attr-defined]


def as_tuple(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(int(item) for item in values) or (1,)


def frames(image: Image.Image, kind: str) -> int:
    """Number of frames; in a TIFF without overviews (bit 0 of NewSubfileType) and masks (bit 2)."""
    frames = int(getattr(image, "n_frames", 1))
    if kind != "TIFF" or frames == 1:
        return frames
    full = 1
    for index in range(1, min(frames, 64)):
        image.seek(index)
        kinds = as_tuple(image.tag_v2.get(_SUBFILE, 0))  # type: ignore[attr-defined]
        full += not kinds[0] & 0b101
    image.seek(0)
    return full + max(0, frames - 64)
