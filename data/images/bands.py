"""Which bands of a raster are red, green, blue and near infrared, and who says so.

What tells, in this order: the user (`?bands=rgbn`), the file itself (band descriptions, colour
interpretation), or the name or description of a NAIP quarter quad, whose bands are R, G, B, NIR by
definition. Nothing is guessed: three or four bands of uint8 can be anything.

A colour interpretation is what the writing library put there unasked (GDAL tags the first four
bands of uint8 red, green, blue and alpha), so a stated order overrides it, with a note. A band
description is what a person wrote, so a stated order that contradicts it is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core.errors import UserError
from data.images.reject import Reject

NAIP = re.compile(r"m_\d{7}_(?:ne|nw|se|sw)_.+", re.IGNORECASE)
SCALED = "scaled to 8 bits"  # the note of an image whose values are not those of its file
INFRARED = "rgbn"  # the order in which four bands are given
_LETTERS = {"red": "r", "green": "g", "blue": "b", "nir": "n", "near infrared": "n",
            "near-infrared": "n", "nearinfrared": "n", "infrared": "n"}  # fmt: skip
_NAMES = {"r": "red", "g": "green", "b": "blue", "n": "near infrared"}
_TAGGED = (
    "is alpha, not near infrared, by its tag, which GDAL gives to any fourth band of which it is "
    "told nothing"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user says of files that do not say it themselves."""

    bands: str = ""
    """Letters of the bands from the first on: r, g, b, n, and x for one to leave out; '' if the
    user says nothing. Bands after the last letter are left out."""
    scale: tuple[float, float] | None = None
    """Values that become 0 and 255, for what is not 8-bit."""
    fourth: Literal["drop", "ask", "need"] = "drop"
    """What a fourth band is to an image: drop: left out, with a note (whole images); ask: near
    infrared, and refused where that is not known (chips); need: there has to be one."""


def check_bands(spec: str, letters: str, *, infrared: bool = False) -> str:
    """A band order as a user states it, in lower case. Raises UserError for what is none."""
    found = letters.lower()
    plain = "".join(sorted(found.replace("x", "")))
    if set(found) <= set("rgbnx") and plain in (("bgnr",) if infrared else ("bgr", "bgnr")):
        return found
    needed = "r, g, b and n (near infrared)" if infrared else "r, g, b and, if there is one, n"
    raise UserError(
        f"{spec}: bands={letters}: give the order of the bands, from the first, by the letters "
        f"{needed}, each once, and x for a band to leave out; for example bands=rgbn or bands=nrgb"
    )


def is_naip(name: str, tags: dict[str, str] | None = None) -> bool:
    """Whether a file is NAIP's by its name (m_<quad>_<quarter>_...) or its description."""
    told = " ".join((tags or {}).get(f"TIFFTAG_{key}", "") for key in ("IMAGEDESCRIPTION",
                                                                      "DOCUMENTNAME"))  # fmt: skip
    named = NAIP.fullmatch(Path(name).stem) is not None
    return named or re.search(r"\bNAIP\b", told, re.IGNORECASE) is not None


def band_order(raster: Any, name: str, asked: Asked) -> tuple[tuple[int, ...], str]:
    """The bands of an image and a note of what was left out or overridden.

    Args:
        raster: an open rasterio data set.
        name: its file name, '' if it has none that means anything.
        asked: what the user says.

    Returns:
        (bands, note): one number, from 1 (grey), or three (red, green, blue), or four (and near
        infrared); the note is '' or a short text.

    Raises Reject: 'bands', 'band-order' or 'alpha-band', saying what can be stated.
    """
    count, size = raster.count, (raster.width, raster.height)
    described = [(text or "").strip().lower() for text in raster.descriptions]
    says = [text if text in _LETTERS else colour
            for text, colour in zip(described, _colours(raster), strict=True)]  # fmt: skip
    own = "".join(_LETTERS.get(word, "?" if not word else "a" if word == "alpha" else "x")
                  for word in says)  # fmt: skip
    s = "" if count == 1 else "s"
    if asked.fourth == "need" and count < 4:
        hint = "; NAIP's folder rgb has no near infrared, take rgbir" if count == 3 else ""
        raise Reject("bands", f"{count} band{s}, not four (R, G, B, NIR){hint}", size)
    if count == 1:
        return (1,), ""
    if asked.bands:
        return _stated(raster, asked.bands, own, says, described)
    naip = count in (3, 4) and asked.fourth != "drop" and is_naip(name, raster.tags())
    if own == "?a" or (count == 2 and "alpha" in says):
        return (1 + (own[0] == "a"),), "alpha dropped"
    if count > 4 or count == 2:
        detail = f"{count} bands; say which are which by ?bands=, for example ?bands=rgbn"
        raise Reject("bands", detail if count > 4 else "2 bands, the second no alpha", size)
    if count == 4 and sorted(own) == sorted(INFRARED) and asked.fourth != "drop":
        return _places(own, INFRARED), ""
    if naip:
        return _of_naip(raster, own, says)
    if all(own.count(letter) == 1 for letter in "rgb"):
        if count == 3:
            return _places(own, "rgb"), ""
        # Other formats than TIFF have no fourth band but alpha.
        if asked.fourth == "drop" or (asked.fourth == "ask" and raster.driver != "GTiff"):
            return _places(own, "rgb"), "alpha dropped" if "a" in own else "fourth band dropped"
        if "a" in own:
            detail = (
                f"band {own.index('a') + 1} of 4 {_TAGGED}: state SPEC?bands=rgbn if it is "
                "near infrared, SPEC?bands=rgb if it is alpha"
            )
            raise Reject("alpha-band", detail, size)
    named = ", ".join(word or "undefined" for word in says)
    four = count == 4
    wanted = "four bands are red, green, blue and near infrared" if four else (
        "three bands are red, green and blue"
    )  # fmt: skip
    unnamed = "" if asked.fourth == "drop" else (
        ", and its name is not a NAIP quarter quad's (m_<quad>_...)"
    )  # fmt: skip
    more = " (?bands=rgb reads the first three alone)" if four else ""
    raise Reject(
        "band-order",
        f"nothing says that its {wanted}: it calls them {named}{unnamed}; if you know the order, "
        f"state it: SPEC?bands={INFRARED[:count]}{more}",
        size,
    )


