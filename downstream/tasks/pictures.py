"""PNG files and the rows of condition | generated | target that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from core.atomic import atomic_path

_GAP = 2  # pixels of white between pictures


def save_png(path: Path, pixels: np.ndarray) -> Path:
    """Write uint8 HxWx3 atomically, and return the path."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
    return path


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
