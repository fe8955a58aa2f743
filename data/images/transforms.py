"""From a decoded image to the square that a model sees, the same in training and evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def center_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the shorter side to `size` and cut out the centre.

    Halved with a box filter while the shorter side is at least twice `size` (a bicubic kernel
    alone would alias), then bicubic to `size`, then a centre crop. Smaller images are enlarged
    bicubically. This is the preprocessing that ADM and DiT train with. Apply any flip after it,
    so that a mirrored training image is the mirror of the unmirrored one.

    Args:
        image: uint8 H x W x 3 in [0, 255]; or H x W x 4, whose fourth band is scaled as the others
            are (near infrared: it is no alpha, and weighs nothing).
        size: side of the result (pixels, >= 1).

    Returns:
        uint8 size x size x 3 (or 4). An image of that very size comes back unchanged.

    Raises:
        ValueError: not uint8 H x W x 3 or 4, an empty side, or a size below 1.
    """
    known = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (3, 4)
    if not known or 0 in image.shape:
        raise ValueError(f"expected uint8 H x W x 3 or 4, found {image.dtype} {image.shape}")
    if size < 1:
        raise ValueError(f"size must be at least 1, found {size}")
    height, width = image.shape[:2]
    if min(height, width) != size:
        # Pillow has no mode of four equal bands: red, green and blue, then the fourth alone.
        pictures = [Image.fromarray(np.ascontiguousarray(image[..., :3]))]
        others = image.transpose(2, 0, 1)[3:]
        pictures += [Image.fromarray(np.ascontiguousarray(band)) for band in others]
        while min(width, height) >= 2 * size:
            width, height = width // 2, height // 2
            pictures = [p.resize((width, height), Image.Resampling.BOX) for p in pictures]
        if min(width, height) != size:
            scale = size / min(width, height)
            width, height = round(width * scale), round(height * scale)
            pictures = [p.resize((width, height), Image.Resampling.BICUBIC) for p in pictures]
        image = np.dstack([np.asarray(p) for p in pictures])
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])