def _colours(raster: Any) -> list[str]:
    """The colour that the file gives to each band, '' where it says nothing of use."""
    from rasterio._err import CPLE_BaseError  # here: naming a corpus should not load GDAL

    # A remark of GDAL's on something before (reading tags) is raised in the first call that looks
    # for errors, which is this one: it is no error of this file's colours.
    with contextlib.suppress(CPLE_BaseError, ValueError):
        _ = raster.colorinterp
    try:
        names = [colour.name for colour in raster.colorinterp]
    except ValueError:  # an interpretation that this rasterio has no name for
        names = [""] * raster.count
    return ["" if name in ("undefined", "palette", "gray", "grey") else name for name in names]


def _stated(
    raster: Any, letters: str, own: str, says: Sequence[str], described: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """The bands by the user's word; Reject where a band's own description is another."""
    size = (raster.width, raster.height)
    if len(letters) > len(own):
        detail = f"{len(own)} bands, but ?bands={letters} names {len(letters)}"
        raise Reject("bands", detail, size)
    notes = []
    for place, (letter, has, word) in enumerate(zip(letters, own, says, strict=False), 1):
        if letter == "x" or has in ("?", letter):
            continue
        if described[place - 1] in _LETTERS:
            detail = f"band {place} is '{letter}' by ?bands={letters}, but the file calls it {word}"
            raise Reject("band-order", detail, size)
        if has == "a":
            _check_no_alpha(raster, place)
        notes.append(f"band {place}, tagged {word}, taken as {_NAMES[letter]}")
    note = "; ".join(notes)
    return _places(letters, INFRARED if "n" in letters else "rgb"), (
        f"{note} (?bands={letters})" if note else ""
    )


def _of_naip(raster: Any, own: str, says: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """The bands of a NAIP file: R, G, B, NIR, unless it says something else of itself."""
    note = ""
    for place, (letter, has) in enumerate(zip(INFRARED, own, strict=False), 1):
        if has in ("?", letter):
            continue
        if (letter, has) != ("n", "a"):
            detail = f"band {place} is '{letter}' by its name, but the file calls it"
            size = (raster.width, raster.height)
            raise Reject("band-order", f"{detail} {says[place - 1]}", size)
        _check_no_alpha(raster, place)
        note = f"band {place}, tagged alpha, taken as near infrared (a NAIP file)"
    return tuple(range(1, raster.count + 1)), note


def _check_no_alpha(raster: Any, band: int) -> None:
    """Raise Reject for a band that is tagged alpha and has alpha's values: 255 (and 0) alone.

    A warped raster's alpha has no others; near infrared does. The middle and the corners are read.
    """
    side = 64  # pixels
    width, height = raster.width, raster.height
    found: set[int] = set()
    for y in {0, max(0, (height - side) // 2), max(0, height - side)}:
        for x in {0, max(0, (width - side) // 2), max(0, width - side)}:
            window = ((y, min(height, y + side)), (x, min(width, x + side)))
            found.update(np.unique(raster.read(band, window=window)).tolist())
    if 255 in found and found <= {0, 255}:
        detail = (
            f"band {band} of {raster.count} is alpha, not near infrared: it is tagged so and holds "
            f"{'0 and 255' if 0 in found else '255'} alone; "
            "state SPEC?bands=rgb to read the colours alone"
        )
        raise Reject("alpha-band", detail, (width, height))


def _places(letters: str, wanted: str) -> tuple[int, ...]:
    return tuple(letters.index(letter) + 1 for letter in wanted)
