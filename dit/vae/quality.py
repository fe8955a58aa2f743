"""What an autoencoder leaves of images: of each band, and of near infrared's own signal.

    PSNR    10 log10(255^2 / MSE), in dB, at most 60
    SSIM    Wang et al. 2004: a Gaussian window of 11 pixels (sigma 1.5), K = 0.01 and 0.03
    NDVI    (NIR - R) / (NIR + R), of grey levels; 0 where both are 0

A VAE may draw near infrared as a copy of another band and lose little PSNR. That is why the
correlation of NIR with red stands beside the images' own, and the error of NDVI beside the spread
that NDVI has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import structural_similarity_index_measure

RED, INFRARED = 0, 3
WINDOW = 11  # pixels of SSIM's window
MOST_DB = 60.0
_BLOCK = 2**22  # values at a time: bounds memory


def compare(images: NDArray[np.uint8], rebuilt: NDArray[np.uint8]) -> dict[str, Any]:
    """Quality of reconstructions, uint8 N x H x W x C twice; see `Quality.result`."""
    quality = Quality()
    quality.add(images, rebuilt)
    return quality.result()


def ndvi(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Normalised difference vegetation index of uint8 [..., 4] (R, G, B, NIR): in [-1, 1]."""
    red, infrared = (images[..., band].astype(np.float32) for band in (RED, INFRARED))
    total = infrared + red
    return np.divide(infrared - red, total, out=np.zeros_like(total), where=total > 0)


class Quality:
    """The figures of `compare`, of images that come in batches."""

    def __init__(self) -> None:
        self._sums: defaultdict[Any, Any] = defaultdict(float)
        self._each: list[float] = []  # images' own PSNR
        self._pixels, self._ssim = 0, True

    def add(self, images: NDArray[np.uint8], rebuilt: NDArray[np.uint8]) -> None:
        """Count uint8 N x H x W x C and what was made of them, of the same shape.

        Raises ValueError for other shapes.
        """
        if images.ndim != 4 or images.shape != rebuilt.shape:
            raise ValueError(f"expected N x H x W x C twice, got {images.shape}, {rebuilt.shape}")
        step = max(1, _BLOCK // max(1, images[:1].size))
        for start in range(0, len(images), step):
            self._add(images[start : start + step], rebuilt[start : start + step])

    def _add(self, images: NDArray[np.uint8], rebuilt: NDArray[np.uint8]) -> None:
        sums = self._sums
        error = images.astype(np.float32) - rebuilt.astype(np.float32)
        squares = np.square(error)
        sums["squares"] += squares.sum(axis=(0, 1, 2), dtype=np.float64)
        sums["absolute"] += np.abs(error).sum(axis=(0, 1, 2), dtype=np.float64)
        self._each += [_psnr(mse) for mse in squares.mean(axis=(1, 2, 3), dtype=np.float64)]
        self._pixels += images[..., 0].size
        if min(images.shape[1:3]) < WINDOW:
            self._ssim = False
        if self._ssim:
            sums["ssim"] += _ssim(images, rebuilt)
        if images.shape[3] <= INFRARED:
            return
        indices = {}
        for side, pixels in (("images", images), ("rebuilt", rebuilt)):
            pair = pixels[..., [RED, INFRARED]].reshape(-1, 2).astype(np.float64)
            sums[side, "sum"] += pair.sum(axis=0)
            sums[side, "products"] += pair.T @ pair
            indices[side] = ndvi(pixels).astype(np.float64)
            sums[side, "ndvi"] += indices[side].sum()
            sums[side, "ndvi squares"] += np.square(indices[side]).sum()
        sums["ndvi error"] += np.abs(indices["images"] - indices["rebuilt"]).sum()

    def result(self) -> dict[str, Any]:
        """Of all images: psnr over all pixels and bands, psnr_mean of the images' own PSNRs (as
        papers often average), and of each band psnr_band, l1_band (grey levels, 0 to 255) and
        ssim_band (mean over images; None of images smaller than its window).

        Of four bands also "infrared", all over all pixels: red_correlation (Pearson's r of NIR and
        red; None where one of them is constant), ndvi_error (mean |NDVI - NDVI rebuilt|), ndvi_mean
        and ndvi_std. Raises ValueError where there were no images.
        """
        count, pixels, sums = len(self._each), self._pixels, self._sums
        if not count:
            raise ValueError("no images to compare")
        bands = sums["squares"] / pixels
        found: dict[str, Any] = {
            "psnr": _psnr(float(bands.mean())),
            "psnr_mean": round(float(np.mean(self._each)), 4),
            "psnr_band": [_psnr(float(value)) for value in bands],
            "ssim_band": (sums["ssim"] / count).round(4).tolist() if self._ssim else None,
            "l1_band": (sums["absolute"] / pixels).round(4).tolist(),
            "images": count,
        }
        if len(bands) > INFRARED:
            sides = ("images", "rebuilt")
            means = {side: float(sums[side, "ndvi"]) / pixels for side in sides}
            spread = {
                side: math.sqrt(max(0.0, sums[side, "ndvi squares"] / pixels - means[side] ** 2))
                for side in sides
            }
            found["infrared"] = {
                "red_correlation": {
                    side: _correlation(sums[side, "sum"], sums[side, "products"], pixels)
                    for side in sides
                },
                "ndvi_error": round(float(sums["ndvi error"]) / pixels, 4),
                "ndvi_mean": {side: round(means[side], 4) for side in sides},
                "ndvi_std": {side: round(spread[side], 4) for side in sides},
            }
        return found


def _psnr(mse: float) -> float:
    return round(min(MOST_DB, 10 * math.log10(255**2 / max(float(mse), 1e-9))), 4)


def _ssim(images: NDArray[np.uint8], rebuilt: NDArray[np.uint8]) -> NDArray[np.float64]:
    """SSIM of each band, summed over images: float64 [C]."""
    n, height, width, bands = images.shape
    theirs, ours = (
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        .reshape(n * bands, 1, height, width)
        .double()
        for pixels in (images, rebuilt)
    )
    found = structural_similarity_index_measure(ours, theirs, data_range=255.0, reduction="none")
    assert isinstance(found, torch.Tensor)
    return found.reshape(n, bands).sum(dim=0).numpy()


def _correlation(sums: Any, products: Any, count: int) -> float | None:
    """Pearson's r of two bands, from their sums [2] and sums of products [2, 2]; exact, since sums
    of uint8 are whole numbers that a float64 holds."""
    covariance = products / count - np.outer(sums, sums) / count**2
    scale = math.sqrt(max(0.0, covariance[0, 0]) * max(0.0, covariance[1, 1]))
    return round(float(covariance[0, 1]) / scale, 4) if scale > 1e-9 else None
