"""Three bands of four, as a person or a network trained on photographs looks at them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError

Composite = Literal["rgb", "infrared"]
COMPOSITES: dict[str, tuple[int, int, int]] = {"rgb": (0, 1, 2), "infrared": (3, 0, 1)}
"""Name -> the places, among red, green, blue and near infrared, of what is shown red, green and
blue: true colour, and colour infrared (vegetation is red in it)."""


def composite(pixels: NDArray[np.uint8], name: Composite | str = "rgb") -> NDArray[np.uint8]:
    """Three bands of uint8 [..., bands], contiguous. Of three bands there is no 'infrared'.

    Raises UserError where the bands are not there.
    """
    places = COMPOSITES[name]
    if pixels.shape[-1] <= max(places):
        raise UserError(
            f"images of {pixels.shape[-1]} bands have no composite '{name}': it takes red, green, "
            "blue and near infrared"
        )
    return np.ascontiguousarray(pixels[..., list(places)])
