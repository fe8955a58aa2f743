"""Mean and spread of scaled latents, exact: no posterior is sampled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Moments = dict[str, list[float]]  # by channel: count, and sums of mean, mean^2 and std^2


def moments(latents: Iterable[NDArray[np.float16]]) -> Moments:
    """Sums over images, each [2, 2, C, h, w]: image and mirror image, mean and std, unscaled."""
    totals: Any = 0.0
    for row in latents:  # one image at a time: a shard in float64 would be four times its size
        mean, std = row[:, 0].astype(np.float64), row[:, 1].astype(np.float64)
        values = (np.ones_like(mean), mean, np.square(mean), np.square(std))
        totals = totals + np.array([value.sum(axis=(0, 2, 3)) for value in values])
    names = ("count", "mean", "mean2", "std2")
    return {name: total.tolist() for name, total in zip(names, totals, strict=True)}


def statistics(parts: Sequence[Moments], scale: float) -> dict[str, Any]:
    """Mean and standard deviation of the scaled posterior samples, over images and places.

    Var[mean + std * noise] = E[mean^2] + E[std^2] - E[mean]^2. "warning" says what is suspicious.
    """
    count, mean, mean2, std2 = (
        np.sum([part[name] for part in parts], axis=0)
        for name in ("count", "mean", "mean2", "std2")
    )
    by_channel = np.sqrt((mean2 + std2) / count - np.square(mean / count)) * scale
    total = count.sum()
    centre = mean.sum() / total
    std = math.sqrt((mean2.sum() + std2.sum()) / total - centre**2) * scale
    warning = ""
    if not 0.5 <= std <= 2.0:
        warning = (
            f"the scaled latents have standard deviation {std:.3f}, far from 1: is the scale "
            f"{scale:g} the one this VAE was made with? A wrong scale ruins the diffusion training "
            "silently"
        )
    return {
        "std": round(std, 6),
        "mean": round(float(centre) * scale, 6),
        "posterior_std": round(math.sqrt(std2.sum() / total) * scale, 6),
        "channel_std": [round(float(value), 6) for value in by_channel],
        "warning": warning,
    }
