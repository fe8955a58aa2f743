"""One tile of the miniature world, a pure function of its scene, seed and index."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from world.paint import built, nature, shores
from world.paint.canvas import Canvas
from world.paint.look import draw_look
from world.paint.scenes import SCENES

_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    painter.__name__: painter
    for painter in (
        nature.sea, nature.cloud, nature.desert, nature.forest, nature.fields, nature.mountain,
        built.suburb, built.city, built.roads, built.industry,
        shores.river, shores.coast, shores.harbour,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile and its truth.

    Attributes:
        rgb: uint8, size x size x 3.
        nir: uint8, size x size, near infrared: vegetation bright, water dark.
        mask: uint8, size x size, OpenEarthMap land-cover ids (see `scenes.LAND_COVER`).
    """

    rgb: NDArray[np.uint8]
    nir: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def generator(*key: int | str) -> np.random.Generator:
    """A generator seeded by a sequence of integers and names."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(numbers)))


def render(
    scene: str, seed: int, index: int, size: int, *, stream: str = "corpus", epoch: int = 0
) -> Tile:
    """Render one tile.

    Args:
        scene: a name in `scenes.SCENES`.
        seed, index: non-negative; the world's seed and the tile's index in its stream.
        size: side in pixels, at least 16.
        stream: independent sequences of tiles: 'corpus', 'reference', 'sr', 'sis'.
        epoch: 0, or 1 for the same place later: another season, sun and atmosphere, one building
            in ten gone and one in ten new.

    Raises:
        ValueError: unknown scene, or a size below 16.
    """
    if scene not in SCENES:
        raise ValueError(f"unknown scene '{scene}' (known: {', '.join(SCENES)})")
    if size < 16:
        raise ValueError(f"size {size}: a tile has at least 16 pixels a side")
    layout = generator(seed, index, scene, stream)
    look = draw_look(generator(seed, index, scene, stream, "look", epoch))
    canvas = Canvas(size, layout, look, epoch)
    _PAINTERS[scene](canvas)
    rgb, nir, mask = canvas.develop(generator(seed, index, scene, stream, "grain", epoch))
    return Tile(rgb, nir, mask)
