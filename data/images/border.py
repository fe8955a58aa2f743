"""The collar of an image: exactly black regions that hang together with its edge.

Scenes are cut from rotated or patched imagery whose outside is 0. A black pixel inside is a shadow
or a roof; a region counts as collar when it touches the edge (its pixels joined by their sides) and
has at least as many pixels as the shorter side of the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def collar(black: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pixels are collar, of a bool H x W that says which are black."""
    edges = black[0], black[-1], black[:, 0], black[:, -1]
    if not any(edge.any() for edge in edges):  # nearly all images: nothing to look for
        return np.zeros_like(black)
    from scipy import ndimage

    regions, count = ndimage.label(black)
    at_edge = np.zeros(count + 1, dtype=np.bool_)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        at_edge[edge] = True
    at_edge &= np.bincount(regions.ravel(), minlength=count + 1) >= min(black.shape)
    at_edge[0] = False
    return at_edge[regions]


def black_border(grey: NDArray[np.uint8]) -> float:
    """The share of pixels that are collar, in [0, 1], of an image's luma, uint8 H x W."""
    return float(collar(grey == 0).mean())
