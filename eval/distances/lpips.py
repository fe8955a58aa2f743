"""LPIPS (Zhang et al. 2018) through the lpips package, on uint8 images only.

One entry takes uint8 and scales to [-1, 1] itself: feeding [0, 1] is the field's commonest
mistake. 'random' keeps the calibrated linear heads on a seeded random backbone, for machines
without the backbone's weights; its numbers are labelled and compare with nothing but themselves.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from lpips import LPIPS

from core.errors import UserError
from core.progress import progress

BATCH = 16


def metric_name(backbone: str) -> str:
    """How a value is labelled: 'LPIPS-alex', 'LPIPS-vgg' or 'LPIPS-random-backbone'."""
    return "LPIPS-random-backbone" if backbone == "random" else f"LPIPS-{backbone}"


def load_lpips(backbone: Literal["alex", "vgg", "random"], device: str = "cpu") -> Any:
    """The lpips network in eval mode. Raises UserError when the backbone's weights are missing."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's notes on the old 'pretrained' argument
        torch.manual_seed(0)
        try:
            if backbone == "random":
                network = LPIPS(net="alex", pnet_rand=True, verbose=False)
            else:
                network = LPIPS(net=backbone, verbose=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"LPIPS backbone '{backbone}': torchvision's weights cannot be downloaded "
                f"({error}); put them in torch's hub cache, or use --lpips-backbone random"
            ) from None
    return network.to(device).eval()


def lpips_pairs(network: Any, a: np.ndarray, b: np.ndarray, device: str = "cpu") -> np.ndarray:
    """LPIPS of each pair: images uint8 [n, h, w, 3] twice -> float64 [n], lower is closer."""
    for images in (a, b):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise UserError(f"LPIPS wants uint8 [n, h, w, 3], got {images.dtype} {images.shape}")
    if a.shape != b.shape:
        raise UserError(f"LPIPS compares images of one size; got {a.shape} and {b.shape}")

    def tensor(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1.0

    values = []
    with torch.inference_mode(), progress(total=len(a), name="LPIPS", unit="pair") as bar:
        for start in range(0, len(a), BATCH):
            part = slice(start, start + BATCH)
            values.append(
                network(tensor(a[part]), tensor(b[part])).flatten().double().cpu().numpy()
            )
            bar.update(len(values[-1]))
    return np.concatenate(values)
