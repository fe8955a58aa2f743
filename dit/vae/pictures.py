"""Images of any bands as files, and pictures of them that a person can look at.

Of images of four bands (red, green, blue, near infrared) a folder gets

    000000.png           true colour
    infrared/000000.png  colour infrared: near infrared, red and green as red, green and blue
    bands/000000.tif     all bands, a GeoTIFF with their names; Pillow opens it as true colour
    bands/000000.npy     all bands, uint8 H x W x 4
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.atomic import atomic_path
from data.images.chips import BANDS, chip_to_file, encode_chip
from data.images.composites import composite

GRID, COLUMNS = "grid.png", 8
INFRARED = "infrared"
"""Folder of the pictures in colour infrared."""
INFRARED_GRID = "infrared-grid.png"


def image_files(name: str, bands: int) -> list[str]:
    """What `write_image` writes to a folder under a name without its ending, the PNG last."""
    if bands < BANDS:
        return [f"{name}.png"]
    more = [f"bands/{name}.npy"]
    if bands == BANDS:
        more += [f"bands/{name}.tif", f"{INFRARED}/{name}.png"]
    return [*more, f"{name}.png"]


def write_image(
    folder: Path, name: str, image: NDArray[np.uint8], *, picture: bool = True
) -> None:
    """Write uint8 H x W x bands as `image_files` names it, each file whole or not at all.

    The PNG is the last of them: where it is, all are. Without `picture` it is left to others. Of
    more than four bands no names are known: they are in bands/*.npy alone, and the PNG shows the
    first three.
    """
    bands = image.shape[2]
    shown = np.ascontiguousarray(image[..., 0] if bands < 3 else image[..., :3])
    writers: dict[str, Callable[[IO[bytes]], object]] = {
        f"bands/{name}.npy": lambda stream: np.save(stream, image),
        f"bands/{name}.tif": lambda stream: stream.write(chip_to_file(encode_chip(image))),
        f"{INFRARED}/{name}.png": lambda stream: _png(composite(image, "infrared"), stream),
        f"{name}.png": functools.partial(_png, shown),
    }
    for file in image_files(name, bands)[: None if picture else -1]:
        with atomic_path(folder / file) as temporary, open(temporary, "wb") as stream:
            writers[file](stream)


def _png(pixels: NDArray[np.uint8], stream: IO[bytes]) -> None:
    Image.fromarray(pixels).save(stream, format="PNG")


def beside(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 N x H x W x 3 of images: RGB as it is; of four bands true colour and, in the same
    place of a second half, colour infrared (N x H x 2W x 3)."""
    if images.shape[3] < BANDS:
        return images
    return np.concatenate([images[..., :3], composite(images, INFRARED)], axis=2)


def write_grid(path: Path, tiles: Sequence[Path], columns: int = COLUMNS) -> None:
    """A sheet of picture files of one size, left to right and down."""
    pictures = []
    for tile in tiles:
        with Image.open(tile) as opened:
            pictures.append(opened.convert("RGB"))
    columns, (width, height) = min(columns, len(pictures)), pictures[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
