"""PNG files and the rows of condition | generated | target that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from core.atomic import atomic_path
from data.images.chips import chip_to_file, encode_chip
from data.images.composites import composite

_GAP = 2  # pixels of white between pictures


def save_png(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 HxWx3 atomically, and return the path."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
    return path


BESIDE = ("bands", "infrared")  # folders of what is drawn with near infrared


def files_of(out: Path, name: str) -> list[Path]:
    """The files of an image of four bands: all of them, and as colour infrared."""
    return [out / "bands" / f"{name}.tif", out / "infrared" / f"{name}.png"]


def save_bands(files: Sequence[Path], pixels: np.ndarray) -> None:
    """Write `files_of` of an image, uint8 H x W x 4: a GeoTIFF that names its bands, and a PNG."""
    with atomic_path(files[0]) as temporary:
        temporary.write_bytes(chip_to_file(encode_chip(pixels)))
    save_png(files[1], composite(pixels, "infrared"))


def load_png(path: Path) -> np.ndarray:
    """uint8 HxWx3."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def padded(pixels: np.ndarray, side: int) -> np.ndarray:
    """A picture of side x side, uint8: the same where it has that size, else scaled to fit."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(ImageOps.pad(Image.fromarray(pixels), (side, side), color="white"))


def rows_of(*columns: Sequence[np.ndarray]) -> np.ndarray:
    """One row for each image, one column for each argument; all pictures of one size."""
    rows = [_joined(row, axis=1) for row in zip(*columns, strict=True)]
    return _joined(rows, axis=0)


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for one in pictures for part in (gap, one)][1:], axis=axis)
