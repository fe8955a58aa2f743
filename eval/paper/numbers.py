"""The paper's numbers (paper.yaml), each with the budget it was reached at. Light to import."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.errors import UserError

PAPER = Path(__file__).with_name("paper.yaml")
METHOD_NAMES = {
    "rsprune": "RS-Prune", "random": "Random", "full": "Full", "entropy": "Stage I only",
    "moderate": "Moderate-DS", "cluster-nearest": "Cluster-nearest", "dinov2": "DINOv2",
    "a2mae": "A2-MAE-style", "full-set": "Full-set clustering",
    "entropy-set": "Entropy-set clustering", "random-survivors": "Random among survivors",
}  # fmt: skip
CORPUS_NAMES = {"git10m": "Git-10M", "rs5m": "RS5M", "usa1m": "USA-1m"}

Cell = dict[str, Any]
"""One of the paper's values: table, corpus, method, ratio, subset, task, metric, value and, where
the paper states them, steps, checkpoint, reference, remark."""


@functools.cache
def _paper() -> dict[str, Any]:
    return dict(yaml.safe_load(PAPER.read_text(encoding="utf-8")))


def budget_defaults() -> dict[str, Any]:
    """What all of the paper's cells share, and what it leaves open."""
    return dict(_paper()["defaults"])


def paper_cells(table: str) -> tuple[Cell, ...]:
    """The paper's cells of 'Table 1' to 'Table 4', 'Figure 1c', 'Figure 3', 'Figure 4' or 'Text'.

    Raises UserError for another name.
    """
    cells = tuple(cell for cell in _paper()["cells"] if cell["table"] == table)
    if not cells:
        known = ", ".join(_paper()["counts"])
        raise UserError(f"the paper has no '{table}'; known: {known}")
    return cells


def paper_cell(
    cells: Sequence[Cell], family: Mapping[str, Any] | None, task: str, metric: str
) -> Cell | None:
    """The cell of a family, task and metric; None where the paper has none.

    Args:
        cells: of one table (`paper_cells`).
        family: the fields that all cells of the family have; None: of none.

    Raises UserError where the family's fields fit several cells.
    """
    if family is None:
        return None
    wanted = {**family, "task": task, "metric": metric}
    found = [cell for cell in cells if wanted.items() <= cell.items()]
    if len(found) > 1:
        values = ", ".join(str(cell["value"]) for cell in found)
        raise UserError(
            f"{dict(family)}: fits {len(found)} cells of {found[0]['table']} ({task}, {metric}: "
            f"{values}); name more of their fields (eval/paper/paper.yaml) in the grid"
        )
    return found[0] if found else None


def amount(value: Any) -> float | None:
    """A value as a number: 61.69, '10.5 million' and '2,100' are, 'about 50000' is not."""
    if isinstance(value, int | float):
        return float(value)
    words = str(value).replace(",", "").split()
    try:
        return float(words[0]) * {"": 1.0, "million": 1e6}[" ".join(words[1:])]
    except (ValueError, KeyError, IndexError):
        return None
