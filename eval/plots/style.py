"""How figures look: readable at the width of a column, and for the colour-blind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from core.atomic import atomic_path
from eval.plots.palette import colour, marker, ratio_style
from eval.plots.read import OWN
from eval.programme.plan import Cell

COLUMN = 3.5
"""Width of a column in inches."""
_LOOK: Any = {
    "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 7.5, "legend.fontsize": 6.5,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.5,
    "axes.linewidth": 0.6, "legend.frameon": False, "pdf.fonttype": 42,
}  # fmt: skip


def panels(heights: list[float], *, below: float = 0.0) -> tuple[Figure, list[Any]]:
    """A figure one column wide with a panel of each height (inches), and room below for a legend.

    The note of the panel stands above it.
    """
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(COLUMN, sum(heights) + below), layout="constrained")
        rows = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        return figure, list(rows[:, 0])


def look(cell: Cell, ratios: Iterable[float]) -> dict[str, Any]:
    """Colour and marker of the method, line of the ratio; RS-Prune's line is thicker."""
    own = cell.method == OWN
    return {
        "color": colour(cell.method),
        "marker": marker(cell.method),
        "linestyle": ratio_style(cell.ratio, ratios) if cell.ratio else "-",
        "linewidth": 1.6 if own else 1.0,
        "markersize": 3.5,
        "zorder": 3 if own else 2,
    }


def legend(figure: Figure, axes: list[Any], names: dict[str, Any] | None = None) -> None:
    """One legend below all panels, each name once."""
    with matplotlib.rc_context(_LOOK):
        entries: dict[str, Any] = {}
        for axis in axes:
            for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
                entries.setdefault(name, handle)
        entries |= names or {}
        if entries:
            columns = 2 if max(map(len, entries)) < 32 else 1
            figure.legend(
                entries.values(), entries.keys(), loc="outside lower center", ncols=columns,
                handlelength=2.6, columnspacing=1.2, labelspacing=0.3,
            )  # fmt: skip


def note(axis: Any, text: str) -> None:
    """Small words above a panel, on what the paper says of it."""
    with matplotlib.rc_context(_LOOK):
        axis.text(
            1.0, 1.01, text, transform=axis.transAxes, ha="right", va="bottom", fontsize=6,
            color="#555555", style="italic",
        )  # fmt: skip


def thousands(axis: Any) -> None:
    """Training steps on an axis: whole numbers, with commas."""
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))


def save(figure: Figure, folder: Path, name: str) -> list[str]:
    """Write NAME.png (300 dpi) and NAME.pdf (vector), atomically; the same data, the same bytes."""
    with matplotlib.rc_context(_LOOK):
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with atomic_path(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=300, metadata=metadata)
    return [f"{name}.png", f"{name}.pdf"]
