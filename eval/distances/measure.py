"""All distances of two sets of features, as a metrics file holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.distances.arrays import pair
from eval.distances.bootstrap import bootstrap_interval
from eval.distances.frechet import frechet_extrapolated, frechet_interval
from eval.distances.kernel import mmd, polynomial, rbf
from eval.distances.manifold import K_COVERAGE, manifolds
from eval.distances.sliced import sliced_wasserstein

LEAD_FROM = 5000
"""Images a side from which the Frechet distance is the lead figure; the kernel distance below."""
PARTS = 4
"""Of the extrapolation: n, n/2, n/3 and n/4 images a side."""


def names(space: str) -> dict[str, str]:
    """What the distances in a space are called: only Inception's and CLIP's have names."""
    inception, clip = space == "Inception", space == "CLIP"
    frechet = "FID" if inception else f"FD-{space}"
    return {
        "frechet": frechet,
        "kernel": "KID" if inception else f"KD-{space}",
        "fd_extrapolated": f"{frechet}-infinity",
        "cmmd": "CMMD" if clip else f"RBF-MMD-{space}",
        "mind": "MIND" if inception else f"SW-{space}",
        "precision": f"precision-{space}",
        "recall": f"recall-{space}",
        "density": f"density-{space}",
        "coverage": f"coverage-{space}",
    }


def measure(
    space: str,
    generated: np.ndarray,
    real: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = 500,
) -> dict[str, Any]:
    """Every distance of generated from real features, with the counts that they depend on.

    All intervals are over images at these counts (key interval_over); none is over training
    seeds, for which see `bootstrap.over_seeds`. precision, recall, density and coverage have theirs
    with the other set's manifold as it is.

    Args:
        space: the extractor's label: "Inception", "DINOv2", "CLIP", "descriptor" and so on.
        generated, real: features [n, d], [m, d].
        seed: of projections, resamples and the parts of the extrapolation.
        resamples: of the bootstrap of shares (precision and so on).

    Returns:
        name, value, interval_95 (Frechet); kernel_name, kernel_value, kernel_interval_95;
        n_generated, n_real, dimension; lead: "kernel" below 5,000 images a side, else "frechet";
        metrics: key -> name, value and, where it has one, interval_95; what the counts are too
        small for is left out, and notes say so.

    Raises:
        UserError: fewer than four rows, values that are not finite, or different dimensions.
    """
    generated, real = pair(generated, real, least=4, names=("generated features", "real features"))
    called, dimension = names(space), generated.shape[1]
    count = min(len(generated), len(real))
    value, interval = frechet_interval(generated, real)
    kernel, kernel_interval = mmd(generated, real, polynomial)
    metrics: dict[str, Any] = {}
    notes = []
    if len(generated) != len(real):
        notes.append("unequal counts: compare only with values of the same counts")
    if count <= dimension:
        notes.append(
            f"{count} samples in {dimension} dimensions: the Frechet value is mostly bias, and so "
            "is what its extrapolation leaves"
        )

    def add(key: str, found: float, bounds: list[float] | None) -> None:
        metrics[key] = {"name": called[key], "value": found}
        if bounds is not None:
            metrics[key]["interval_95"] = bounds

    if count >= 2 * PARTS:
        limit, _ = frechet_extrapolated(generated, real, parts=PARTS, seed=seed)
        add("fd_extrapolated", limit, None)
    rbf_value, rbf_interval = mmd(generated, real, rbf)
    add("cmmd", rbf_value, rbf_interval.bounds())
    sliced, sliced_interval = sliced_wasserstein(generated, real, seed=seed)
    add("mind", sliced, sliced_interval.bounds())
    if count > K_COVERAGE:
        found = manifolds(generated, real)
        for key in ("precision", "recall", "density", "coverage"):
            shares = np.asarray(getattr(found, key), dtype=np.float64)
            bounds = list(bootstrap_interval(shares, seed=seed, resamples=resamples))
            add(key, float(shares.mean()), bounds)
    else:
        notes.append(f"{count} samples: too few for precision, recall, density and coverage")
    result = {
        "name": called["frechet"],
        "value": value,
        "interval_95": interval.bounds(),
        "n_generated": len(generated),
        "n_real": len(real),
        "dimension": dimension,
        "kernel_name": called["kernel"],
        "kernel_value": kernel,
        "kernel_interval_95": kernel_interval.bounds(),
        "interval_over": "images",
        "lead": "kernel" if count < LEAD_FROM else "frechet",
        "metrics": metrics,
    }
    return {**result, "notes": notes} if notes else result
