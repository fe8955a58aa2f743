"""Whole images from a model of one tile's size: overlapping windows, blended at every step.

All windows share one latent of the whole image. At each step of the sampler the model predicts the
noise in every window, and the predictions are averaged with weights that fall smoothly to a
window's border (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113, Eq. 5, with weights for its
ones). Neighbours so agree on what is in their overlap before it is decoded; tiles that were drawn
apart and blended as pixels would each invent their own, and show double where they meet. Each
window sees its own condition, of the size that the model was trained on, and decoding goes window
by window too, so memory is that of a batch of windows, however large the image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dit.diffusion.gaussian import Model
from dit.vae.autoencoder import Vae


def window_starts(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of `size` begin on `length` >= size cells: spread evenly from end to end, as
    few as overlap by at least `overlap` < size cells."""
    if not 0 <= overlap < size <= length:
        raise ValueError(f"{length} cells, windows of {size}, overlap {overlap}")
    count = math.ceil((length - size) / (size - overlap)) + 1
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Square windows over a rectangle of height x width, and how they are blended.

    Attributes:
        size: side of a window.
        tops, lefts: where rows and columns of windows begin; every pair is a window.
    """

    height: int
    width: int
    size: int
    tops: Sequence[int]
    lefts: Sequence[int]

    @classmethod
    def over(cls, height: int, width: int, size: int, overlap: int) -> Windows:
        """The fewest windows that cover the rectangle and overlap by at least `overlap`."""
        rows, columns = (window_starts(side, size, overlap) for side in (height, width))
        return cls(height, width, size, rows, columns)

    def scaled(self, factor: int) -> Windows:
        """The same windows where each cell is factor x factor pixels."""
        tops, lefts = ([factor * start for start in starts] for starts in (self.tops, self.lefts))
        return Windows(factor * self.height, factor * self.width, factor * self.size, tops, lefts)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of every window, row by row."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def weights(self) -> np.ndarray:
        """float32 [windows, size, size], above 0; at each cell they sum to 1.

        sin^2 across a window in both directions, divided by the sum: exactly 1 where a cell lies
        in one window only.
        """
        ramp = np.sin(np.pi * (np.arange(self.size) + 0.5) / self.size) ** 2

        def shares(starts: Sequence[int], length: int) -> np.ndarray:
            total = np.zeros(length)
            for start in starts:
                total[start : start + self.size] += ramp
            return np.stack([ramp / total[start : start + self.size] for start in starts])

        rows, columns = shares(self.tops, self.height), shares(self.lefts, self.width)
        both = rows[:, None, :, None] * columns[None, :, None, :]
        return both.reshape(-1, self.size, self.size).astype(np.float32)

    def cut(self, whole: Tensor) -> Tensor:
        """[1, C, height, width] to [windows, C, size, size]."""
        s = self.size
        return torch.cat([whole[:, :, t : t + s, i : i + s] for t, i in self.corners])

    def blend(self, parts: Tensor) -> Tensor:
        """[windows, C, size, size] to [1, C, height, width], float32: the weighted mean."""
        s = self.size
        whole = parts.new_zeros((1, parts.shape[1], self.height, self.width), dtype=torch.float32)
        shares = torch.from_numpy(self.weights()).to(parts.device)
        for (top, left), part, share in zip(self.corners, parts, shares, strict=True):
            whole[0, :, top : top + s, left : left + s] += share * part
        return whole


def windowed(model: Model, windows: Windows, conditions: Tensor, batch: int) -> Model:
    """A model of the whole latent [1, C, height, width] from one of a window's.

    Args:
        model: called as model(x, t, condition=...), `batch` windows at a time.
        conditions: of each window, [windows, ...].
    """

    def call(x: Tensor, t: Tensor) -> Tensor:
        parts = windows.cut(x).split(batch)
        seen = conditions.split(batch)
        predicted = [
            model(part, t.expand(len(part)), condition=condition).float()
            for part, condition in zip(parts, seen, strict=True)
        ]
        return windows.blend(torch.cat(predicted))

    return call


def decode_windows(vae: Vae, latent: Tensor, windows: Windows, batch: int) -> np.ndarray:
    """The image of a latent [1, C, height, width], uint8 [H, W, 3], decoded window by window."""
    parts = vae.decode(windows.cut(latent), batch)
    pixels = torch.from_numpy(parts).permute(0, 3, 1, 2)
    whole = windows.scaled(vae.factor).blend(pixels)[0].permute(1, 2, 0)
    return whole.round().to(torch.uint8).numpy()
