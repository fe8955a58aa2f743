"""Rows by names that a reader knows: the method, and what tells its families apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from eval.paper.numbers import METHOD_NAMES
from eval.programme.plan import Cell

_TELLING: tuple[Callable[[Cell], str], ...] = (
    lambda cell: f"{100 * cell.ratio:g} %",
    lambda cell: f"D{100 * cell.keep:g}",
    lambda cell: str((cell.paper or {}).get("reference", cell.reference)),
    lambda cell: f"K = {cell.clusters}",
    lambda cell: f"{cell.reduce} dimensions" if cell.reduce else "all dimensions",
)


def labelled(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells with a name for each row: 'RS-Prune, 85 %, D30' where ratio and share differ.

    Only those whose label is their own name on the command line are named anew.
    """
    return tuple(
        dataclasses.replace(cell, label=_label(cell, cells))
        if cell.name == f"{cell.corpus}/{cell.label}"
        else cell
        for cell in cells
    )


def _label(cell: Cell, cells: Sequence[Cell]) -> str:
    alike = [other for other in cells if (other.corpus, other.method) == (cell.corpus, cell.method)]
    words = [tell(cell) for tell in _TELLING if len({tell(other) for other in alike}) > 1]
    return ", ".join([METHOD_NAMES.get(cell.method, cell.method), *words])
