"""Semantic image synthesis: images with their class masks, kept aligned to the pixel."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.errors import UserError
from data.images.decode import Reject
from data.pairs.listing import Item, Report
from data.pairs.palettes import Palette
from dit.vae.autoencoder import Vae
from downstream.conditioning.model import MASK_CHANNELS
from downstream.tasks.bands import Unusable, read_bands
from downstream.tasks.dataset import (
    Crop,
    Pair,
    PairDataset,
    cut_out,
    read_mask,
    scaled,
    scaled_size,
)

NEARLY_ALL = 0.99  # of a mask's pixels
FEW = 3  # masks, below which one class in all of them is no sign of anything


class SisPairs(PairDataset):
    """Images, each with its class ids. See PairDataset.

    Args:
        palette: colours or ids of the masks to classes; a colour it does not know is an error, and
            so is one class that nearly fills every mask.
        tile_size: shorter side that image (box and bicubic) and mask (nearest) are brought to, in
            pixels; smaller tiles are left out: an enlarged one is of another scale.
    """

    def __init__(
        self,
        items: Sequence[Item],
        report: Report,
        *,
        palette: Palette,
        tile_size: int,
        image_size: int,
        **reading: Any,
    ) -> None:
        if tile_size < image_size:
            raise UserError(f"--tile-size {tile_size} is below --image-size {image_size}")
        self.palette, self.tile_size = palette, tile_size
        self._lock = threading.Lock()
        self._noisy: dict[str, int] = {}
        self._filled: dict[str, int] = {}  # masks that one class nearly fills
        super().__init__(items, report, image_size=image_size, **reading)
        if self._noisy:
            report.note(
                f"{sum(self._noisy.values()):,} pixels of {len(self._noisy):,} masks were near a "
                f"colour of palette '{palette.name}', not on it, and were taken for it"
            )

        self._refuse_one_class()

    def _refuse_one_class(self) -> None:
        """Such masks are most often read wrongly, and a training on them would not say so."""
        classes = set(self._filled.values())
        if len(self.items) < FEW or len(self._filled) < len(self.items) or len(classes) > 1:
            return
        item = self.items[0]
        mask = read_mask(item)
        colours = mask.reshape(-1, mask.shape[2]) if mask.ndim == 3 else mask.reshape(-1, 1)
        values, counts = np.unique(colours, axis=0, return_counts=True)
        order = np.argsort(-counts)[:8]
        shown = ", ".join(f"{tuple(values[i].tolist())} ({counts[i]:,} px)" for i in order)
        raise UserError(
            f"{item.mask}: nearly all of it, and of all {len(self.items):,} masks, is class "
            f"'{self.palette.names[classes.pop()]}' of palette '{self.palette.name}'; its values "
            f"are {shown}. State the --palette that these masks have, or leave out such a set"
        )

    def prepare(self, item: Item) -> Pair:
        image, mask = read_bands(item, self.bands), read_mask(item)
        if min(image.shape[:2]) < self.tile_size:
            raise Reject("too-small", f"shorter side below --tile-size {self.tile_size}")
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
        counts = np.bincount(ids.ravel(), minlength=1)
        if counts.max() >= NEARLY_ALL * ids.size:
            with self._lock:
                self._filled[item.key] = int(counts.argmax())
        size = scaled_size(image.shape[1], image.shape[0], self.tile_size)
        if size != (image.shape[1], image.shape[0]):
            image = scaled(image, self.tile_size)
            ids = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
        return image, ids

    def cut(
        self, companion: np.ndarray, crop: Crop, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """The class ids of the crop, uint8 [S, S]."""
        return cut_out(companion, crop, *(size or (self.image_size, self.image_size)))

    def condition(self, companions: np.ndarray, vae: Vae) -> torch.Tensor:
        """Class ids as the model takes them, uint8 [b, S, S]."""
        return torch.from_numpy(np.ascontiguousarray(companions)).to(vae.model.device)

    def describe_condition(self, vae: Vae) -> dict[str, Any]:
        return {
            "kind": "mask",
            "channels": MASK_CHANNELS,
            "classes": self.palette.classes,
            "factor": vae.factor,
        }

    def picture(self, companions: np.ndarray) -> np.ndarray:
        """The classes in the palette's colours."""
        return self.palette.paint(companions)
