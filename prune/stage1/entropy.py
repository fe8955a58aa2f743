"""Stage I's measure: the Shannon entropy of an image's grey levels (Eq. 1).

    H = - sum_{v=0}^{255} p_v log2 p_v        bits, in [0, 8]

where p_v is the fraction of pixels with grey level v (ITU-R 601 luma, 256 bins, base 2; the paper
does not name the logarithm, which does not matter to a ranking). The histogram forgets where
the pixels are, with two consequences that surprise: a smooth ramp has the full 8 bits, and
strong sensor noise nearly so (7.4 bits at a standard deviation of 40 levels). Low entropy finds
blank and nearly uniform tiles, and nothing else. Two alternatives look at where the pixels are:
`gradient_entropy` sees a ramp for what it is (0 bits), but any noise at all raises it (6.7 bits),
more than that of the grey levels; `denoised_entropy` sees both.

It is taken of the image as stored, before any crop or scaling: a scaled image has another
entropy, and the score should not depend on the size that one model happens to train at.

Results are rounded to 1e-12 bits, so that two histograms with the same counts in another order,
as of an image and its negative, tie exactly and the tie is broken by key.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DECIMALS = 12
_BLOCK = 4  # side of the means in `denoised_entropy`, pixels
_NOISE = 3  # times the expected square of the noise that is taken off


def shannon(counts: NDArray[np.integer]) -> float:
    """Entropy in bits of a histogram of non-negative counts; at least one must be positive."""
    present = counts[counts > 0]
    if not len(present):
        raise ValueError("the entropy of an empty histogram is not defined")
    p = present / present.sum()
    return round(float(-(p * np.log2(p)).sum()), DECIMALS) + 0.0  # + 0.0: never -0.0


def grey_entropy(grey: NDArray[np.uint8]) -> float:
    """Histogram entropy of a grey image: uint8 H x W -> bits in [0, 8]. ValueError if empty.

    The same as `shannon(np.bincount(grey.ravel(), minlength=256))`, counted and summed in C by
    Pillow: half the time, and scalar arithmetic that no vector unit reorders.
    """
    _check(grey)
    height, width = grey.shape
    pixels = np.ascontiguousarray(grey)
    image = Image.frombuffer("L", (width, height), pixels, "raw", "L", 0, 1)
    return round(image.entropy(), DECIMALS) + 0.0


def gradient_entropy(grey: NDArray[np.uint8]) -> float:
    """Histogram entropy of gradient magnitudes: uint8 H x W -> bits in [0, 8].

    The magnitude sqrt((dx^2 + dy^2) / 2) of forward differences, in [0, 255], is rounded into
    256 bins. 0 for an image without two rows and two columns. ValueError if empty.
    """
    _check(grey)
    if min(grey.shape) < 2:
        return 0.0
    level = grey.astype(np.int32)
    dx = level[:-1, 1:] - level[:-1, :-1]
    dy = level[1:, :-1] - level[:-1, :-1]
    magnitude = _half_root()[dx * dx + dy * dy]
    return shannon(np.bincount(magnitude.ravel(), minlength=256))


def denoised_entropy(grey: NDArray[np.uint8]) -> float:
    """Histogram entropy of what gradients are left without noise: uint8 H x W -> bits in [0, 8].

    The noise's standard deviation s is estimated from the image itself (Immerkaer 1996: the mean
    absolute response to a difference of two Laplacians, which smooth parts do not raise). Means of
    4 x 4 pixels then hold white noise of s/4, whose forward differences dx, dy have the expected
    square 2 (s/4)^2. From (dx^2 + dy^2) / 2 three times that is taken off; the root of what is
    left, at least 0, is rounded into 256 bins. In pictures means of pixels differ by more than such
    noise would make them, so that texture stays; noise that is itself smooth (scaled up) stays too.

    0 for an image with a side below 8. ValueError if empty.
    """
    _check(grey)
    height, width = (side // _BLOCK for side in grey.shape)
    if min(height, width) < 2:
        return 0.0
    level = grey.astype(np.int32)
    rows = level[:-2] - 2 * level[1:-1] + level[2:]
    response = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]).mean()
    noise = math.pi / 72 * response**2  # variance of a pixel's noise
    blocks = level[: height * _BLOCK, : width * _BLOCK].reshape(height, _BLOCK, width, _BLOCK)
    mean = blocks.sum(axis=(1, 3)) / _BLOCK**2
    dx = mean[:-1, 1:] - mean[:-1, :-1]
    dy = mean[1:, :-1] - mean[:-1, :-1]
    left = (dx * dx + dy * dy) / 2 - _NOISE * 2 * noise / _BLOCK**2
    magnitude = np.rint(np.sqrt(np.maximum(left, 0.0))).astype(np.uint8)
    return shannon(np.bincount(magnitude.ravel(), minlength=256))


def bands_entropy(pixels: NDArray[np.uint8]) -> float:
    """Mean over the bands of each band's histogram entropy: uint8 H x W x bands -> bits in [0, 8].

    Unlike the luma's it sees what near infrared alone shows. ValueError if empty.
    """
    entropies = [grey_entropy(pixels[..., band]) for band in range(pixels.shape[2])]
    return round(math.fsum(entropies) / len(entropies), DECIMALS)


MEASURES = {"grey": grey_entropy, "gradient": gradient_entropy, "denoised": denoised_entropy}


@cache
def _half_root() -> NDArray[np.uint8]:
    """round(sqrt(s / 2)) for every sum of two squares of differences."""
    return np.rint(np.sqrt(np.arange(2 * 255**2 + 1) / 2)).astype(np.uint8)


def _check(grey: NDArray[np.uint8]) -> None:
    if grey.dtype != np.uint8 or grey.ndim != 2 or grey.size == 0:
        raise ValueError(f"expected uint8 H x W pixels, found {grey.dtype} {grey.shape}")
