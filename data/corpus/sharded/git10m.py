"""What Git-10M says about an image besides its pixels.

Its two column schemas: an early one, `image` and `text` = '<LEVEL>_GOOGLE_LEVEL_<caption>'
(level 0: from a public data set, resolution unknown); and the current one with `img_name`,
`img_quality_score`, `caption`, `caption_length`, `resolution` and `Google_location` = 'Z_X_Y',
which may be missing. The `resolution` column is left alone, for its unit is not published.
"""

from __future__ import annotations

import math
import re
from typing import Any

_LEVEL = re.compile(r"(\d{1,2})_GOOGLE_LEVEL_")
_TILE = re.compile(r"(\d{1,2})_\d+_\d+")


def resolution_of_level(level: int) -> float | None:
    """2**(17 - Z) metres a pixel, the data card's rule; None for level 0 (not known)."""
    return 2.0 ** (17 - level) if level > 0 else None


def resolution_of_text(text: Any) -> float | None:
    """Metres a pixel from '<LEVEL>_GOOGLE_LEVEL_<caption>'."""
    match = _LEVEL.match(text) if isinstance(text, str) else None
    return resolution_of_level(int(match[1])) if match else None


def has_level(text: Any) -> bool:
    """Whether a text is of the early schema."""
    return isinstance(text, str) and _LEVEL.match(text) is not None


def resolution_of_location(location: Any) -> float | None:
    """Metres a pixel from the tile 'Z_X_Y'."""
    match = _TILE.fullmatch(location.strip()) if isinstance(location, str) else None
    return resolution_of_level(int(match[1])) if match else None


def score(value: Any) -> float | None:
    """A quality score as a number; None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
