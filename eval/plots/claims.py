"""What the paper says of a figure, from its numbers (paper.yaml)."""

from __future__ import annotations

import functools
from typing import Any

import yaml

from eval.paper.numbers import PAPER


@functools.cache
def _cells() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = yaml.safe_load(PAPER.read_text(encoding="utf-8"))["cells"]
    return cells


def paper_cells(**wanted: Any) -> list[dict[str, Any]]:
    """The paper's cells that have these fields, in its order."""
    return [cell for cell in _cells() if wanted.items() <= cell.items()]
