"""Decoded images to the input sizes of networks, uint8 in and out. For the decoding processes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def squash(image: Pixels, size: int, resample: int) -> Pixels:
    """Resize [H, W, 3] to size x size, the aspect ratio not kept; `resample` is Pillow's number."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling(resample)))


def resize_crop(image: Pixels, size: int, resample: int = Image.Resampling.BICUBIC) -> Pixels:
    """Shorter side to `size`, then the central square: CLIP's and DINOv2's own.

    Sizes and places are rounded as torchvision's Resize and CenterCrop round them.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    target = (int(size * width / short), int(size * height / short))
    if target != (width, height):
        picture = Image.fromarray(image).resize(target, Image.Resampling(resample))
        image = np.asarray(picture)
    top, left = round((target[1] - size) / 2), round((target[0] - size) / 2)
    return image[top : top + size, left : left + size]
