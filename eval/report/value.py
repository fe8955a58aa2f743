"""One value of a metrics file, as a column of the paper's table asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = dict[str, Any]
"""A metrics file of eval.evaluate or eval.loss."""

RULES = ("last", "best-validation", "best-test")
RULE_NAMES = {
    "last": "last", "best-validation": "best on validation", "best-test": "best on the hold-out",
}  # fmt: skip
# The paper's metric -> ours that may be held against it: the same network, and trained.
COMPARABLE = {"FID": ("FID",), "LPIPS": ("LPIPS-alex", "LPIPS-vgg")}


def lead(distance: Mapping[str, Any]) -> tuple[str, dict[str, Any], float]:
    """(name, {value, interval_95, n}, scale) of a distance's leading figure."""
    kernel = distance["lead"] == "kernel"
    head = "kernel_" if kernel else ""
    cell = {
        "value": distance[f"{head}value"],
        "interval_95": distance.get(f"{head}interval_95"),
        "n": distance["n_generated"],
    }
    return distance[f"{head}name"], cell, 1000.0 if kernel else 1.0


def value_of(result: Result, task: str, metric: str) -> dict[str, Any]:
    """{measure, value, interval_95, n, comparable, holdout} of a result, scaled as it is shown.

    For FID it is ours where that is Inception's, and else the judge's leading figure. Generation is
    held against the informative hold-out, the nearest to the paper's "high-quality" images.
    """
    holdout = None
    if metric == "LPIPS":
        part = result["perceptual"]
        found = {"value": part["value"], "interval_95": part.get("interval_95"), "n": part["pairs"]}
        name, scale = part["name"], 1.0
    else:
        if task == "generation":
            held = result["holdouts"]
            holdout = "informative" if "informative" in held else next(iter(held))
            part = held[holdout]["distance"]
        else:
            part = result["distance"]
        if part["name"] in COMPARABLE["FID"]:
            part = {**part, "lead": "frechet"}
        name, found, scale = lead(part)
    interval = found["interval_95"]
    return {
        "measure": name + ("" if scale == 1 else f" x {scale:,.0f}"),
        "value": found["value"] * scale,
        "interval_95": [bound * scale for bound in interval] if interval else None,
        "n": found["n"],
        "comparable": name in COMPARABLE[metric],
        "holdout": holdout,
    }
