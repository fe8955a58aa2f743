"""Several trainings of a method, from different seeds, in one cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.distances.bootstrap import over_seeds
from eval.report.measured import Row


def merge_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows with one cell a family, where `cells` had one for each training.

    `paired` holds, for each pair of families and the seeds that both have, the differences seed by
    seed. What the value is read beside is that of the first seed.
    """
    merged = []
    for row in rows:
        trained: dict[str, dict[int, dict[str, Any]]] = {}
        for (family, seed), cell in row["cells"].items():
            trained.setdefault(family, {})[seed] = cell
        cells = {family: mean_of(found) for family, found in trained.items()}
        values = {
            family: {seed: cell["value"] for seed, cell in found.items()}
            for family, found in trained.items()
        }
        paired = [
            {"a": a, "b": b, **difference}
            for a in values
            for b in values
            if a < b and (difference := paired_difference(values[a], values[b])) is not None
        ]
        merged.append({**row, "cells": cells, **({"paired": paired} if paired else {})})
    return merged


def mean_of(found: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """One cell of several trainings' (seed -> cell): that of the first one, with the mean value.

    `interval_95` is over images (its ends averaged over the trainings), `over_seeds` the interval
    over trainings. Neither stands for the other.
    """
    merged = dict(next(iter(found.values())))
    if len(found) > 1:
        values = [cell["value"] for cell in found.values()]
        merged["value"] = sum(values) / len(values)
        bounds = [cell.get("interval_95") for cell in found.values()]
        merged["interval_95"] = None
        if all(bounds):
            merged["interval_95"] = [sum(end) / len(values) for end in zip(*bounds, strict=True)]
        merged["over_seeds"] = over_seeds(values)
    return merged


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, Any] | None:
    """The differences a - b of the seeds that both have; None where those are fewer than two."""
    both = sorted(a.keys() & b.keys())
    if len(both) < 2:
        return None
    return over_seeds([a[seed] for seed in both], [b[seed] for seed in both])
