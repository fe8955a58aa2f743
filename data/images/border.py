"""The collar of an image: exactly black regions that hang together with its edge.

Scenes are cut from rotated or patched imagery whose outside is 0. A black pixel inside is a shadow
or a roof; a region counts as collar when it touches the edge (its pixels joined by their sides) and
has at least as many pixels as the shorter side of the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STRIP = 24  # pixels along each edge that are looked at first


def collar(black: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pixels are collar, of a bool H x W that says which are black."""
    if not _may_have_collar(black):
        return np.zeros_like(black)
    from scipy import ndimage

    regions, count = ndimage.label(black)
    at_edge = np.zeros(count + 1, dtype=np.bool_)
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        at_edge[edge] = True
    at_edge &= np.bincount(regions.ravel(), minlength=count + 1) >= min(black.shape)
    at_edge[0] = False
    return at_edge[regions]


def _may_have_collar(black: NDArray[np.bool_]) -> bool:
    """Whether a black region at an edge is large enough, as far as a strip along it tells.

    A region of as many pixels as a side either stays in the strip or crosses it.
    """
    least = min(_STRIP, *black.shape)
    for strip in (black, black[::-1], black.T, black.T[::-1]):
        if not strip[0].any():
            continue
        from scipy import ndimage

        regions, _ = ndimage.label(strip[:_STRIP])
        if (np.bincount(regions.ravel())[np.unique(regions[0, strip[0]])] >= least).any():
            return True
    return False


def black_border(grey: NDArray[np.uint8]) -> float:
    """The share of pixels that are collar, in [0, 1], of an image's luma, uint8 H x W."""
    edges = grey[0], grey[-1], grey[:, 0], grey[:, -1]
    if all(edge.all() for edge in edges):  # nearly all images: nothing to look for
        return 0.0
    return float(collar(grey == 0).mean())
