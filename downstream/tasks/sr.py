"""Super-resolution: the degradation, and high-resolution images with their low-resolution ones.

The paper degrades SECOND by down- and up-sampling and does not state the factor; here it is
x8 by default (x4 and x16 are options), with antialiased bicubic down and bicubic up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from core.errors import UserError
from data.images.decode import Reject
from data.pairs.listing import Item, Report
from downstream.tasks.dataset import Bank, Crop, Pair, read_image, scaled

if TYPE_CHECKING:
    import torch

    from dit.vae.autoencoder import Vae


def degrade(image: np.ndarray, factor: int) -> np.ndarray:
    """The low-resolution image: antialiased bicubic to 1/factor. uint8 HxWx3 to H/f x W/f x 3.

    Raises ValueError when a side is no multiple of the factor.
    """
    height, width = image.shape[:2]
    if height % factor or width % factor:
        raise ValueError(f"{width} x {height} pixels is no multiple of the factor {factor}")
    size = (width // factor, height // factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def restore(low: np.ndarray, factor: int, top: int, left: int, size: int) -> np.ndarray:
    """The square [top, left, size] of the bicubically enlarged low-resolution image.

    uint8 size x size x 3; the same pixels as enlarging all of it and cutting the square out.
    """
    box = (left / factor, top / factor, (left + size) / factor, (top + size) / factor)
    picture = Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture)


class SrTask:
    """What training and evaluation need to know about super-resolution.

    Args:
        items: images of one split.
        side: shorter side that images are brought to, in pixels; smaller ones are left out,
            because an enlarged image is no high-resolution one.
        factor: down-sampling factor.
        image_size: side of a crop (pixels).
    """

    def __init__(
        self,
        items: Sequence[Item],
        report: Report,
        *,
        side: int,
        factor: int,
        image_size: int,
        cache: int,
        workers: int,
        quiet: bool = False,
    ) -> None:
        if factor < 2 or side % factor or image_size % factor:
            raise UserError(
                f"--factor {factor}: expected 2 or more, dividing --hr-size {side} and "
                f"--image-size {image_size}"
            )
        if side < image_size:
            raise UserError(f"--hr-size {side} is below --image-size {image_size}")
        self.side, self.factor, self.image_size = side, factor, image_size
        self.bank = Bank(items, self._prepare, report, cache, workers, quiet)

    def _prepare(self, item: Item) -> Pair:
        image = read_image(item)
        if min(image.shape[:2]) < self.side:
            raise Reject("too-small", f"shorter side below --hr-size {self.side}")
        image = scaled(image, self.side)
        # The longer side gives up its last pixels, so that both grids line up.
        height, width = (n // self.factor * self.factor for n in image.shape[:2])
        image = np.ascontiguousarray(image[:height, :width])
        return image, degrade(image, self.factor)

    def crops(self, crops: Sequence[Crop]) -> tuple[np.ndarray, np.ndarray]:
        """(high-resolution, restored low-resolution), both uint8 [b, S, S, 3]."""
        size = self.image_size
        pairs = self.bank.get(crop.index for crop in crops)
        high = [
            image[c.top : c.top + size, c.left : c.left + size]
            for c, (image, _) in zip(crops, pairs, strict=True)
        ]
        low = [
            restore(small, self.factor, c.top, c.left, size)
            for c, (_, small) in zip(crops, pairs, strict=True)
        ]
        return np.stack(high), np.stack(low)

    def condition(self, low: np.ndarray, vae: Vae) -> torch.Tensor:
        """Scaled posterior means of restored low-resolution images, float32 [b, C, h, w]."""
        from dit.vae.autoencoder import to_unit

        return vae.encode(to_unit(low))[0] * vae.scale

    def picture(self, low: np.ndarray) -> np.ndarray:
        """What a person is shown as the condition: the restored image itself."""
        return low

    def describe_condition(self, vae: Any) -> dict[str, Any]:
        """ConditionedDiT's `condition` argument."""
        return {"kind": "latent", "channels": vae.latent_channels}
