"""Semantic image synthesis: images with their class masks, kept aligned to the pixel."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from core.errors import UserError
from data.pairs.listing import Item, Report
from data.pairs.palettes import Palette
from downstream.tasks.dataset import (
    Bank,
    Crop,
    Pair,
    Unusable,
    read_image,
    read_mask,
    scaled,
    scaled_size,
)

if TYPE_CHECKING:
    import torch

    from dit.vae.autoencoder import Vae


class SisTask:
    """What training and evaluation need to know about semantic synthesis.

    Args:
        items: image and mask files of one split.
        palette: colours or ids of the masks to classes; a colour it does not know is an error.
        side: shorter side that image (box and bicubic) and mask (nearest) are brought to.
        image_size: side of a crop (pixels).
    """

    def __init__(
        self,
        items: Sequence[Item],
        report: Report,
        *,
        palette: Palette,
        side: int,
        image_size: int,
        cache: int,
        workers: int,
        quiet: bool = False,
    ) -> None:
        if side < image_size:
            raise UserError(f"--tile-size {side} is below --image-size {image_size}")
        self.palette, self.side, self.image_size = palette, side, image_size
        self._lock = threading.Lock()
        self._noisy: dict[str, int] = {}
        self.bank = Bank(items, self._prepare, report, cache, workers, quiet)
        if self._noisy:
            report.note(
                f"{sum(self._noisy.values()):,} pixels of {len(self._noisy):,} masks were near a "
                f"colour of palette '{palette.name}', not on it, and were taken for it"
            )

    def _prepare(self, item: Item) -> Pair:
        assert item.mask is not None
        image, mask = read_image(item), read_mask(item)
        if image.shape[:2] != mask.shape[:2]:
            (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape[:2]
            raise Unusable("mask of another size", f"{w} x {h}, mask {mask_w} x {mask_h}")
        if mask.ndim == 3:
            ids, noisy = self.palette.ids(mask, str(item.mask))
            if noisy:
                with self._lock:
                    self._noisy[item.key] = noisy
        else:
            ids = mask
            self.palette.check_ids(ids, str(item.mask))
        size = scaled_size(image.shape[1], image.shape[0], self.side)
        if size != (image.shape[1], image.shape[0]):
            image = scaled(image, self.side)
            ids = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
        return image, ids

    def crops(self, crops: Sequence[Crop]) -> tuple[np.ndarray, np.ndarray]:
        """(images uint8 [b, S, S, 3], class ids uint8 [b, S, S])."""
        size = self.image_size
        images, masks = [], []
        pairs = self.bank.get(crop.index for crop in crops)
        for crop, (image, ids) in zip(crops, pairs, strict=True):
            window = np.s_[crop.top : crop.top + size, crop.left : crop.left + size]
            images.append(image[window])
            masks.append(ids[window])
        return np.stack(images), np.stack(masks)

    def condition(self, ids: np.ndarray, vae: Vae) -> torch.Tensor:
        """Class ids as the model takes them, uint8 [b, S, S]."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(ids)).to(vae.model.device)

    def picture(self, ids: np.ndarray) -> np.ndarray:
        """What a person is shown as the condition: the classes in the palette's colours."""
        return self.palette.paint(ids)

    def describe_condition(self, vae: Any) -> dict[str, Any]:
        """ConditionedDiT's `condition` argument."""
        from downstream.conditioning.conditioned import MASK_CHANNELS

        return {
            "kind": "mask",
            "channels": MASK_CHANNELS,
            "classes": self.palette.classes,
            "factor": vae.factor,
        }
