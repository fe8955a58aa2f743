"""The paper's numbers (paper.yaml), each with the budget it was reached at. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from core.errors import UserError

PAPER = Path(__file__).with_name("paper.yaml")
METHOD_NAMES = {
    "rsprune": "RS-Prune", "random": "Random", "full": "Full", "entropy": "Stage I only",
}  # fmt: skip


def load_experiment(name: str) -> dict[str, Any]:
    """The experiment's rows with the paper's cells. Raises UserError for an unknown name."""
    paper = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    if name not in paper["experiments"]:
        raise UserError(f"unknown experiment '{name}'; known: {', '.join(paper['experiments'])}")
    return {**paper["experiments"][name], "cells": paper["cells"], "defaults": paper["defaults"]}


def paper_value(
    experiment: dict[str, Any], row: dict[str, Any], method: str
) -> dict[str, Any] | None:
    """The paper's cell for a row and method, or None where the paper has none."""
    wanted = {
        "table": row["table"],
        "corpus": experiment["corpus"],
        "method": method,
        "ratio": 0.0 if method == "full" else experiment["ratio"],
        "task": row["task"],
        "metric": row["metric"],
    }
    if method == "rsprune":  # the paper has one cell for each share that Stage I keeps
        wanted["subset"] = experiment["subset"]
    cells = (cell for cell in experiment["cells"] if wanted.items() <= cell.items())
    return next(cells, None)
