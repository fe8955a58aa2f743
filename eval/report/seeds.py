"""Several trainings of a method, from different seeds, in one cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.distances.bootstrap import over_seeds
from eval.report.config import run_name
from eval.report.measured import Row


def merge_seeds(rows: Sequence[Row], methods: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """The rows with one cell a method, where `cells` had one for each training.

    A cell's value is the mean over seeds; `interval_95` is over images (its ends averaged over the
    trainings), `over_seeds` the interval over trainings. `paired` holds, for each pair of methods
    and the seeds that both have, the differences seed by seed. Neither interval stands for the
    other. What the value is read beside is that of the first seed.
    """
    merged = []
    for row in rows:
        cells: dict[str, Any] = {}
        values: dict[str, dict[int, float]] = {}
        for method in methods:
            there = {seed: row["cells"].get(run_name(method, seed)) for seed in seeds}
            found = {seed: cell for seed, cell in there.items() if cell is not None}
            if not found:
                continue
            first = dict(next(iter(found.values())))
            values[method] = {seed: cell["value"] for seed, cell in found.items()}
            if len(found) > 1:
                first["value"] = sum(values[method].values()) / len(found)
                bounds = [cell.get("interval_95") for cell in found.values()]
                if all(bounds):
                    ends = zip(*bounds, strict=True)
                    first["interval_95"] = [sum(end) / len(found) for end in ends]
                first["over_seeds"] = over_seeds(list(values[method].values()))
            cells[method] = first
        paired = {}
        for a in values:
            for b in values:
                both = sorted(values[a].keys() & values[b].keys())
                if a < b and len(both) > 1:
                    mine, others = ([values[m][seed] for seed in both] for m in (a, b))
                    paired[f"{a} - {b}"] = over_seeds(mine, others)
        merged.append({**row, "cells": cells, **({"paired": paired} if paired else {})})
    return merged
