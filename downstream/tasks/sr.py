"""Super-resolution: the degradation, and high-resolution images with their low-resolution ones.

The paper degrades SECOND by down- and up-sampling and does not state the factor; here it is
x8 by default (x4 and x16 are options), with antialiased bicubic down and bicubic up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from core.errors import UserError
from data.images.decode import Reject
from data.pairs.listing import Item, Report
from dit.vae.autoencoder import Vae, to_unit
from downstream.tasks.bands import read_bands
from downstream.tasks.dataset import Crop, Pair, PairDataset, resized, scaled


def degrade(image: np.ndarray, factor: int) -> np.ndarray:
    """The low-resolution image: antialiased bicubic to 1/factor. uint8 HxWx3 (or 4) to H/f x W/f.

    Raises ValueError when a side is no multiple of the factor.
    """
    height, width = image.shape[:2]
    if height % factor or width % factor:
        raise ValueError(f"{width} x {height} pixels is no multiple of the factor {factor}")
    size = (width // factor, height // factor)
    return resized(image, size)


def restore(
    low: np.ndarray, factor: int, top: int, left: int, height: int, width: int | None = None
) -> np.ndarray:
    """A rectangle (a square by default) of the bicubically enlarged low-resolution image.

    uint8 height x width x bands; the same pixels as enlarging all of it and cutting them out.
    """
    width = width or height
    box = (left / factor, top / factor, (left + width) / factor, (top + height) / factor)
    return resized(low, (width, height), box=box)


class SrPairs(PairDataset):
    """High-resolution images, each with its low-resolution one. See PairDataset.

    Args:
        hr_size: shorter side that images are brought to, in pixels; smaller ones are left out,
            because an enlarged image is no high-resolution one.
        factor: down-sampling factor.
    """

    def __init__(
        self,
        items: Sequence[Item],
        report: Report,
        *,
        hr_size: int,
        factor: int,
        image_size: int,
        **reading: Any,
    ) -> None:
        if factor < 2 or hr_size % factor or image_size % factor:
            raise UserError(
                f"--factor {factor}: expected 2 or more, dividing --hr-size {hr_size} and "
                f"--image-size {image_size}"
            )
        if hr_size < image_size:
            raise UserError(f"--hr-size {hr_size} is below --image-size {image_size}")
        self.hr_size, self.factor = hr_size, factor
        super().__init__(items, report, image_size=image_size, **reading)

    def prepare(self, item: Item) -> Pair:
        image = read_bands(item, self.bands)
        if min(image.shape[:2]) < self.hr_size:
            raise Reject("too-small", f"shorter side below --hr-size {self.hr_size}")
        image = scaled(image, self.hr_size)
        # The longer side gives up its last pixels, so that both grids line up.
        height, width = (n // self.factor * self.factor for n in image.shape[:2])
        image = np.ascontiguousarray(image[:height, :width])
        return image, degrade(image, self.factor)

    def cut(
        self, companion: np.ndarray, crop: Crop, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """The crop of the enlarged low-resolution image, uint8 [S, S, 3]."""
        sides = size or (self.image_size, self.image_size)
        return restore(companion, self.factor, crop.top, crop.left, *sides)

    def condition(self, companions: np.ndarray, vae: Vae) -> torch.Tensor:
        """Scaled posterior means of enlarged low-resolution images, float32 [b, C, h, w]."""
        return vae.encode(to_unit(companions))[0] * vae.scale

    def describe_condition(self, vae: Vae) -> dict[str, Any]:
        return {"kind": "latent", "channels": vae.latent_channels}

    def picture(self, companions: np.ndarray) -> np.ndarray:
        """The enlarged low-resolution image itself, its colours."""
        return companions[..., :3]
