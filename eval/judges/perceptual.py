"""Perceptual distances of pairs of images, by the networks of dit.vae.perceptual.

One entry takes uint8 and scales to [-1, 1] itself: feeding [0, 1] is the field's commonest mistake.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError
from core.progress import progress
from dit.vae.perceptual import Perceptual, load_perceptual

__all__ = ["Perceptual", "load_perceptual", "perceptual_pairs"]

BATCH = 16


def perceptual_pairs(
    network: Perceptual, a: np.ndarray, b: np.ndarray, device: str = "cpu"
) -> np.ndarray:
    """Distance of each pair: images uint8 [n, h, w, 3] twice -> float64 [n], lower is closer.

    Raises UserError for images of another type, or of two sizes.
    """
    for images in (a, b):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(
                f"{network.name} wants uint8 [n, h, w, 3], got {images.dtype} {images.shape}"
            )
    if a.shape != b.shape:
        raise UserError(f"{network.name} wants images of one size; got {a.shape} and {b.shape}")

    def tensor(images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1.0

    values = np.empty(len(a))
    with torch.inference_mode(), progress(total=len(a), name=network.name, unit="pair") as bar:
        for start in range(0, len(a), BATCH):
            part = slice(start, start + BATCH)
            found = network.function(tensor(a[part]), tensor(b[part]))
            values[part] = found.double().cpu().numpy()
            bar.update(len(found))
    return values
