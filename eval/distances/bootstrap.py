"""Intervals: over images, and over seeds. They answer different questions.

Over images (bootstrap of a mean, else from the variance over images): how far would the value move
with other images of the same two distributions, the trained model being what it is? Over seeds
(t interval): how far would it move with another training run? Neither stands for the other: a
model's samples may be many, its training seeds few.

Every interval says what it is over (`Interval.over`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import special

from core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Interval:
    """From `low` to `high`, over other `images` or over other training `seeds`, by `method`."""

    low: float
    high: float
    over: Literal["images", "seeds"]
    method: str

    def bounds(self) -> list[float]:
        """[low, high]."""
        return [self.low, self.high]


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval over images of the mean of `values` [n], one an image."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    tail = (1.0 - level) / 2.0
    return float(np.quantile(means, tail)), float(np.quantile(means, 1.0 - tail))


def normal(
    value: float, variance: float, level: float, method: str, *, least: float | None = None
) -> Interval:
    """A metric's normal interval over images from its variance over them.

    Args:
        least: a bound that the metric cannot fall below.
    """
    half = float(special.ndtri((1.0 + level) / 2.0)) * variance**0.5
    low = value - half if least is None else max(least, value - half)
    return Interval(low, value + half, "images", method)


def linearised(value: float, influences: Sequence[np.ndarray], level: float) -> Interval:
    """Interval over images of a distance (never below 0), from each image's influence on it.

    To first order the metric moves by mean_i w_i h_i when the images of set s are weighted by w, so
    that its variance over images is sum_s var(h_s) / n_s (the infinitesimal jackknife, Efron
    1982). Nothing is drawn anew: resampling biases distances upwards, for copies make a set
    look narrower. Like every jackknife it errs on the wide side, the more the fewer images.

    Args:
        value: the metric.
        influences: h_s [n_s] of each set.
    """
    variance = float(sum(np.var(h, ddof=1) / len(h) for h in influences))
    return normal(value, variance, level, "linearised", least=0.0)


def over_seeds(
    values: Sequence[float], others: Sequence[float] | None = None, *, level: float = 0.95
) -> dict[str, Any]:
    """Mean over training seeds and its t interval; of the differences where there are others.

    Args:
        values: a metric, one value a seed.
        others: the same metric of what is compared with, of the same seeds in the same order: the
            differences values - others are then taken seed by seed, which removes what the two
            share (data order, noise, hold-out).

    Returns:
        mean, n (seeds), sd, over ("seeds"), paired, interval_95: None for a single seed, which says
        nothing of others (and named for `level`).

    Raises:
        UserError: no values, different counts, or values that are not finite.
    """
    a = np.asarray(values, dtype=np.float64)
    if others is not None:
        if len(others) != len(a):
            raise UserError(f"{len(a)} and {len(others)} seeds: pairs need the same ones")
        a = a - np.asarray(others, dtype=np.float64)
    if not len(a) or not np.isfinite(a).all():
        raise UserError(f"an interval over seeds needs finite values, got {list(values)}")
    mean, interval, deviation = float(a.mean()), None, None
    if len(a) > 1:
        deviation = float(a.std(ddof=1))
        half = float(special.stdtrit(len(a) - 1, (1.0 + level) / 2.0)) * deviation / len(a) ** 0.5
        interval = [mean - half, mean + half]
    return {
        "mean": mean,
        "n": len(a),
        "sd": deviation,
        "over": "seeds",
        "paired": others is not None,
        f"interval_{level * 100:.0f}": interval,
    }
