"""Write a miniature world as NAIP comes: quarter quads of four bands with collars and odd edges.

Tiles with all four bands are laid side by side in rasters. `world.convert --form naip` takes those
with a near-infrared truth (nothing blank, cut off or copied), ACROSS in a row; `world.build
--infrared` takes all but broken files, in about QUADS rasters that are nearly square. A raster
ends in a strip that is no whole tile, as a real one is no multiple of any chip, and cells left
over at its end have no data. Cut in chips of a tile's size, a raster gives the tiles back.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from core.atomic import atomic_path
from core.errors import UserError
from data.images.decode import decode_grey, decode_rgb
from world.write.encode import Pixels

ACROSS = 8  # tiles in a row of a raster
QUADS, SIDE = 5, 6_000  # rasters of a world, unless one's side would be longer (pixels)
EDGE = 0.3  # of a tile: the strip at the right and lower edge
QUARTERS = ("ne", "nw", "se", "sw")
CRS = "EPSG:26914"  # UTM zone 14 N on NAD83
WEST, NORTH = 485_900.0, 5_209_200.0  # metres: upper left corner of the first raster


def write_naip(world: Path, out: Path, shard_rows: int) -> tuple[list[Path], int]:
    """Write the tiles of a world as GeoTIFFs at 1 m a pixel, in the order of their names.

    Args:
        world: a world made with --write-truth-rasters.
        out: output folder.
        shard_rows: tiles a raster.

    Returns:
        the files, and how many tiles they hold: those with a near infrared.

    Raises:
        UserError: the world has no near infrared, or its tiles differ in size.
    """
    files: list[Path] = []
    tiles, count = _tiles(world), 0
    while held := list(itertools.islice(tiles, shard_rows)):
        files.append(write_quad(out, len(files), held))
        count += len(held)
    return files, count


def _tiles(world: Path) -> Iterator[Pixels]:
    """uint8 size x size x 4 of every tile with a near-infrared truth, by name."""
    suffix, first = ".nir.png", None
    found = sorted((world / "truth").rglob(f"*{suffix}"))
    if not found:
        raise UserError(
            f"{world}: no near infrared in it; make the world with --write-truth-rasters"
        )
    for path in found:
        image = world / "corpus" / path.relative_to(world / "truth").as_posix().removesuffix(suffix)
        rgb = decode_rgb(image.read_bytes(), image.name)
        first = first or rgb.shape[:2]
        if rgb.shape[:2] != first:
            raise UserError(f"{world}: tiles of {first} and of {rgb.shape[:2]} pixels")
        yield np.dstack([rgb, decode_grey(path.read_bytes())])


def name_of(index: int) -> str:
    """A quarter quad's file name: another place and another day for each."""
    day = date(2015, 6, 1) + timedelta(days=37 * index)
    quad = 4_709_963 + index // len(QUARTERS)
    return f"m_{quad}_{QUARTERS[index % len(QUARTERS)]}_14_1_{day:%Y%m%d}.tif"


def write_world(out: Path, count: int, tiles: Iterator[Pixels]) -> tuple[list[Path], list[str]]:
    """Write all tiles of a world as a handful of quarter quads, nearly square.

    Args:
        out: output folder.
        count: how many tiles there are, at least 1.
        tiles: uint8 size x size x 4, of one size.

    Returns:
        the files, and the key of each tile's chip in `usa1m:OUT?chip=SIZE`.
    """
    first = next(tiles)
    size = first.shape[0]
    across = min(math.isqrt(-(-count // QUADS) - 1) + 1, max(1, SIDE // size))
    tiles = itertools.chain([first], tiles)
    files: list[Path] = []
    keys: list[str] = []
    while held := list(itertools.islice(tiles, across * across)):
        files.append(write_quad(out, len(files), held, across))
        for i in range(len(held)):
            y, x = (n * size for n in divmod(i, across))
            keys.append(f"{files[-1].name}#{x},{y},{size}x{size}")
    return files, keys


def write_quad(out: Path, index: int, tiles: Sequence[Pixels], across: int = ACROSS) -> Path:
    """Write one raster of tiles, uint8 size x size x 4, under the name of its index."""
    size = tiles[0].shape[0]
    rows, strip = -(-len(tiles) // across), round(EDGE * size)
    columns = min(across, len(tiles))
    pixels = np.zeros((rows * size + strip, columns * size + strip, 4), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (n * size for n in divmod(i, across))
        pixels[y : y + size, x : x + size] = tile
    height, width = pixels.shape[:2]
    transform = from_origin(WEST + index * 8_000.0, NORTH, 1.0, 1.0)
    path = out / name_of(index)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            temporary, "w", driver="GTiff", height=height, width=width, count=4, dtype="uint8",
            crs=CRS, transform=transform, nodata=0, compress="deflate", photometric="rgb",
            alpha="unspecified",
        ) as raster:  # fmt: skip
            raster.colorinterp = [
                ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined,
            ]  # fmt: skip
            raster.write(pixels.transpose(2, 0, 1))
    return path
