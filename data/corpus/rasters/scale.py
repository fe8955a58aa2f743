"""The scale from stored values to 8 bits: stated, or percentiles of the corpus.

`?scale=MIN,MAX` gives the values that become 0 and 255, the same for all bands and files.
`?scale=pA,pB` takes them from the corpus: the A-th and B-th percentile over the pixels with data,
and over the bands in use, of at most SAMPLED files at even steps of the listing, and of parts of
each (data.images.raster.with_data). The same files give the same numbers, and these enter the
fingerprint.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError

SAMPLED = 64
_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)")


def parse_scale(spec: str, text: str) -> tuple[tuple[float, float], bool]:
    """((low, high), whether they are percentiles). Raises UserError for what is no scale."""
    parts = text.split(",")
    matches = [_PERCENTILE.fullmatch(part.strip().lower()) for part in parts]
    try:
        if len(parts) != 2:
            raise ValueError
        percent = all(matches)
        low, high = (float(m[1] if m and percent else part)
                     for m, part in zip(matches, parts, strict=True))  # fmt: skip
        if not low < high or not math.isfinite(high - low) or (percent and high > 100):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{spec}: scale={text}: give the values that become 0 and 255, for example "
            "scale=0,3000, or percentiles of the corpus, for example scale=p2,p98"
        ) from None
    return (low, high), percent


def percentiles(
    spec: str, values: Iterable[NDArray[Any]], percents: tuple[float, float]
) -> tuple[float, float]:
    """Percentiles (linear between values, six digits) of all values together.

    Raises UserError when there are none, or when they are one and the same value.
    """
    held = [found.astype(np.float64) for found in values if found.size]
    if not held:
        raise UserError(
            f"{spec}: no file that was looked at has values to scale: all are 8-bit (leave out "
            "scale=), of bands in no known order (state bands= too), unreadable or without data"
        )
    low, high = (float(f"{v:.6g}") for v in np.percentile(np.concatenate(held), percents))
    if not low < high:
        raise UserError(
            f"{spec}: percentiles {percents[0]:g} and {percents[1]:g} are both {low:g}; "
            "state scale=MIN,MAX"
        )
    return low, high


def evenly(count: int, most: int = SAMPLED) -> list[int]:
    """At most `most` places in [0, count), at even steps from the first to the last."""
    if count <= most:
        return list(range(count))
    return [index * (count - 1) // (most - 1) for index in range(most)]
